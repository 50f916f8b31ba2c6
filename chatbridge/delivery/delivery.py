"""All delivery of one bot: takes messages in, lets the bot answer them, and brings the answers to their chats.

A frontend turns its service's events into `Message`s for `accept`, and gives a `Chat` for each channel. Knows no
service; what it knows about a chat is in its `Limits`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatbridge.bots.attachments import Downloads
from chatbridge.bots.reply import Notice, ReplyContext, ReplyStream
from chatbridge.delivery.chat import Budget, Button, Chat, Limits, MessageContent
from chatbridge.delivery.clock import Clock, LoopClock
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.errors import RateLimited
from chatbridge.delivery.inbox_worker import InboxWorker
from chatbridge.delivery.outbox_sender import OutboxSender
from chatbridge.delivery.streamed_message import StreamedMessage
from chatbridge.delivery.tasks import Tasks
from chatbridge.errors import ChatbridgeError
from chatbridge.store import Cursors, Inbox, Outbox
from chatbridge.texts import say
from chatbridge.types import Channel, Message, Press

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot
    from chatbridge.delivery.sender import Counts

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
"""How often inbox and outbox are looked through for what `chatbridge queue retry` put back, and what is kept in memory
for each chat is let go of where the chat is silent."""

MAX_OFFERS = 1000
"""How many offers to answer an edited message are remembered, so that one more edit makes no second offer."""


class Delivery:
    """A bot's inbox, outbox and chats. Use it as an async context manager, around the time that the service is there.

        async with Delivery(bot, open_chat, Limits(2000)) as delivery:
            await delivery.resume()           # connected: go on with what a crash or a shutdown left
            await delivery.accept(message)    # each message; it is stored when this returns

    open_chat: gives the `Chat` for a channel's id; called again where the chat was silent meanwhile. limits: of all
    chats, or of one by its id. budget: calls that the service allows in all chats together. drain: seconds that answers
    get to end when the context is left, those of bots.yaml unless given; the rest goes on at the next start. tries: a
    message whose answering ended the program so many times is given up. downloads: fetches the files of messages, once
    these are stored and their turn has come.
    """

    def __init__(
        self,
        bot: Bot,
        open_chat: Callable[[str], Chat],
        limits: Limits | Callable[[str], Limits],
        *,
        budget: Budget | None = None,
        clock: Clock | None = None,
        drain: float | None = None,
        tries: int = 5,
        downloads: Downloads | None = None,
    ) -> None:
        self.bot = bot
        self.inbox = Inbox(bot.services.store)
        self.outbox = Outbox(bot.services.store)
        self._cursors = Cursors(bot.services.store)
        self._clock = clock or LoopClock()
        self._tasks = Tasks(bot.name)
        self._outbox_sender = OutboxSender(bot.name, self.outbox, open_chat, limits, budget, self._clock, self._tasks)
        self._inbox_worker = InboxWorker(bot, self.inbox, self._outbox_sender, self._tasks, tries, downloads)
        self._drain = drain
        self._stop_waiting = asyncio.Event()
        self._offers: dict[tuple[str, str], str] = {}
        self._downloads = downloads
        self._edits: dict[tuple[str, str], Message] = {}
        """The latest edit of each message whose files are being fetched."""
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(_warm_up)
        self.bot.services.deliveries.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox_worker.closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        drain = self.bot.services.settings.drain if self._drain is None else self._drain
        # A frontend that failed has no connection any more, and waiting would bring nothing.
        connected = kind is None or issubclass(kind, asyncio.CancelledError)
        try:
            if drain and connected:
                await self._settled_within(drain)
        finally:
            try:
                ended = self._tasks.cancel()
                await self._outbox_sender.aclose()
                await ended
            finally:
                self.bot.services.deliveries.discard(self)

    # --- what frontends call -----------------------------------------------------------------------------------

    async def accept(self, message: Message, *, cursor: tuple[str, int] | None = None) -> bool:
        """Store a message and begin to answer it; False for one that was stored before.

        When this returns, the service may be told that the message has arrived. `cursor`: the name of a source (a
        channel, a stream of updates) and how far it is read with this message; stored in the same transaction, and
        given back by `cursors`. Raises: StoreError; then the message is not stored.
        """
        self.bot.services.stirred.set()
        # What a crash, or a full disk, has left was asked before: behind this one it would pass for answered.
        if self._sweeper is None or self._tasks.failed:
            await self.resume()
        item = await self.inbox.add(self.bot.name, self.bot.bounded(message), cursor)
        if item is None:
            return False
        self._inbox_worker.take(item, redelivered=False)
        return True

    async def resume(self) -> None:
        """Go on with everything that waits in inbox and outbox; may be called again, after each reconnect."""
        self._tasks.failed = False
        await self._outbox_sender.resume()
        for item in await self.inbox.open(self.bot.name):
            self._inbox_worker.take(item, redelivered=True)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def cursors(self) -> Mapping[str, int]:
        """How far each source was read, by the names that `accept` and `advance` were given."""
        return await self._cursors.all(self.bot.name)

    async def advance(self, name: str, value: int) -> None:
        """Move a cursor forward without a message, for events that are none; it never goes back."""
        await self._cursors.advance(self.bot.name, name, value)

    async def press(self, press: Press) -> str:
        """Do what a button is for. Returns soon, with a line for the person who pressed it, "" where there is none.

        A model's answer comes to the chat, after a crash as well: the press is stored before anything is done about
        it. Raises: StoreError; then it is not stored.
        """
        self.bot.services.stirred.set()
        if press.action == "stop":
            reply = self._outbox_sender.reply_shown_by(press.channel.id, press.message_id)
            return await self.bot.stop(press, reply)
        item = await self.inbox.add(self.bot.name, press)
        if item is None:
            return ""
        if press.action == "answer":
            self._offers = {key: id for key, id in self._offers.items() if id != press.message_id}
        return await self._inbox_worker.press(item)

    async def call(self, message: Message) -> tuple[MessageContent, ...]:
        """Carry out a service's own kind of command, `message.text` being `/name argument`.

        Returns soon, with what to show to the person who gave it; nothing where a model's answer comes to the chat,
        as it does after a crash as well. Raises: StoreError.
        """
        self.bot.services.stirred.set()
        message = self.bot.bounded(message)
        context = self.bot.context(message)
        result = await self._inbox_worker.result(message, context)
        if isinstance(result, ReplyStream):
            item = await self.inbox.add(self.bot.name, message, call=True)
            if item is not None:
                await self._inbox_worker.command(item, context, result)
            return ()
        text = say(context.language, "not_permitted") if result is None else result
        return split_answer(text, self._outbox_sender.limits(message.channel.id), context.language)

    async def edited(self, message: Message) -> None:
        """A person has edited a message: it is answered as it is now, or, if it was answered, an offer is made.

        `message.attachments`: its files, which may still be with the service (`Downloads.announced`).
        """
        if not await self.bot.permits(message.author, message.channel):
            return
        message = self.bot.bounded(message)
        words = replace(message, attachments=())  # files that came with it are there, or being fetched
        key = (message.channel.id, message.id)
        if await self.inbox.revise(self.bot.name, words, begun=key in self._inbox_worker.fetching):
            return
        running = self._inbox_worker.running.get(key)
        if message.unreadable:  # too long now: what was answered stays
            if running is not None or await self.bot.message_index.find(self.bot.name, *key) is not None:
                told = self.bot.context(message).language
                self._tasks.start(self.say(message.channel, message.unreadable, language=told, reply_to=message.id))
            return
        if running is not None and running[0].reword(self.bot.reworded(words)):  # it waits for the answer before it
            return
        if self._downloads is None or not any(file.source for file in message.attachments):
            await self._revise(key, message)
        elif await self.bot.message_index.find(self.bot.name, *key) is not None:
            self._edits[key] = message
            self._tasks.start(self._revise_with_files(key, message, self._downloads))

    async def _revise_with_files(self, key: tuple[str, str], message: Message, downloads: Downloads) -> None:
        try:
            whole = await self.bot.fetch_files(message, downloads)
            if self._edits.get(key) is message and whole is not None and not whole.unreadable:
                await self._revise(key, whole)
        finally:
            if self._edits.get(key) is message:
                del self._edits[key]

    async def _revise(self, key: tuple[str, str], message: Message) -> None:
        """Keep the new words of a message that was answered, and offer to answer them."""
        node = await self.bot.revised(message)
        if node is None:
            return
        if (offer := self._offers.get(key)) is not None:
            await self.bot.message_index.note(self.bot.name, message.channel.id, offer, node)
            return
        context = self.bot.context(message)
        buttons = self._inbox_worker.buttons(context, "answer")
        if not buttons:
            return
        streamed = self._inbox_worker.new_streamed(message.channel, context, message.id)
        self._tasks.start(self._offer(key, streamed, buttons, node))

    async def deleted(self, channel: Channel, message_ids: Iterable[str]) -> None:
        """Messages are gone from their chat: they leave the history, and are not answered any more."""
        for id in message_ids:
            key = (channel.id, id)
            if (running := self._inbox_worker.running.get(key)) is not None:
                reply, streamed = running
                streamed.withdrawn = True  # it is removed once the answer has ended, with what came of it
                reply.supersede()
            await self.inbox.withdraw(self.bot.name, *key, begun=key in self._inbox_worker.fetching)
            await self.bot.message_index.remove(self.bot.name, *key)

    async def moved(self, old: str, new: str) -> None:
        """A chat has another id from now on: its conversations go on under that. Raises: StoreError."""
        await self.bot.moved(old, new)

    async def answer(
        self, result: Notice | ReplyStream, channel: Channel, *, language: str = "en", reply_to: str | None = None
    ) -> None:
        """Deliver what the bot answered to something else than a message given to `accept`; ends when it is there."""
        if isinstance(result, Notice):
            await self.say(channel, result.text, language=language, reply_to=reply_to)
            return
        context = ReplyContext(self.bot.effective(channel), result.language)
        streamed = self._inbox_worker.new_streamed(channel, context, reply_to)
        await self._inbox_worker.stream(channel, context, result, streamed)

    async def say(self, channel: Channel, text: str, *, language: str = "en", reply_to: str | None = None) -> None:
        """Send a text of our own, in Markdown; ends when it is delivered."""
        streamed = StreamedMessage(self._outbox_sender.limits(channel.id), language=language, reply_to=reply_to)
        await self._outbox_sender.say(channel.id, text, streamed)

    async def settled(self) -> None:
        """Wait until everything that is in hand is answered and delivered, or given up."""
        while work := [*self._tasks.running, *self._outbox_sender.running]:
            await asyncio.wait(work)

    def other_call(self) -> AbstractAsyncContextManager[None]:
        """Around a call to the service that is not delivery's own: waits until one more is allowed, and counts it."""
        return self._outbox_sender.other_call()

    def rate_limited(self, penalty: RateLimited) -> None:
        """A call that is not delivery's own was refused as one too many; a global penalty holds back every chat."""
        self._outbox_sender.rate_limited(penalty)

    def stop_waiting(self) -> None:
        """Wait for no answer any more while the context is left; what is not answered goes on at the next start."""
        self._stop_waiting.set()

    # --- for those who watch -----------------------------------------------------------------------------------

    @property
    def bot_name(self) -> str:
        """Whose it is."""
        return self.bot.name

    @property
    def calls(self) -> Counts:
        """Every call that was made, by what it was and what came of it."""
        return self._outbox_sender.calls

    @property
    def in_hand(self) -> int:
        """How many messages are being answered or wait for it."""
        return self._inbox_worker.count

    @property
    def queued(self) -> int:
        """How many messages of finished answers wait to be delivered."""
        return self._outbox_sender.queued

    # --- in the background -------------------------------------------------------------------------------------

    async def _offer(
        self, key: tuple[str, str], streamed: StreamedMessage, buttons: tuple[Button, ...], node: int
    ) -> None:
        """Offer to answer an edited message again."""
        text = say(streamed.language, "edited")
        if id := await self._outbox_sender.say(key[0], text, streamed, buttons=buttons, node=node):
            self._offers[key] = id
            while len(self._offers) > MAX_OFFERS:
                del self._offers[next(iter(self._offers))]

    async def _settled_within(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(self.settled()), asyncio.ensure_future(self._stop_waiting.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _sweep(self) -> None:
        while True:
            # All bots at the same moments: they share the commits, and the program sleeps in between.
            await self._clock.sleep(max(1.0, SWEEP_SECONDS - self._clock.time() % SWEEP_SECONDS))
            self._outbox_sender.forget_silent()
            try:
                await self.resume()
            except ChatbridgeError as error:
                log.error("bot %s: the boxes can't be read: %s", self.bot.name, error)


def _warm_up() -> None:
    """Import now what is otherwise imported for the first message, while every chat would wait."""
    for module in ("bots.request", "prompts.doctor", "prompts.fitting", "prompts.jinja", "prompts.rendering"):
        import_module(f"chatbridge.{module}")
