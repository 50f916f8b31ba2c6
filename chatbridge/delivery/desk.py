"""All delivery of one bot: takes messages in, lets the bot answer them, and brings the answers to their chats.

A frontend turns its service's events into `Message`s for `accept`, and gives a `Chat` for each channel. Knows no
service; what it knows about a chat is in its `Limits`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatbridge.delivery.chat import Budget, Chat, Clock, Limits, LoopClock, Part, packed, unpacked
from chatbridge.delivery.gate import Deadlines, Gate
from chatbridge.delivery.line import Counts, Line, Outgoing
from chatbridge.delivery.parts import parts_of
from chatbridge.delivery.posting import LONG, Posting
from chatbridge.delivery.stream import stream
from chatbridge.dialogue import Answer, LiveTurn
from chatbridge.errors import ChatbridgeError, CommandError
from chatbridge.store import Inbox, KeptAnswer, Letter, NewLetter, Outbox, Received
from chatbridge.texts import pick_language, say
from chatbridge.types import Channel, Message

if TYPE_CHECKING:
    from chatbridge.bridge import Bot

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
"""How often the boxes are looked through for what `chatbridge queue retry` put back."""

SUSPECT = 2
"""A message that was being answered at so many crashes is answered while no other such message is: the one that ends
the program each time is then found out, and the others are not given up along with it."""


class Delivery:
    """A bot's inbox, outbox and chats. Use it as an async context manager, around the time that the service is there.

        async with Delivery(bot, open_chat, Limits(2000)) as delivery:
            await delivery.resume()           # connected: go on with what a crash or a shutdown left
            await delivery.accept(message)    # each message; it is stored when this returns

    open_chat: gives the `Chat` for a channel's id; called once for each. limits: of all chats, or of one by its id.
    budget: calls that the service allows in all chats together. drain: seconds that answers get to end when the
    context is left; the rest goes on at the next start. tries: so often a message is tried whose answering ended
    the program. keep_days: how long what was answered is remembered, so that it is not answered again.
    """

    def __init__(
        self,
        bot: Bot,
        open_chat: Callable[[str], Chat],
        limits: Limits | Callable[[str], Limits],
        *,
        budget: Budget | None = None,
        clock: Clock | None = None,
        drain: float = 10.0,
        tries: int = 5,
        keep_days: float = 14.0,
    ) -> None:
        self.bot = bot
        self.inbox = Inbox(bot.bridge.store)
        self.outbox = Outbox(bot.bridge.store)
        self.calls: Counts = Counter()
        """Every call that was made, by what it was and what came of it."""
        self._open_chat = open_chat
        self._limits = limits
        self._deadlines = Deadlines(budget)
        self._clock = clock or LoopClock()
        self._drain = drain
        self._tries = tries
        self._keep_days = keep_days
        self._lines: dict[str, Line] = {}
        self._orders: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._suspects = asyncio.Lock()
        self._received: set[int] = set()
        self._letters: dict[int, Outgoing] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        await self.outbox.prune(self._keep_days)
        await self.inbox.prune(self._keep_days)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        try:
            # A frontend that failed has no connection any more, and waiting would bring nothing.
            if kind is None or issubclass(kind, asyncio.CancelledError):
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._drain):
                        await self._settled()
        finally:
            for task in (unfinished := list(self._tasks)):
                task.cancel()
            for line in self._lines.values():
                await line.aclose()
            await asyncio.gather(*unfinished, return_exceptions=True)

    # --- what frontends call -----------------------------------------------------------------------------------

    async def accept(self, message: Message, *, mark: tuple[str, int] | None = None) -> bool:
        """Store a message and begin to answer it; False for one that was stored before.

        When this returns, the service may be told that the message has arrived. `mark`: a name and how far its
        messages are taken in by this one (an update's number, a channel's latest message), stored in the same moment;
        `self.inbox.marks` gives them back. Raises: StoreError; then the message is not stored.
        """
        received = await self.inbox.add(self.bot.name, message, mark)
        if received is None:
            return False
        self._take(received, again=False)
        return True

    async def resume(self) -> None:
        """Go on with everything that waits in the boxes; may be called again, after each reconnect."""
        letters = await self.outbox.open(self.bot.name)
        for channel in {letter.channel: None for letter in letters}:
            self._send(channel, [letter for letter in letters if letter.channel == channel])
        for received in await self.inbox.open(self.bot.name):
            self._take(received, again=True)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def answer(
        self, result: Answer | LiveTurn, channel: Channel, *, language: str = "en", reply_to: str | None = None
    ) -> None:
        """Bring to a chat what a button or a service's own command called forth; ends when it is delivered.

        Such a call is not stored before its answer is, since no service repeats one.
        """
        if isinstance(result, Answer):
            await self._say(channel.id, result.text, language, reply_to)
            return
        posting = Posting(self.line(channel.id).gate.limits, language=result.language, reply_to=reply_to)
        await self._stream(channel.id, result, posting)

    async def say(self, channel: Channel, text: str, *, language: str = "en", reply_to: str | None = None) -> None:
        """Send a text of our own, in Markdown; ends when it is delivered."""
        await self._say(channel.id, text, language, reply_to)

    @property
    def in_hand(self) -> int:
        """How many messages are being answered or wait for it."""
        return len(self._received)

    def line(self, channel: str) -> Line:
        """The one way to a chat."""
        if channel not in self._lines:
            limits = self._limits if isinstance(self._limits, Limits) else self._limits(channel)
            gate = Gate(channel, limits, self._deadlines)
            self._lines[channel] = Line(self._open_chat(channel), gate, self._clock, self.outbox, self.calls)
        return self._lines[channel]

    # --- one message -------------------------------------------------------------------------------------------

    def _take(self, received: Received, *, again: bool) -> None:
        if received.id in self._received or self._closing:
            return
        self._received.add(received.id)
        self._start(self._handle(received, again))

    async def _handle(self, received: Received, again: bool) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with self._orders[received.channel]:  # messages of a chat begin in their order
                    if received.attempts >= SUSPECT:
                        await stack.enter_async_context(self._suspects)
                    begun = await self.inbox.begin(received.id)
                    if begun is None or begun.message is None:
                        return
                    language = self._language(begun.message)
                    if begun.attempts > self._tries:
                        await self._bury(begun, language)
                        return
                    kept = None
                    if again:  # the program may have ended when the answer was there already, or its beginning
                        kept = await self.inbox.kept_answer(begun.bot, begun.channel, begun.service_id)
                    result = await self._result(begun.message, language, kept)
                await self._bring(begun, begun.message, language, result, before=kept.text if kept else "")
        except asyncio.CancelledError:
            await self.inbox.release(received.id)
            raise
        finally:
            self._received.discard(received.id)

    async def _result(self, message: Message, language: str, kept: KeptAnswer | None) -> str | LiveTurn | None:
        """What the bot does about the message; `str` is said at once."""
        if kept is not None:
            goes_on = kept.partial and kept.latest
            return self.bot.dialogue(message.channel).go_on(language) if goes_on else kept.text
        try:
            result = await self.bot.receive(message)
        except CommandError as error:
            return str(error)
        except ChatbridgeError as error:
            log.warning("channel %s: a message was not answered: %s", message.channel.id, error)
            return say(language, "trouble", why=error)
        except Exception:
            log.exception("channel %s: a message was not answered", message.channel.id)
            return say(language, "trouble_inside")
        return result.text if isinstance(result, Answer) else result

    async def _bring(
        self, received: Received, message: Message, language: str, result: str | LiveTurn | None, before: str
    ) -> None:
        if result is None:
            await self.inbox.finish(received.id)
            return
        line = self.line(received.channel)
        reply_to = message.id if message.channel.kind == "group" else None
        posting = Posting(
            line.gate.limits,
            language=language,
            reply_to=reply_to,
            live=received.live,
            remember=lambda live: self.inbox.show(received.id, live),
            before=before,
        )
        if isinstance(result, str):
            await self._finish(received.channel, result, posting, received.id)
            return
        await self._stream(received.channel, result, posting, received.id)

    async def _bury(self, received: Received, language: str) -> None:
        log.error("channel %s: message %s is given up", received.channel, received.service_id)
        await self.inbox.bury(received.id, f"answering it ended the program {self._tries} times")
        posting = Posting(self.line(received.channel).gate.limits, language=language, live=received.live)
        await self._finish(received.channel, say(language, "gave_up", count=self._tries), posting)

    def _language(self, message: Message) -> str:
        return pick_language(self.bot.effective(message.channel).language, message.language, message.text)

    # --- finished answers --------------------------------------------------------------------------------------

    async def _say(self, channel: str, text: str, language: str, reply_to: str | None) -> None:
        await self._finish(channel, text, Posting(self.line(channel).gate.limits, language=language, reply_to=reply_to))

    async def _stream(self, channel: str, turn: LiveTurn, posting: Posting, received: int | None = None) -> None:
        """Show an answer while it comes, finish it, and wait for its delivery."""
        letters = await stream(
            turn, self.line(channel), posting, lambda source: self._put(channel, source, posting, received)
        )
        for letter in letters:
            await letter.finished.wait()

    async def _finish(self, channel: str, source: str, posting: Posting, received: int | None = None) -> None:
        """Say what is there at once, and wait for its delivery."""
        async with self.line(channel).order:
            letters = await self._put(channel, source, posting, received)
        for letter in letters:
            await letter.finished.wait()

    async def _put(self, channel: str, source: str, posting: Posting, received: int | None) -> Sequence[Outgoing]:
        """Put a whole answer into the outbox, for the messages that show it already and as many more as it needs."""
        limits, language = posting.limits, posting.language
        if not source and posting.live:
            source = say(language, "stopped")
        if len(source) < LONG:
            parts = parts_of(source, limits, language)
        else:
            parts = await asyncio.to_thread(parts_of, source, limits, language)
        letters = []
        # Behind a message that somebody took away, the others would be in the wrong order: they come anew.
        live = posting.live[: posting.live.index("")] if "" in posting.live else posting.live
        for i, part in enumerate(parts):
            target = live[i] if i < len(live) and part.file is None else ""
            reply_to = None if i else posting.reply_to
            letters.append(NewLetter("edit" if target else "send", target, packed(part), reply_to))
        used = {letter.target for letter in letters}
        letters += [NewLetter("delete", target) for target in posting.live if target and target not in used]
        rows = await self.outbox.put(self.bot.name, channel, letters, language=language, received=received)
        return self._send(channel, rows)

    def _send(self, channel: str, rows: Iterable[Letter]) -> Sequence[Outgoing]:
        letters = [_outgoing(row) for row in rows if row.id not in self._letters]
        for letter in letters:
            self._letters[letter.row] = letter
        if letters:
            self.line(channel).send(letters)
            self._start(self._forget(letters))
        return letters

    async def _forget(self, letters: Sequence[Outgoing]) -> None:
        for letter in letters:
            await letter.finished.wait()
            del self._letters[letter.row]

    # --- tasks -------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bot %s: a message waits for the next start: %s", self.bot.name, error, exc_info=error)

    async def _settled(self) -> None:
        """Wait until everything that was begun has ended."""
        while work := [*self._tasks, *(task for line in self._lines.values() if (task := line.work) is not None)]:
            await asyncio.wait(work)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.resume()
            except ChatbridgeError as error:
                log.error("bot %s: the boxes can't be read: %s", self.bot.name, error)


def _outgoing(row: Letter) -> Outgoing:
    return Outgoing(
        row.kind,
        row.target,
        key=f"{row.created}",  # the same for all that was put there at once
        part=unpacked(row.part) if row.part else Part(""),
        doubtful=row.doubtful or (row.state == "attempting" and row.kind == "send"),
        reply_to=row.reply_to,
        nonce=row.nonce,
        language=row.language,
        row=row.id,
    )
