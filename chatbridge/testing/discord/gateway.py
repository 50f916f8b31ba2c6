"""The gateway: one WebSocket per bot (or shard), heartbeats, IDENTIFY and RESUME, and all that can go wrong with it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable

from chatbridge.testing.discord.compression import compressor
from chatbridge.testing.discord.sessions import (
    BAD_JSON,
    BAD_OPCODE,
    BAD_SEQUENCE,
    ENDING,
    NOT_IN,
    TIMED_OUT,
    TOO_FAST,
    TWICE,
    BadIdentify,
    Session,
    identified,
)
from chatbridge.testing.discord.state import Bot, Event, Json, World
from chatbridge.testing.wire.calls import Call, Calls
from chatbridge.testing.wire.changes import Changes
from chatbridge.testing.wire.forms import parse_json
from chatbridge.testing.wire.http import Request, Upgrade
from chatbridge.testing.wire.websocket import WebSocket, upgrade

DISPATCH, HEARTBEAT, IDENTIFY, PRESENCE, VOICE, RESUME = 0, 1, 2, 3, 4, 6
RECONNECT, REQUEST_MEMBERS, INVALID_SESSION, HELLO, ACK = 7, 8, 9, 10, 11
_NAMES = {IDENTIFY: "IDENTIFY", PRESENCE: "PRESENCE", VOICE: "VOICE", RESUME: "RESUME", REQUEST_MEMBERS: "MEMBERS"}
_MAX_SENT, _SENT_SECONDS = 120, 60


class Gateway:
    """All connections of bots. Its methods make trouble, at once, for every connection (or for one bot's).

    IDENTIFY, RESUME and their like are in the record of calls as `GATEWAY IDENTIFY`; heartbeats only counted.
    """

    def __init__(self, world: World, calls: Calls, changes: Changes, heartbeat_interval: float) -> None:
        self._world, self._calls, self._changes = world, calls, changes
        self.heartbeat_interval = heartbeat_interval
        self.heartbeats = 0
        self.url = ""
        self.sessions: dict[str, Session] = {}
        self._connections: list[_Connection] = []
        world.listeners.append(self._hear)

    def _hear(self, event: Event) -> None:
        for session in tuple(self.sessions.values()):
            session.hear(event)

    def accept(self, request: Request) -> Upgrade:
        """A new connection; refused where it asks for a compression that is not known."""
        pack = compressor(request.query.get("compress", ""))

        async def serve(socket: WebSocket) -> None:
            connection = _Connection(self, self._world, socket, pack)
            self._connections.append(connection)
            try:
                await connection.serve()
            finally:
                self._connections.remove(connection)
                self._changes.tell()

        return upgrade(request, serve)

    def record(self, name: str, connection: _Connection, params: Json) -> None:
        """Put what a bot has sent into the record of calls, but for its token."""
        bot = connection.session.bot.user.name if connection.session else ""
        told = {key: value for key, value in params.items() if key != "token"}
        call = self._calls.begin(Call(f"GATEWAY {name}", bot, self._world.clock(), told))
        self._calls.end(call, self._world.clock(), 101, None)

    def connected(self, bot: Bot | None = None) -> int:
        """How many connections have a session, of one bot or of all."""
        return len(self._of(bot))

    async def until_connected(self, bot: Bot | None = None, *, within: float = 60) -> None:
        """Wait until a bot has identified or resumed."""
        await self._changes.until(lambda: self.connected(bot), within=within, what="a bot to connect to the gateway")

    async def until_gone(self, bot: Bot | None = None, *, within: float = 60) -> None:
        """Wait until no connection has a session."""
        await self._changes.until(lambda: not self.connected(bot), within=within, what="the bots to leave the gateway")

    def beat(self) -> None:
        """Count a heartbeat."""
        self.heartbeats += 1
        self._changes.tell()

    async def until_heartbeats(self, count: int, *, within: float = 60) -> None:
        """Wait until bots have sent so many heartbeats in all."""
        await self._changes.until(lambda: self.heartbeats >= count, within=within, what=f"{count} heartbeats")

    def _of(self, bot: Bot | None) -> list[_Connection]:
        with_session = [found for found in self._connections if found.session and found.session.write is not None]
        return [found for found in with_session if bot is None or (found.session and found.session.bot is bot)]

    def ask_to_reconnect(self, bot: Bot | None = None) -> None:
        """Op 7: bots are to connect anew, and to resume."""
        self._each(bot, lambda connection: connection.send(RECONNECT, None))

    def invalidate(self, bot: Bot | None = None, *, resumable: bool = False) -> None:
        """Op 9: the session is over, or (`resumable`) worth a resume."""
        for connection in self._of(bot):
            if not resumable and connection.session:
                self.sessions.pop(connection.session.id, None)
            connection.send(INVALID_SESSION, resumable)

    def close(self, code: int = 4000, bot: Bot | None = None) -> None:
        """Close with a code; those in `ENDING` end the session, others leave it to be resumed."""
        self._each(bot, lambda connection: connection.close(code, ""))

    def drop(self, bot: Bot | None = None) -> None:
        """The connection is reset. Sessions can be resumed."""
        self._each(bot, lambda connection: connection.drop())

    def forget_sessions(self) -> None:
        """No session can be resumed any more: the next RESUME is answered with op 9."""
        for session in self.sessions.values():
            session.resumable = False

    def zombie(self, bot: Bot | None = None) -> None:
        """The connection stays open, but nothing goes through it any more, in either direction."""
        self._each(bot, lambda connection: connection.mute())

    def malformed(self, bot: Bot | None = None) -> None:
        """An event without the fields that it should have."""
        for connection in self._of(bot):
            if connection.session:
                connection.session.dispatch("MESSAGE_CREATE", {"id": "1"})

    def nested(self, bot: Bot | None = None, *, depth: int = 100_000) -> None:
        """An event that is nested so deep: too deep for any Python's parser."""
        for connection in self._of(bot):
            if connection.session:
                connection.session.dispatch_text("MESSAGE_CREATE", "[" * depth + "]" * depth)

    def _each(self, bot: Bot | None, do: Callable[[_Connection], None]) -> None:
        for connection in self._of(bot):
            do(connection)


class _Connection:
    def __init__(self, gateway: Gateway, world: World, socket: WebSocket, pack: Callable[[str], str | bytes]) -> None:
        self._gateway, self._world, self._socket = gateway, world, socket
        self._pack = pack
        self._muted = False
        self._sent: deque[float] = deque(maxlen=_MAX_SENT)
        self.session: Session | None = None

    def send(self, op: int, data: object) -> None:
        self._write(json.dumps({"op": op, "d": data, "s": None, "t": None}))

    def _write(self, text: str) -> None:
        if not self._muted:
            self._socket.send(self._pack(text))

    def close(self, code: int, reason: str) -> None:
        if self.session and code in ENDING:
            self._gateway.sessions.pop(self.session.id, None)
        self._leave()
        self._socket.close(code, reason)

    def drop(self) -> None:
        self._leave()
        self._socket.drop()

    def mute(self) -> None:
        self._muted = True

    def _leave(self) -> None:
        if self.session is not None and self.session.write == self._write:
            self.session.write = None

    async def serve(self) -> None:
        """Until the connection ends, or has no heartbeat for two intervals."""
        interval = self._gateway.heartbeat_interval
        self.send(HELLO, {"heartbeat_interval": round(interval * 1000), "_trace": []})
        beat = asyncio.get_running_loop().time()
        try:
            while True:
                try:
                    async with asyncio.timeout_at(None if self._muted else beat + 2 * interval):
                        text = await self._socket.receive()
                except TimeoutError:
                    if not self._muted:
                        self.close(TIMED_OUT, "Session timed out.")
                        beat = float("inf")
                    continue
                if text is None:
                    break
                if not self._muted and self._received(text):
                    beat = asyncio.get_running_loop().time()
        finally:
            if self.session and self._socket.close_code in (1000, 1001):
                self._gateway.sessions.pop(self.session.id, None)
            self._leave()

    def _received(self, text: str) -> bool:
        """Act on one message; whether it was a heartbeat."""
        now = self._world.clock()
        if len(self._sent) == _MAX_SENT and now - self._sent[0] < _SENT_SECONDS:
            self.close(TOO_FAST, "Rate limited.")
            return False
        self._sent.append(now)
        try:
            message = parse_json(text)
            op, data = message["op"], message.get("d")
        except (ValueError, KeyError, TypeError):
            self.close(BAD_JSON, "Error while decoding payload.")
            return False
        if op == HEARTBEAT:
            self.send(ACK, None)
            self._gateway.beat()
        elif op == IDENTIFY:
            self._identify(data)
        elif op == RESUME:
            self._resume(data)
        elif op not in _NAMES:
            self.close(BAD_OPCODE, "Unknown opcode.")
        elif self.session is None:
            self.close(NOT_IN, "Not authenticated.")
        else:
            self._gateway.record(_NAMES[op], self, data)
            if op == REQUEST_MEMBERS:
                self.session.dispatch("GUILD_MEMBERS_CHUNK", self.session.members_chunk(data))
        return bool(op == HEARTBEAT)

    def _identify(self, asked: Json) -> None:
        if self.session is not None:
            self.close(TWICE, "Already authenticated.")
            return
        try:
            self.session = identified(self._world, asked, self._gateway.url)
        except BadIdentify as bad:
            self._gateway.record("IDENTIFY", self, asked)
            self.close(bad.code, bad.reason)
            return
        self._gateway.sessions[self.session.id] = self.session
        self.session.write = self._write
        self.session.greet()
        self._gateway.record("IDENTIFY", self, asked)

    def _resume(self, asked: Json) -> None:
        session = self._gateway.sessions.get(str(asked.get("session_id")))
        known = session is not None and session.resumable and session.bot.token == asked.get("token")
        sequence = int(asked.get("seq") or 0)
        missed = session.replay(sequence) if session and known else None
        if session is None or missed is None:
            self._gateway.record("RESUME", self, asked)
            self.send(INVALID_SESSION, False)
            return
        if sequence > session.sequence:
            self.session = session
            self.close(BAD_SEQUENCE, "Invalid seq.")
            return
        self.session = session
        session.write = self._write
        for text in missed:
            self._write(text)
        session.dispatch("RESUMED", {"_trace": []})
        self._gateway.record("RESUME", self, asked)
