"""Brings answers to the chats of one bot: through the outbox, by one line for each chat, and minds what is under way.

Knows answers and chats; knows no inbox and no reason why something is said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from chatbridge.bots.reply import ReplyStream
from chatbridge.delivery.chat import Budget, Button, Chat, Clock, Limits, MessageContent, RateLimited, packed, unpacked
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.rate_limiter import Deadlines, Gate
from chatbridge.delivery.sender import TICK, Counts, Line, Outgoing
from chatbridge.delivery.stream import stream
from chatbridge.delivery.streamed_message import LONG, Posting
from chatbridge.store import NewOutboxMessage, Outbox, OutboxMessage
from chatbridge.texts import say

log = logging.getLogger(__name__)

NONCE_KEPT = 120.0
"""Seconds in which a service that is `idempotent` surely knows a nonce again; after that one more try may be one too
many, if the program was ended in the middle of the first."""


class Dispatch:
    """All lines of one bot, and the tasks that wait for them."""

    def __init__(
        self,
        bot: str,
        outbox: Outbox,
        open_chat: Callable[[str], Chat],
        limits: Limits | Callable[[str], Limits],
        budget: Budget | None,
        clock: Clock,
    ) -> None:
        self.calls: Counts = Counter()
        self.outbox = outbox
        self._bot = bot
        self._open_chat = open_chat
        self._limits = limits
        self._deadlines = Deadlines(budget)
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._live: dict[str, tuple[str, Posting, ReplyStream]] = {}
        self._letters: dict[int, Outgoing] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurried = asyncio.Event()

    @property
    def queued(self) -> int:
        """How many messages wait to be delivered."""
        return len(self._letters)

    def line(self, channel: str) -> Line:
        """The one way to a chat."""
        if channel not in self._lines:
            limits = self._limits if isinstance(self._limits, Limits) else self._limits(channel)
            gate = Gate(channel, limits, self._deadlines)
            self._lines[channel] = Line(self._open_chat(channel), gate, self._clock, self.outbox, self.calls)
        return self._lines[channel]

    def limits(self, channel: str) -> Limits:
        """What that chat takes."""
        return self.line(channel).gate.limits

    def live(self, channel: str, message_id: str) -> ReplyStream | None:
        """The answer on its way that a message, or a draft, shows."""
        for where, posting, turn in self._live.values():
            if where == channel and posting.is_shown_by(message_id):
                return turn
        return None

    @asynccontextmanager
    async def other_call(self) -> AsyncIterator[None]:
        """Wait until one more call is allowed that is no chat's, and count it."""
        meter, clock = self._deadlines.meter, self._clock
        while (when := max(self._deadlines.everywhere, meter.ready(clock.time()))) > clock.time():
            await clock.sleep(max(when - clock.time(), TICK))
        meter.begin()
        try:
            yield
        finally:
            meter.end(clock.time())

    def heed(self, penalty: RateLimited) -> None:
        """Keep all chats' calls back for as long as a global penalty says."""
        if penalty.scope == "global":
            self._deadlines.impose(self._clock.time(), penalty, "", "send")

    # --- answers -----------------------------------------------------------------------------------------------

    async def stream(
        self,
        channel: str,
        turn: ReplyStream,
        posting: Posting,
        received: int | None = None,
        buttons: Callable[[ReplyStream], tuple[Button, ...]] = lambda turn: (),
    ) -> None:
        """Show an answer while it comes, finish it with its buttons, and wait for its delivery."""

        async def finish(source: str) -> Sequence[Outgoing]:
            if not source and posting.live and not turn.superseded:
                source = say(posting.language, "stopped")
            if posting.withdrawn:
                source = ""
            return await self._put(channel, source, posting, received, buttons(turn), turn.node)

        self._live[posting.key] = (channel, posting, turn)
        try:
            letters = await stream(turn, self.line(channel), posting, finish)
        finally:
            del self._live[posting.key]
        for letter in letters:
            await letter.finished.wait()

    async def say(
        self,
        channel: str,
        source: str,
        posting: Posting,
        received: int | None = None,
        buttons: tuple[Button, ...] = (),
        node: int | None = None,
    ) -> str:
        """Say what is there at once, and wait for its delivery; the id of its last message, "" where it failed."""
        async with self.line(channel).order:
            letters = await self._put(channel, source, posting, received, buttons, node)
        for letter in letters:
            await letter.finished.wait()
        return letters[-1].message_id if letters else ""

    async def resume(self) -> None:
        """Deliver what waits in the outbox and is not in hand."""
        letters = await self.outbox.open(self._bot)
        for channel in {letter.channel: None for letter in letters}:
            self._send(channel, [letter for letter in letters if letter.channel == channel])

    async def _put(
        self,
        channel: str,
        source: str,
        posting: Posting,
        received: int | None,
        buttons: tuple[Button, ...],
        node: int | None,
    ) -> Sequence[Outgoing]:
        """Put a whole answer into the outbox, for the messages that show it already and as many more as it needs."""
        limits, language = posting.limits, posting.language
        if len(source) < LONG:
            parts = split_answer(source, limits, language, buttons)
        else:
            parts = await asyncio.to_thread(split_answer, source, limits, language, buttons)
        letters = []
        # Behind a message that somebody took away, the others would be in the wrong order: they come anew.
        live = posting.live[: posting.live.index("")] if "" in posting.live else posting.live
        for i, part in enumerate(parts):
            target = live[i] if i < len(live) and part.file is None else ""
            reply_to = None if i else posting.reply_to
            letters.append(NewOutboxMessage("edit" if target else "send", target, packed(part), reply_to, node))
        if posting.unsure:  # the first new one may be there already, with that nonce
            at = next((i for i, letter in enumerate(letters) if letter.kind == "send"), None)
            if at is not None:
                letters[at] = replace(letters[at], target=posting.unsure)
        used = {letter.target for letter in letters}
        letters += [NewOutboxMessage("delete", target) for target in posting.live if target and target not in used]
        rows = await self.outbox.put(self._bot, channel, letters, language=language, inbox_id=received)
        return self._send(channel, rows)

    def _send(self, channel: str, rows: Iterable[OutboxMessage]) -> Sequence[Outgoing]:
        """Let these go out."""
        limits = self.limits(channel)
        letters = [_outgoing(row, limits) for row in rows if row.id not in self._letters]
        for letter in letters:
            self._letters[letter.row] = letter
        if letters:
            self.line(channel).send(letters)
            self.start(self._forget(letters))
        return letters

    async def _forget(self, letters: Sequence[Outgoing]) -> None:
        for letter in letters:
            await letter.finished.wait()
            del self._letters[letter.row]

    # --- tasks -------------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Work on something beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def aclose(self, seconds: float) -> None:
        """Wait so long until all that was begun has ended, then stop the rest."""
        try:
            if seconds:
                waits = [asyncio.ensure_future(self.settled()), asyncio.ensure_future(self._hurried.wait())]
                try:
                    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
        finally:
            for task in (unfinished := list(self._tasks)):
                task.cancel()
            for line in self._lines.values():
                await line.aclose()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def hurry(self) -> None:
        """End the waiting of `aclose`."""
        self._hurried.set()

    async def settled(self) -> None:
        """Wait until all that was begun has ended."""
        while work := [*self._tasks, *(task for line in self._lines.values() if (task := line.work) is not None)]:
            await asyncio.wait(work)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bot %s: a message waits for the next start: %s", self._bot, error, exc_info=error)


def _outgoing(row: OutboxMessage, limits: Limits) -> Outgoing:
    known = limits.idempotent and time.time() - row.created < NONCE_KEPT
    return Outgoing(
        row.kind,
        "" if row.kind == "send" else row.target,
        key=f"{row.created}",  # the same for all that was put there at once
        part=unpacked(row.content) if row.content else MessageContent(""),
        doubtful=row.doubtful or (row.state == "attempting" and row.kind == "send" and not known),
        reply_to=row.reply_to,
        nonce=row.nonce,
        language=row.language,
        row=row.id,
    )
