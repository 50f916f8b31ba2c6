"""A stand-in Telegram: the Bot API on loopback, spoken to by the unmodified python-telegram-bot.

server.py                  the whole: `TelegramServer`
people.py                  what people do
api.py methods.py          HTTP: the way of a call; one entry per method   parameters.py: forms and JSON
updates.py webhooks.py     what bots are told: by long polls, and by posts
state.py payloads.py       what there is; how Telegram writes it as JSON
messages.py rules.py       the life of messages; what they may hold   text.py parse_html.py parse_markdown.py
mentions.py                whom a message calls
limits.py faults.py        how often bots may call; what tests let go wrong
"""
