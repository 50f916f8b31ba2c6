"""Makes the calls that a chat's gate allows, one after another, and notes in the outbox what came of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from chatbridge.delivery.chat import Chat, ChatError, Clock, MessageContent, OutcomeUnknown, Unreachable
from chatbridge.delivery.rate_limiter import Call, Gate, Route
from chatbridge.delivery.streamed_message import Posting
from chatbridge.errors import StoreError
from chatbridge.texts import say

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK = 0.001
"""The shortest sleep in seconds: event loops wake up a little early, and asking again at once would not end."""

Counts = Counter[tuple[str, str]]
"""How many calls there were, by what was called ("send") and what came of it ("ok", "RateLimited"…)."""


class Record(Protocol):
    """Where it is noted how far a letter has come; the outbox."""

    async def attempting(self, id: int, kind: Literal["send", "edit", "delete"], target: str) -> None: ...
    async def pending(self, id: int, error: str, doubtful: bool) -> None: ...
    async def delivered(self, id: int, message_id: str) -> None: ...
    async def failed(self, id: int, error: str, doubtful: bool) -> None: ...


@dataclass(eq=False, slots=True)
class Outgoing(Call):
    """A message of a finished answer. `row`: its number in the outbox. `finished` is set when `state` is final."""

    part: MessageContent = field(default_factory=lambda: MessageContent(""))
    reply_to: str | None = None
    nonce: str = ""
    language: str = "en"
    row: int = 0
    message_id: str = ""
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.formatted = self.part.plain is not None


class Line:
    """One chat and its gate. Works while there is something to do; each call starts it again."""

    def __init__(self, chat: Chat, gate: Gate, clock: Clock, record: Record, counts: Counts | None = None) -> None:
        self.gate = gate
        self.order = asyncio.Lock()
        """Held from the end of an answer until its messages are queued."""
        self._chat = _Guarded(chat, gate.limits.patience, Counter() if counts is None else counts)
        self._clock = clock
        self._record = record
        self._postings: dict[str, Posting] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._calling: Posting | None = None
        self._called = asyncio.Event()
        self._closed = False

    def open(self, posting: Posting) -> None:
        """An answer begins."""
        self._postings[posting.key] = posting
        self.gate.open(posting.key, self._clock.time())
        self._wake()

    def touch(self, posting: Posting) -> None:
        """There is more of it."""
        if self.gate.touch(posting.key):  # once for many words: they come faster than they can be shown
            self._wake()

    async def close(self, posting: Posting) -> None:
        """No preview any more; a call that is under way is waited for, so that `posting.live` is complete."""
        self.gate.close(posting.key)
        while self._calling is posting:
            await self._called.wait()

    def forget(self, posting: Posting) -> None:
        """The answer's messages are queued; the next one may be shown."""
        self.gate.forget(posting.key)
        self._postings.pop(posting.key, None)
        self._wake()

    def send(self, letters: Sequence[Outgoing]) -> None:
        """Deliver these, after whatever waits already."""
        self.gate.add(*letters)
        self._wake()

    @property
    def work(self) -> asyncio.Task[None] | None:
        """What is under way, if anything is."""
        return None if self._task is None or self._task.done() else self._task

    async def aclose(self) -> None:
        """Stop, also in the middle of a call."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- the work ----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._woken.set()
        if not self._closed and self.work is None:
            self._task = asyncio.create_task(self._work(), name=f"line {self.gate.chat}")

    async def _work(self) -> None:
        while (step := self.gate.next(self._clock.time())) is not None:
            if isinstance(step, Call):
                await self._make(step)
            else:
                await self._wait_until(step)

    async def _wait_until(self, when: float) -> None:
        """Sleep, but not past a new wish: it may be allowed earlier."""
        self._woken.clear()
        tasks = {
            asyncio.ensure_future(self._woken.wait()),
            asyncio.ensure_future(self._clock.sleep(max(when - self._clock.time(), TICK))),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _make(self, call: Call) -> None:
        if isinstance(call, Outgoing):
            await self._deliver(call)
        elif call.kind == "preview":
            await self._preview(call)
        else:
            error = await _error_of(self._chat.delete(call.target) if call.kind == "delete" else self._chat.typing())
            self.gate.settle(call, self._clock.time(), error)

    async def _preview(self, call: Call) -> None:
        posting = self._postings[call.key]
        self._calling, self._called = posting, asyncio.Event()
        more, error = False, None
        try:
            more = await posting.step(self._chat)
        except ChatError as failed:
            error = failed
        finally:
            self._calling = None
            self._called.set()
        self.gate.settle(call, self._clock.time(), error, posting.route)
        if more or error is not None:
            self.gate.touch(call.key)

    async def _deliver(self, letter: Outgoing) -> None:
        error = await _error_of(self._attempt(letter))
        self.gate.settle(letter, self._clock.time(), error)
        try:
            if letter.state == "waiting":
                await self._record.pending(letter.row, str(error or ""), letter.doubtful)
            elif letter.state == "delivered":
                await self._record.delivered(letter.row, letter.message_id)
            else:
                log.error("chat %s: message %d was not delivered: %s", self.gate.chat, letter.row, letter.error)
                await self._record.failed(letter.row, letter.error, letter.doubtful)
        except StoreError as failed:
            log.error("chat %s: the outbox can't be written: %s", self.gate.chat, failed)
        if letter.state != "waiting":
            letter.finished.set()

    async def _attempt(self, letter: Outgoing) -> None:
        kind = letter.kind
        assert kind == "send" or kind == "edit" or kind == "delete"
        try:
            await self._record.attempting(letter.row, kind, letter.nonce if kind == "send" else letter.target)
        except StoreError as error:
            raise Unreachable(f"the outbox can't be written: {error}") from error
        if kind == "delete":
            await self._chat.delete(letter.target)
        elif kind == "edit":
            await self._chat.edit(letter.target, self._content(letter))
            letter.message_id = letter.target
        else:
            part = self._content(letter)
            letter.message_id = await self._chat.send(part, reply_to=letter.reply_to, nonce=letter.nonce)

    def _content(self, letter: Outgoing) -> MessageContent:
        part = letter.part
        if letter.content == "plain":
            part = part.unformatted()
        elif letter.content == "apology":
            limits = self.gate.limits
            room = limits.length - limits.count(say(letter.language, "part_refused", why=""))
            why = letter.error[: min(200, room // 2)]  # a character counts two at most, in any service's way
            return MessageContent(say(letter.language, "part_refused", why=why), last=part.last)
        if letter.doubtful and letter.kind == "send":
            part = part.marked(say(letter.language, "maybe_duplicate"), self.gate.limits.count)
        return part


async def _error_of(call: Awaitable[object]) -> ChatError | None:
    try:
        await call
    except ChatError as error:
        return error
    return None


class _Guarded:
    """A chat whose calls end in time, fail by a ChatError or not at all, and are counted."""

    def __init__(self, chat: Chat, patience: float, counts: Counts) -> None:
        self._chat = chat
        self._patience = patience
        self._counts = counts

    async def send(self, part: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        return await self._call("send", lambda: self._chat.send(part, reply_to=reply_to, nonce=nonce))

    async def edit(self, message_id: str, part: MessageContent) -> None:
        await self._call("edit", lambda: self._chat.edit(message_id, part))

    async def delete(self, message_id: str) -> None:
        await self._call("delete", lambda: self._chat.delete(message_id))

    async def typing(self) -> None:
        await self._call("typing", self._chat.typing)

    async def draft(self, draft_id: int, part: MessageContent) -> None:
        await self._call("draft", lambda: self._chat.draft(draft_id, part))

    async def _call(self, route: Route, make: Callable[[], Awaitable[T]]) -> T:
        outcome = "cancelled"
        try:
            async with asyncio.timeout(self._patience):
                result = await make()
            outcome = "ok"
        except ChatError as error:
            outcome = type(error).__name__
            raise
        except TimeoutError as error:
            outcome = "timeout"
            raise OutcomeUnknown(f"no answer within {self._patience:g} s") from error
        except Exception as error:
            outcome = type(error).__name__
            log.exception("a call to the chat service failed in a way that the frontend does not know")
            raise OutcomeUnknown(f"{type(error).__name__}: {error}") from error
        finally:
            self._counts[route, outcome] += 1
        return result
