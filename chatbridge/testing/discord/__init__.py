"""A stand-in Discord: REST and gateway on loopback, spoken to by the unmodified discord.py.

server.py                the whole: `DiscordServer`
people.py invocation.py  what people do, and what their clients send
api.py routes.py         HTTP: the way of a call; rest_*.py: one function per route
gateway.py sessions.py   the WebSocket: heartbeats and op codes; what each bot is told   compression.py
state.py payloads.py     what there is; how Discord writes it as JSON   events.py: whom it tells
messages.py channels.py commands.py interactions.py content.py permissions.py   Discord's rules, without sockets
limits.py faults.py      how often bots may call; what tests let go wrong
"""
