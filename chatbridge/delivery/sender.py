"""Makes the calls that a chat's rate limiter allows, one by one, and records in the outbox what came of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from chatbridge.delivery.chat import Chat, MessageContent
from chatbridge.delivery.clock import Clock
from chatbridge.delivery.errors import ChatError, OutcomeUnknown, Unreachable
from chatbridge.delivery.rate_limiter import Call, RateLimiter, Route
from chatbridge.delivery.streamed_message import StreamedMessage
from chatbridge.errors import StoreError
from chatbridge.texts import say

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK = 0.001
"""The shortest sleep in seconds: event loops wake up a little early, and asking again at once would not end."""

Counts = Counter[tuple[str, str]]
"""How many calls there were, by what was called ("send") and what came of it ("ok", "RateLimited"…)."""


class DeliveryRecord(Protocol):
    """Where it is recorded how far a final message has come; the outbox."""

    async def attempting(self, id: int, kind: Literal["send", "edit", "delete"], target: str) -> None: ...
    async def pending(self, id: int, error: str, doubtful: bool) -> None: ...
    async def delivered(self, id: int, message_id: str) -> None: ...
    async def failed(self, id: int, error: str, doubtful: bool) -> None: ...


@dataclass(eq=False, slots=True)
class FinalMessage(Call):
    """A message of a finished answer, with the row of the outbox that it comes from.

    `finished` is set once it is delivered or given up.
    """

    content: MessageContent = field(default_factory=lambda: MessageContent(""))
    reply_to: str | None = None
    nonce: str = ""
    language: str = "en"
    outbox_id: int = 0
    message_id: str = ""
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.formatted = self.content.plain is not None


class ChatSender:
    """One chat and its rate limiter. Works while there is something to do; each request starts it again."""

    def __init__(
        self, chat: Chat, limiter: RateLimiter, clock: Clock, record: DeliveryRecord, counts: Counts | None = None
    ) -> None:
        self.limiter = limiter
        self.order = asyncio.Lock()
        """Held from the end of an answer until its messages are queued."""
        self._chat = _Guarded(chat, limiter.limits.patience, Counter() if counts is None else counts)
        self._clock = clock
        self._record = record
        self._streamed: dict[str, StreamedMessage] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._calling: StreamedMessage | None = None
        self._called = asyncio.Event()
        self._closed = False

    def open(self, streamed: StreamedMessage) -> None:
        """An answer begins."""
        self._streamed[streamed.key] = streamed
        self.limiter.open(streamed.key, self._clock.time())
        self._wake()

    def touch(self, streamed: StreamedMessage) -> None:
        """There is more of it."""
        if self.limiter.touch(streamed.key):  # once for many words: they come faster than they can be shown
            self._wake()

    async def close(self, streamed: StreamedMessage) -> None:
        """No preview any more; a call that is under way is waited for, so that `streamed.message_ids` is complete."""
        self.limiter.close(streamed.key)
        while self._calling is streamed:
            await self._called.wait()

    def forget(self, streamed: StreamedMessage) -> None:
        """The answer's messages are queued; the next one may be shown."""
        self.limiter.forget(streamed.key)
        self._streamed.pop(streamed.key, None)
        self._wake()

    def send(self, messages: Sequence[FinalMessage]) -> None:
        """Deliver these, after what waits already."""
        self.limiter.add(*messages)
        self._wake()

    @property
    def work(self) -> asyncio.Task[None] | None:
        """What is under way, if anything is."""
        return None if self._task is None or self._task.done() else self._task

    def silent(self) -> bool:
        """Whether nobody needs this sender: its chat can have another one when it speaks again."""
        return self.work is None and not self.order.locked() and self.limiter.silent(self._clock.time())

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
            self._task = asyncio.create_task(self._work(), name=f"sender {self.limiter.chat}")

    async def _work(self) -> None:
        while (step := self.limiter.next(self._clock.time())) is not None:
            if isinstance(step, Call):
                await self._make(step)
            else:
                await self._wait_until(step)

    async def _wait_until(self, when: float) -> None:
        """Sleep, but not past a new request: it may be allowed earlier."""
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
        if isinstance(call, FinalMessage):
            await self._deliver(call)
        elif call.kind == "preview":
            await self._preview(call)
        else:
            error = await _error_of(self._chat.delete(call.target) if call.kind == "delete" else self._chat.typing())
            self.limiter.settle(call, self._clock.time(), error)

    async def _preview(self, call: Call) -> None:
        streamed = self._streamed[call.key]
        self._calling, self._called = streamed, asyncio.Event()
        more, error = True, None
        try:
            more = await streamed.step(self._chat)
        except ChatError as failed:
            error = failed
        finally:
            self._calling = None
            self._called.set()
        self.limiter.settle(call, self._clock.time(), error, streamed.route)
        if more:
            self.limiter.touch(call.key)

    async def _deliver(self, message: FinalMessage) -> None:
        error = await _error_of(self._attempt(message))
        self.limiter.settle(message, self._clock.time(), error)
        try:
            if message.state == "waiting":
                await self._record.pending(message.outbox_id, str(error), message.doubtful)
            elif message.state == "delivered":
                await self._record.delivered(message.outbox_id, message.message_id)
            else:
                log.error(
                    "chat %s: message %d was not delivered: %s", self.limiter.chat, message.outbox_id, message.error
                )
                await self._record.failed(message.outbox_id, message.error, message.doubtful)
        except StoreError as failed:
            log.error("chat %s: the outbox can't be written: %s", self.limiter.chat, failed)
        if message.state != "waiting":
            message.finished.set()

    async def _attempt(self, message: FinalMessage) -> None:
        kind = message.kind
        assert kind == "send" or kind == "edit" or kind == "delete"
        try:
            await self._record.attempting(message.outbox_id, kind, message.nonce if kind == "send" else message.target)
        except StoreError as error:
            raise Unreachable(f"the outbox can't be written: {error}") from error
        if kind == "delete":
            await self._chat.delete(message.target)
        elif kind == "edit":
            await self._chat.edit(message.target, self._content(message))
            message.message_id = message.target
        else:
            content = self._content(message)
            message.message_id = await self._chat.send(content, reply_to=message.reply_to, nonce=message.nonce)

    def _content(self, message: FinalMessage) -> MessageContent:
        content = message.content
        if message.variant == "plain":
            content = content.unformatted()
        elif message.variant == "error_notice":
            # By its number in the outbox: the same at each try. The service's words are for the log alone.
            reference = f"out-{message.outbox_id}"
            log.warning("[%s] chat %s: a part was refused: %s", reference, self.limiter.chat, message.error)
            notice = say(message.language, "part_refused")
            whole = f"{notice} {say(message.language, 'reference', reference=reference)}"
            limits = self.limiter.limits
            told = whole if limits.count(whole) <= limits.length else notice
            return MessageContent(told, ends_answer=content.ends_answer)
        if message.doubtful and message.kind == "send":
            content = content.with_note(say(message.language, "maybe_duplicate"), self.limiter.limits.count)
        return content


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

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        return await self._call("send", lambda: self._chat.send(content, reply_to=reply_to, nonce=nonce))

    async def edit(self, message_id: str, content: MessageContent) -> None:
        await self._call("edit", lambda: self._chat.edit(message_id, content))

    async def delete(self, message_id: str) -> None:
        await self._call("delete", lambda: self._chat.delete(message_id))

    async def typing(self) -> None:
        await self._call("typing", self._chat.typing)

    async def draft(self, draft_id: int, content: MessageContent) -> None:
        await self._call("draft", lambda: self._chat.draft(draft_id, content))

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
