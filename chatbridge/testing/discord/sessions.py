"""Sessions of the gateway: what each bot is told, numbered and kept for a resume. Knows no socket."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

from chatbridge.testing.discord.events import ALL_INTENTS, GUILD_MEMBERS, MESSAGE_CONTENT, PRESENCES
from chatbridge.testing.discord.payloads import application_flags, guild_json, member_json, user_json
from chatbridge.testing.discord.permissions import permissions
from chatbridge.testing.discord.state import Bot, Channel, Event, Guild, Json, World

KEPT = 2_000
"""How many events a session keeps for a resume."""

UNKNOWN, BAD_OPCODE, BAD_JSON, NOT_IN, BAD_TOKEN, TWICE = 4000, 4001, 4002, 4003, 4004, 4005
BAD_SEQUENCE, TOO_FAST, TIMED_OUT, BAD_SHARD, BAD_INTENTS, DISALLOWED = 4007, 4008, 4009, 4010, 4013, 4014
ENDING = frozenset({1000, 1001, BAD_SEQUENCE, TIMED_OUT})
"""A session that was closed with one of these can't be resumed."""


class BadIdentify(Exception):
    """An IDENTIFY that closes the connection; `code` says with what."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Session:
    """What one bot (or one shard of it) has been told since it identified. `write` is its connection, if it has one."""

    def __init__(self, world: World, bot: Bot, intents: int, shard: tuple[int, int], gateway_url: str) -> None:
        self._world = world
        self._gateway_url = gateway_url
        self._kept: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self.id = f"session{world.new_id()}"
        self.bot, self.intents, self.shard = bot, intents, shard
        self.sequence = 0
        self.resumable = True
        self.write: Callable[[str], None] | None = None

    def greet(self) -> None:
        """READY, and a GUILD_CREATE for every guild of this shard."""
        bot = self.bot
        guilds = [guild for guild in self._world.guilds.values() if self._concerns(guild)]
        self.dispatch(
            "READY",
            {
                "v": 10,
                "user": user_json(bot.user) | {"verified": True, "mfa_enabled": False, "email": None},
                "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
                "session_id": self.id,
                "resume_gateway_url": self._gateway_url,
                "shard": list(self.shard),
                "application": {"id": str(bot.application_id), "flags": application_flags(bot)},
            },
        )
        for guild in guilds:
            self.dispatch("GUILD_CREATE", guild_json(guild, bot, presences=bool(self.intents & PRESENCES)))

    def _concerns(self, place: Guild | Channel) -> bool:
        shard, shards = self.shard
        if isinstance(place, Guild):
            return self.bot.user.id in place.members and (place.id >> 22) % shards == shard
        return self.bot.user in place.recipients and shard == 0

    def hear(self, event: Event) -> None:
        """Dispatch an event, if this bot may be told of it and asked to be."""
        if event.intent & ~self.intents or not self._concerns(event.place):
            return
        if event.channel is not None and not permissions(self.bot.user, event.channel):
            return
        payload = event.payload(self.bot, self.intents)
        if payload is not None:
            self.dispatch(event.name, payload)

    def dispatch(self, name: str, payload: Json) -> None:
        """Number an event, keep it, and send it where there is a connection."""
        self.dispatch_text(name, json.dumps(payload))

    def dispatch_text(self, name: str, payload: str) -> None:
        """The same for what is JSON already."""
        self.sequence += 1
        text = f'{{"op": 0, "t": {json.dumps(name)}, "s": {self.sequence}, "d": {payload}}}'
        self._kept.append((self.sequence, text))
        if self.write is not None:
            self.write(text)

    def replay(self, after: int) -> list[str] | None:
        """What came after this number; None where that is no longer kept."""
        if after < self.sequence - len(self._kept):
            return None
        return [text for number, text in self._kept if number > after]

    def members_chunk(self, asked: Json) -> Json:
        """GUILD_MEMBERS_CHUNK: members by id, or by how their names begin."""
        guild = self._world.guild(asked["guild_id"])
        ids = {str(number) for number in _listed(asked.get("user_ids"))}
        start, limit = str(asked.get("query") or "").lower(), int(asked.get("limit") or 0)
        if ids:
            found = [member for member in guild.members.values() if str(member.user.id) in ids]
        elif start or self.intents & GUILD_MEMBERS:
            found = [member for member in guild.members.values() if member.user.name.lower().startswith(start)]
        else:
            found = []
        chunk: Json = {
            "guild_id": str(guild.id),
            "members": [member_json(member) for member in (found[:limit] if limit else found)],
            "chunk_index": 0,
            "chunk_count": 1,
            "not_found": sorted(ids - {str(member.user.id) for member in found}),
        }
        return chunk | ({"nonce": asked["nonce"]} if asked.get("nonce") else {})


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def identified(world: World, asked: Json, gateway_url: str) -> Session:
    """The session that an IDENTIFY begins, or BadIdentify."""
    bot = world.bots.get(str(asked.get("token")))
    if bot is None:
        raise BadIdentify(BAD_TOKEN, "Authentication failed.")
    intents = int(asked.get("intents", -1))
    if not 0 <= intents <= ALL_INTENTS or intents & ~ALL_INTENTS:
        raise BadIdentify(BAD_INTENTS, "Invalid intent(s).")
    allowed = GUILD_MEMBERS * bot.server_members | PRESENCES * bot.presences | MESSAGE_CONTENT * bot.message_content
    if intents & (GUILD_MEMBERS | PRESENCES | MESSAGE_CONTENT) & ~allowed:
        raise BadIdentify(DISALLOWED, "Disallowed intent(s).")
    shard, shards = asked.get("shard") or (0, 1)
    if not 0 <= shard < shards:
        raise BadIdentify(BAD_SHARD, "Invalid shard.")
    return Session(world, bot, intents, (shard, shards), gateway_url)
