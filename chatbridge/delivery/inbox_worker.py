"""From a message in the inbox to its answer in the outbox, for one bot: in order, and again after a crash.

Knows what a bot says about a message; leaves to the outbox's sender how that gets to the chat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from chatbridge.bots.attachments import Downloads
from chatbridge.bots.reply import Notice, ReplyContext, ReplyStream
from chatbridge.delivery.chat import Button
from chatbridge.delivery.outbox_sender import OutboxSender
from chatbridge.delivery.streamed_message import StreamedMessage
from chatbridge.delivery.tasks import Tasks
from chatbridge.delivery.trouble import report_error
from chatbridge.store import Inbox, InboxItem, KeptAnswer
from chatbridge.store.inbox import edited
from chatbridge.texts import say
from chatbridge.types import Action, Channel, Message, Press

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot

log = logging.getLogger(__name__)

SUSPECT_ATTEMPTS = 2
"""Messages that were being answered at so many crashes are answered one at a time: the one that ends the program each
time is found out then, and the others are not given up along with it."""


class InboxWorker:
    """All messages of a bot that are being answered. `running`: replies of a model, by channel and message id;
    `fetching`: messages whose files are being fetched, by the same.

    `tries`: a message whose answering ended the program so many times is given up.
    """

    def __init__(
        self,
        bot: Bot,
        inbox: Inbox,
        outbox_sender: OutboxSender,
        tasks: Tasks,
        tries: int,
        downloads: Downloads | None = None,
    ) -> None:
        self.running: dict[tuple[str, str], tuple[ReplyStream, StreamedMessage]] = {}
        self.fetching: set[tuple[str, str]] = set()
        self.closing = False
        self._bot = bot
        self._inbox = inbox
        self._outbox_sender = outbox_sender
        self._tasks = tasks
        self._tries = tries
        self._downloads = downloads
        self._order_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._suspect_lock = asyncio.Lock()
        self._in_hand: set[int] = set()

    @property
    def count(self) -> int:
        """How many messages are in hand."""
        return len(self._in_hand)

    def take(self, item: InboxItem, *, redelivered: bool) -> None:
        """Begin to answer a message, unless it is in hand. `redelivered`: an earlier run may have begun with it."""
        if item.id in self._in_hand or self.closing:
            return
        self._in_hand.add(item.id)
        self._tasks.start(self._handle(item, redelivered))

    async def press(self, item: InboxItem) -> str:
        """Carry out a press. Returns what to say to the person alone, "" where a model's answer comes to the chat.

        That answer is the only thing that a crash leaves to be done.
        """
        if (asked := item.asked) is None or item.id in self._in_hand or self.closing:
            return ""
        self._in_hand.add(item.id)
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._holding(item))
            await self._inbox.begin(item.id)
            context = self._bot.context(asked)
            result = await self.result(asked, context)
            if isinstance(result, ReplyStream):
                self._tasks.start(self._deliver_in_hand(held.pop_all(), item, asked, context, result))
                return ""
            await self._inbox.finish(item.id)
        return result or ""

    async def command(self, item: InboxItem, context: ReplyContext, reply: ReplyStream) -> None:
        """Bring to the chat the model's reply that a command in the service's own way has begun."""
        if (asked := item.asked) is None or item.id in self._in_hand or self.closing:
            return
        self._in_hand.add(item.id)
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._holding(item))
            await self._inbox.begin(item.id)
            self._tasks.start(self._deliver_in_hand(held.pop_all(), item, asked, context, reply))

    async def _deliver_in_hand(
        self, held: AsyncExitStack, item: InboxItem, asked: Message | Press, context: ReplyContext, reply: ReplyStream
    ) -> None:
        async with held:
            await self._deliver(item, asked, context, reply)

    @asynccontextmanager
    async def _holding(self, item: InboxItem) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            await self._inbox.release(item.id)
            raise
        finally:
            self._in_hand.discard(item.id)

    async def _handle(self, item: InboxItem, redelivered: bool) -> None:
        async with self._holding(item), AsyncExitStack() as stack:
            async with self._order_locks.setdefault(item.channel, asyncio.Lock()):  # a chat's messages keep their order
                if item.attempts >= SUSPECT_ATTEMPTS:
                    await stack.enter_async_context(self._suspect_lock)
                begun = await self._inbox.begin(item.id)
                if begun is None or begun.asked is None:
                    return
                context = self._bot.context(begun.asked)  # from here on it is carried along
                if begun.attempts > self._tries:
                    await self._give_up(begun, context.language)
                    return
                kept = None
                if redelivered:  # the program may have ended when the answer, or its beginning, was there already
                    kept = await self._bot.message_index.kept_answer(begun.bot, begun.channel, begun.service_id)
                asked: Message | Press | None = begun.asked
                if isinstance(asked, Message) and self._downloads is not None and kept is None:
                    asked = await self._with_files(begun, asked, self._downloads)
                if asked is None:
                    await self._inbox.finish(begun.id)
                    return
                result = await self.result(asked, context, kept, redelivered=begun.attempts > 1)
                text_before = ""
                if redelivered and isinstance(result, ReplyStream) and result.so_far is not None:
                    text_before = await result.so_far()  # the message that showed it is edited: it has to keep that
            await self._deliver(begun, asked, context, result, kept, text_before, redelivered=redelivered)

    async def _with_files(self, item: InboxItem, asked: Message, downloads: Downloads) -> Message | None:
        """A message with the contents of its files. That takes a while: what was edited meanwhile is as it is by then,
        and None what was deleted."""
        if not any(file.source for file in asked.attachments):
            return asked
        key = (item.channel, item.service_id)
        self.fetching.add(key)
        try:
            whole = await self._bot.fetch_files(asked, downloads)
        finally:
            self.fetching.discard(key)
        latest = await self._inbox.asked(item.id)
        if whole is None or not isinstance(latest, Message):
            return None
        if latest.text == asked.text:
            return whole
        return self._bot.bounded(edited(whole, replace(latest, attachments=())))

    async def result(
        self,
        asked: Message | Press,
        context: ReplyContext,
        kept: KeptAnswer | None = None,
        *,
        redelivered: bool = False,
    ) -> str | ReplyStream | None:
        """What the bot says to a message or a press: a text, a reply of a model, or nothing."""
        try:
            if isinstance(asked, Press):
                result = await self._bot.press(asked, redelivered=redelivered, context=context)
            elif kept is not None:
                goes_on = kept.partial and kept.latest
                return self._bot.going_on(asked, kept.key, kept.node) if goes_on else kept.text
            else:
                result = await self._bot.receive(asked, redelivered=redelivered, context=context)
        except Exception as error:
            return report_error(error, context.language, log, "chat %s: a message was not answered", asked.channel.id)
        return result.text if isinstance(result, Notice) else result

    async def _deliver(
        self,
        item: InboxItem,
        asked: Message | Press,
        context: ReplyContext,
        result: str | ReplyStream | None,
        kept: KeptAnswer | None = None,
        text_before: str = "",
        *,
        redelivered: bool = False,
    ) -> None:
        if result is None:
            await self._inbox.finish(item.id)
            return
        reply_to, message_ids = None, item.message_ids
        if isinstance(asked, Message):
            reply_to = asked.id if item.service_id == asked.id else None
        elif asked.action == "answer":
            message_ids = message_ids or (asked.message_id,)  # in the place of the offer
        else:
            reply_to = asked.message_id
        streamed = self.new_streamed(
            asked.channel, context, reply_to, message_ids, item=item, text_before=text_before, redelivered=redelivered
        )
        if isinstance(result, str):
            buttons = self.buttons(context, "regenerate", "branch") if kept else ()
            node = kept.node if kept else None
            await self._outbox_sender.say(item.channel, result, streamed, item.id, buttons, node)
            return
        key = (item.channel, item.service_id)
        self.running[key] = (result, streamed)
        try:
            await self.stream(asked.channel, context, result, streamed, item.id)
        finally:
            del self.running[key]
            if streamed.withdrawn:
                await self._bot.message_index.remove(self._bot.name, *key)

    async def stream(
        self,
        channel: Channel,
        context: ReplyContext,
        reply: ReplyStream,
        streamed: StreamedMessage,
        inbox_id: int | None = None,
    ) -> None:
        """Show a model's answer while it comes, and finish it with its buttons."""

        def buttons(reply: ReplyStream) -> tuple[Button, ...]:
            if reply.node is None:
                return ()
            cut = reply.finish is None or reply.finish.reason in ("cancelled", "length")
            actions = ("regenerate", "continue", "branch") if cut else ("regenerate", "branch")
            return self.buttons(context, *actions)

        await self._outbox_sender.stream(channel.id, reply, streamed, inbox_id, buttons)

    async def _give_up(self, item: InboxItem, language: str) -> None:
        log.error("channel %s: message %s is given up", item.channel, item.service_id)
        await self._inbox.dead_letter(item.id, f"answering it ended the program {self._tries} times")
        streamed = StreamedMessage(
            self._outbox_sender.limits(item.channel), language=language, message_ids=item.message_ids
        )
        await self._outbox_sender.say(item.channel, say(language, "gave_up", count=self._tries), streamed)

    # --- small things ------------------------------------------------------------------------------------------

    def new_streamed(
        self,
        channel: Channel,
        context: ReplyContext,
        reply_to: str | None,
        message_ids: Iterable[str] = (),
        *,
        item: InboxItem | None = None,
        text_before: str = "",
        redelivered: bool = False,
    ) -> StreamedMessage:
        """What will show an answer; in groups it is a reply to its message."""

        async def remember(message_ids: Iterable[str]) -> None:
            if item is not None:
                await self._inbox.show(item.id, [*message_ids])

        return StreamedMessage(
            self._outbox_sender.limits(channel.id),
            key=item.key if item is not None else "",
            redelivered=redelivered,
            language=context.language,
            reply_to=reply_to if channel.kind == "group" else None,
            message_ids=[*message_ids],
            remember=remember,
            text_before=text_before,
            buttons=self.buttons(context, "stop"),
            fold=context.settings.thinking == "fold",
        )

    @staticmethod
    def buttons(context: ReplyContext, *actions: Action) -> tuple[Button, ...]:
        """Buttons for a message, where they are wanted."""
        if not context.settings.buttons:
            return ()
        return tuple(Button(action, say(context.language, f"button_{action}")) for action in actions)
