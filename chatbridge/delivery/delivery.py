"""All delivery of one bot: takes messages in, lets the bot answer them, and brings the answers to their chats.

A frontend turns its service's events into `Message`s for `accept`, and gives a `Chat` for each channel. Knows no
service; what it knows about a chat is in its `Limits`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatbridge.bots.reply import Notice, ReplyStream
from chatbridge.delivery.chat import Budget, Button, Chat, Clock, Limits, LoopClock, MessageContent, RateLimited
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.incoming import Answering
from chatbridge.delivery.outgoing import Dispatch
from chatbridge.delivery.streamed_message import Posting
from chatbridge.errors import ChatbridgeError
from chatbridge.store import Cursors, Inbox, Outbox
from chatbridge.texts import say
from chatbridge.types import Channel, Message, Press

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot
    from chatbridge.delivery.sender import Counts

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
"""How often the boxes are looked through for what `chatbridge queue retry` put back."""

MOST_OFFERS = 1000
"""So many offers to answer an edited message are remembered, so that one more edit makes no other."""


class Delivery:
    """A bot's inbox, outbox and chats. Use it as an async context manager, around the time that the service is there.

        async with Delivery(bot, open_chat, Limits(2000)) as delivery:
            await delivery.resume()           # connected: go on with what a crash or a shutdown left
            await delivery.accept(message)    # each message; it is stored when this returns

    open_chat: gives the `Chat` for a channel's id; called once for each. limits: of all chats, or of one by its id.
    budget: calls that the service allows in all chats together. drain: seconds that answers get to end when the
    context is left, those of bots.yaml unless given; the rest goes on at the next start. tries: so often a message is
    tried whose answering ended the program. keep_days: how long what was answered is remembered, so that it is not
    answered again.
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
        keep_days: float = 14.0,
    ) -> None:
        self.bot = bot
        self.inbox = Inbox(bot.services.store)
        self.outbox = Outbox(bot.services.store)
        self._clock = clock or LoopClock()
        self._dispatch = Dispatch(bot.name, self.outbox, open_chat, limits, budget, self._clock)
        self._answering = Answering(bot, self.inbox, self._dispatch, tries)
        self._drain = drain
        self._keep_days = keep_days
        self._offers: dict[tuple[str, str], str] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.outbox.prune(self._keep_days)
        await self.inbox.prune(self._keep_days)
        await asyncio.to_thread(_warm_up)
        self.bot.services.deliveries.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answering.closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        drain = self.bot.services.settings.drain if self._drain is None else self._drain
        # A frontend that failed has no connection any more, and waiting would bring nothing.
        connected = kind is None or issubclass(kind, asyncio.CancelledError)
        try:
            await self._dispatch.aclose(drain if connected else 0.0)
        finally:
            self.bot.services.deliveries.discard(self)

    # --- what frontends call -----------------------------------------------------------------------------------

    async def accept(self, message: Message, *, mark: tuple[str, int] | None = None) -> bool:
        """Store a message and begin to answer it; False for one that was stored before.

        When this returns, the service may be told that the message has arrived. `mark`: a name and how far its
        messages are taken in by this one (an update's number, a channel's latest message), stored in the same moment;
        `marks` gives them back. Raises: StoreError; then the message is not stored.
        """
        if self._sweeper is None:  # what a crash left was asked before: behind this one it would pass for answered
            await self.resume()
        received = await self.inbox.add(self.bot.name, message, mark)
        if received is None:
            return False
        self._answering.take(received, again=False)
        return True

    async def resume(self) -> None:
        """Go on with everything that waits in the boxes; may be called again, after each reconnect."""
        await self._dispatch.resume()
        for received in await self.inbox.open(self.bot.name):
            self._answering.take(received, again=True)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def marks(self) -> Mapping[str, int]:
        """How far the messages of each source were taken in, by the names that `accept` and `advance` were given."""
        return await Cursors(self.bot.services.store).all(self.bot.name)

    async def advance(self, name: str, value: int) -> None:
        """Move a mark forward without a message, for events that are none; it never goes back."""
        await Cursors(self.bot.services.store).advance(self.bot.name, name, value)

    async def press(self, press: Press) -> str:
        """Do what a button is for. Returns soon, with a line for the person who pressed it, "" where there is none.

        An answer that it calls forth comes to the chat, after a crash as well: the press is stored before anything is
        done about it. Raises: StoreError; then it is not stored.
        """
        channel, language = press.channel, self.bot.language(press.channel, press.language)
        if press.action == "stop":
            turn = self._dispatch.live(channel.id, press.message_id)
            if turn is None or not await self.bot.permits(press.author, channel):
                return say(language, "not_permitted" if turn else "nothing_to_stop")
            turn.stop()
            return ""
        received = await self.inbox.add(self.bot.name, press)
        if received is None:
            return ""
        if press.action == "answer":
            self._offers = {key: id for key, id in self._offers.items() if id != press.message_id}
        return await self._answering.now(received)

    async def call(self, message: Message) -> tuple[MessageContent, ...]:
        """Carry out a service's own kind of command, `message.text` being `/name argument`.

        Returns soon, with what to show to the person who gave it; nothing where an answer comes to the chat, which it
        does after a crash as well. Raises: StoreError.
        """
        language = self.bot.language(message.channel, message.language, message.text)
        result = await self._answering.result(message, language)
        if isinstance(result, ReplyStream):
            received = await self.inbox.add(self.bot.name, message, call=True)
            if received is not None:
                await self._answering.carry(received, result)
            return ()
        text = say(language, "not_permitted") if result is None else result
        return split_answer(text, self._dispatch.limits(message.channel.id), language)

    async def edited(self, message: Message) -> None:
        """A person has edited a message: it is answered as it is now, or, if it was answered, an offer is made."""
        if await self.inbox.revise(self.bot.name, message):
            return
        key = (message.channel.id, message.id)
        live = self._answering.live.get(key)
        if live is not None and live[0].reword(self.bot.reworded(message)):  # it waits for the answer before it
            return
        node = await self.bot.revised(message)
        if node is None:
            return
        if (offer := self._offers.get(key)) is not None:
            await self.bot.message_index.note(self.bot.name, message.channel.id, offer, node)
            return
        language = self.bot.language(message.channel, message.language, message.text)
        buttons = self._answering.buttons(message.channel, language, "answer")
        if not buttons:
            return
        posting = self._answering.posting(message.channel, language, message.id)
        self._dispatch.start(self._offer(key, posting, buttons, node))

    async def deleted(self, channel: Channel, message_ids: Iterable[str]) -> None:
        """Messages are gone from their chat: they leave the history, and are not answered any more."""
        for id in message_ids:
            if (answering := self._answering.live.get((channel.id, id))) is not None:
                turn, posting = answering
                posting.withdrawn = True  # it is removed once the answer has ended, with what came of it
                turn.supersede()
            await self.inbox.withdraw(self.bot.name, channel.id, id)
            await self.bot.message_index.remove(self.bot.name, channel.id, id)

    async def moved(self, old: str, new: str) -> None:
        """A chat has another id from now on: its conversations go on under that. Raises: StoreError."""
        await self.bot.moved(old, new)

    async def answer(
        self, result: Notice | ReplyStream, channel: Channel, *, language: str = "en", reply_to: str | None = None
    ) -> None:
        """Bring to a chat what was called forth in another way than by `accept`; ends when it is delivered."""
        if isinstance(result, Notice):
            await self.say(channel, result.text, language=language, reply_to=reply_to)
            return
        await self._answering.stream(channel, result, self._answering.posting(channel, result.language, reply_to))

    async def say(self, channel: Channel, text: str, *, language: str = "en", reply_to: str | None = None) -> None:
        """Send a text of our own, in Markdown; ends when it is delivered."""
        posting = Posting(self._dispatch.limits(channel.id), language=language, reply_to=reply_to)
        await self._dispatch.say(channel.id, text, posting)

    async def settled(self) -> None:
        """Wait until everything that is in hand is answered and delivered, or given up."""
        await self._dispatch.settled()

    def other_call(self) -> AbstractAsyncContextManager[None]:
        """Around a call to the service that is not delivery's own: waits until one more is allowed, and counts it."""
        return self._dispatch.other_call()

    def heed(self, penalty: RateLimited) -> None:
        """A call that is not delivery's own was met by a penalty; a global one concerns every chat."""
        self._dispatch.heed(penalty)

    def hurry(self) -> None:
        """Wait for nothing any more while the context is left."""
        self._dispatch.hurry()

    # --- for those who watch -----------------------------------------------------------------------------------

    @property
    def bot_name(self) -> str:
        """Whose it is."""
        return self.bot.name

    @property
    def calls(self) -> Counts:
        """Every call that was made, by what it was and what came of it."""
        return self._dispatch.calls

    @property
    def in_hand(self) -> int:
        """How many messages are being answered or wait for it."""
        return self._answering.count

    @property
    def queued(self) -> int:
        """How many messages of finished answers wait to be delivered."""
        return self._dispatch.queued

    # --- in the background -------------------------------------------------------------------------------------

    async def _offer(self, key: tuple[str, str], posting: Posting, buttons: tuple[Button, ...], node: int) -> None:
        """Offer to answer an edited message again."""
        text = say(posting.language, "edited")
        if id := await self._dispatch.say(key[0], text, posting, buttons=buttons, node=node):
            self._offers[key] = id
            while len(self._offers) > MOST_OFFERS:
                del self._offers[next(iter(self._offers))]

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.resume()
            except ChatbridgeError as error:
                log.error("bot %s: the boxes can't be read: %s", self.bot.name, error)


def _warm_up() -> None:
    """Import now what is otherwise imported for the first message, while every chat would wait."""
    for module in ("bots.request", "prompts.doctor", "prompts.fitting", "prompts.jinja", "prompts.rendering"):
        import_module(f"chatbridge.{module}")
