"""Brings answers to the chats of one bot: through the outbox, by one sender for each chat.

Knows answers and chats; knows no inbox and no reason why something is said.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from chatbridge.bots.reply import ReplyStream
from chatbridge.delivery.chat import Budget, Button, Chat, Limits, MessageContent
from chatbridge.delivery.clock import Clock
from chatbridge.delivery.content_json import check_json, from_json, to_json
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.errors import RateLimited
from chatbridge.delivery.rate_limiter import Cooldowns, RateLimiter
from chatbridge.delivery.sender import TICK, ChatSender, Counts, FinalMessage
from chatbridge.delivery.stream import stream
from chatbridge.delivery.streamed_message import LONG, StreamedMessage
from chatbridge.delivery.tasks import Tasks
from chatbridge.store import NewOutboxMessage, Outbox, OutboxMessage
from chatbridge.texts import say

NONCE_LIFETIME = 120.0
"""How many seconds a service that is `idempotent` surely remembers a nonce. After that, sending again may leave a
second message, if the program was ended in the middle of the first try."""


class OutboxSender:
    """The senders of all chats of one bot, and the messages of the outbox that are in hand."""

    def __init__(
        self,
        bot: str,
        outbox: Outbox,
        open_chat: Callable[[str], Chat],
        limits: Limits | Callable[[str], Limits],
        budget: Budget | None,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self.calls: Counts = Counter()
        self.outbox = outbox
        self._bot = bot
        self._open_chat = open_chat
        self._limits = limits
        self._cooldowns = Cooldowns(budget)
        self._clock = clock
        self._senders: dict[str, ChatSender] = {}
        self._tasks = tasks
        self._running: dict[str, tuple[str, StreamedMessage, ReplyStream]] = {}
        self._in_hand: dict[int, FinalMessage] = {}

    @property
    def queued(self) -> int:
        """How many messages wait to be delivered."""
        return len(self._in_hand)

    def sender(self, channel: str) -> ChatSender:
        """The one way to a chat."""
        if channel not in self._senders:
            limits = self._limits if isinstance(self._limits, Limits) else self._limits(channel)
            limiter = RateLimiter(channel, limits, self._cooldowns)
            self._senders[channel] = ChatSender(self._open_chat(channel), limiter, self._clock, self.outbox, self.calls)
        return self._senders[channel]

    def forget_silent(self) -> None:
        """Let go of the senders of chats in which nothing goes on."""
        for channel in [channel for channel, sender in self._senders.items() if sender.silent()]:
            del self._senders[channel]

    def limits(self, channel: str) -> Limits:
        """What that chat takes."""
        return self.sender(channel).limiter.limits

    def reply_shown_by(self, channel: str, message_id: str) -> ReplyStream | None:
        """The reply being written that a message, or a draft, shows."""
        for where, streamed, reply in self._running.values():
            if where == channel and streamed.is_shown_by(message_id):
                return reply
        return None

    @asynccontextmanager
    async def other_call(self) -> AsyncIterator[None]:
        """Wait until one more call is allowed that is no chat's, and count it."""
        window, clock = self._cooldowns.window, self._clock
        while (when := max(self._cooldowns.everywhere, window.ready(clock.time()))) > clock.time():
            await clock.sleep(max(when - clock.time(), TICK))
        window.begin()
        try:
            yield
        finally:
            window.end(clock.time())

    def rate_limited(self, penalty: RateLimited) -> None:
        """Keep all chats' calls back for as long as a global penalty says."""
        if penalty.scope == "global":
            self._cooldowns.impose(self._clock.time(), penalty, "", "send")

    # --- answers -----------------------------------------------------------------------------------------------

    async def stream(
        self,
        channel: str,
        reply: ReplyStream,
        streamed: StreamedMessage,
        inbox_id: int | None = None,
        buttons: Callable[[ReplyStream], tuple[Button, ...]] = lambda reply: (),
    ) -> None:
        """Show an answer while it comes, finish it with its buttons, and wait for its delivery."""

        async def finish(source: str) -> Sequence[FinalMessage]:
            if not source and streamed.message_ids and not reply.superseded:
                source = say(streamed.language, "stopped")
            if streamed.withdrawn:
                source = ""
            return await self._put(channel, source, streamed, inbox_id, buttons(reply), reply.node)

        self._running[streamed.key] = (channel, streamed, reply)
        try:
            messages = await stream(reply, self.sender(channel), streamed, finish)
        finally:
            del self._running[streamed.key]
        for message in messages:
            await message.finished.wait()

    async def say(
        self,
        channel: str,
        source: str,
        streamed: StreamedMessage,
        inbox_id: int | None = None,
        buttons: tuple[Button, ...] = (),
        node: int | None = None,
    ) -> str:
        """Send a whole text and wait for its delivery. Returns the id of its last message, "" where it failed."""
        async with self.sender(channel).order:
            messages = await self._put(channel, source, streamed, inbox_id, buttons, node)
        for message in messages:
            await message.finished.wait()
        return messages[-1].message_id if messages else ""

    async def resume(self) -> None:
        """Deliver what waits in the outbox and is not in hand."""
        good: dict[str, list[OutboxMessage]] = {}
        bad: dict[int, str] = {}
        for row in await self.outbox.open(self._bot):
            if row.id in self._in_hand:
                continue
            try:
                check_json(row.content)
            except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
                bad[row.id] = f"part: {type(error).__name__}: {error}"
            else:
                good.setdefault(row.channel, []).append(row)
        # Nothing is awaited in between: what is in hand now may be delivered by then, and would be sent again.
        for channel, rows in good.items():
            self._send(channel, rows)
        for id, reason in bad.items():
            await self.outbox.put_aside(id, reason)

    async def _put(
        self,
        channel: str,
        source: str,
        streamed: StreamedMessage,
        inbox_id: int | None,
        buttons: tuple[Button, ...],
        node: int | None,
    ) -> Sequence[FinalMessage]:
        """Put a whole answer into the outbox, for the messages that show it already and as many more as it needs."""
        limits, language = streamed.limits, streamed.language
        if len(source) < LONG:
            contents = split_answer(source, limits, language, buttons)
        else:
            contents = await asyncio.to_thread(split_answer, source, limits, language, buttons)
        messages = []
        # Behind a message that somebody deleted, the others would be in the wrong order: they are sent anew.
        usable = [*itertools.takewhile(bool, streamed.message_ids)]
        for i, content in enumerate(contents):
            target = usable[i] if i < len(usable) and content.file is None else ""
            reply_to = None if i else streamed.reply_to
            messages.append(NewOutboxMessage("edit" if target else "send", target, to_json(content), reply_to, node))
        if streamed.uncertain_nonce:  # the first new one may be there already, with that nonce
            at = next((i for i, message in enumerate(messages) if message.kind == "send"), None)
            if at is not None:
                messages[at] = replace(messages[at], target=streamed.uncertain_nonce)
        used = {message.target for message in messages}
        messages += [
            NewOutboxMessage("delete", target) for target in streamed.message_ids if target and target not in used
        ]
        rows = await self.outbox.put(self._bot, channel, messages, language=language, inbox_id=inbox_id)
        return self._send(channel, rows)

    def _send(self, channel: str, rows: Iterable[OutboxMessage]) -> Sequence[FinalMessage]:
        """Deliver rows of the outbox, none of which is in hand."""
        limits = self.limits(channel)
        messages = [_final_message(row, limits) for row in rows]
        for message in messages:
            self._in_hand[message.outbox_id] = message
        if messages:
            self.sender(channel).send(messages)
            self._tasks.start(self._forget(messages))
        return messages

    async def _forget(self, messages: Sequence[FinalMessage]) -> None:
        for message in messages:
            await message.finished.wait()
            del self._in_hand[message.outbox_id]

    # --- the end -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The work of the senders that have something to do."""
        return [work for sender in self._senders.values() if (work := sender.work) is not None]

    async def aclose(self) -> None:
        """Stop all senders, also in the middle of a call."""
        for sender in self._senders.values():
            await sender.aclose()


def _final_message(row: OutboxMessage, limits: Limits) -> FinalMessage:
    known = limits.idempotent and time.time() - row.created < NONCE_LIFETIME
    return FinalMessage(
        row.kind,
        "" if row.kind == "send" else row.target,
        key=f"{row.created}",  # the same for all that was put there at once
        content=from_json(row.content) if row.content else MessageContent(""),
        doubtful=row.doubtful or (row.state == "attempting" and row.kind == "send" and not known),
        reply_to=row.reply_to,
        nonce=row.nonce,
        language=row.language,
        outbox_id=row.id,
    )
