"""From a message in the inbox to its answer in the outbox, for one bot: in order, and again after a crash.

Knows what a bot says about a message; leaves to `dispatch` how it gets to the chat.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from chatbridge.bots.reply import Notice, ReplyStream
from chatbridge.delivery.chat import Button
from chatbridge.delivery.outgoing import Dispatch
from chatbridge.delivery.streamed_message import Posting
from chatbridge.errors import ChatbridgeError, CommandError
from chatbridge.store import Inbox, InboxItem, KeptAnswer
from chatbridge.texts import say
from chatbridge.types import Action, Channel, Message, Press

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot

log = logging.getLogger(__name__)

SUSPECT = 2
"""A message that was being answered at so many crashes is answered while no other such message is: the one that ends
the program each time is then found out, and the others are not given up along with it."""


class Answering:
    """All messages of a bot that are being answered. `live`: those that a model answers, by channel and message id.

    `tries`: so often a message is tried whose answering ended the program.
    """

    def __init__(self, bot: Bot, inbox: Inbox, dispatch: Dispatch, tries: int) -> None:
        self.live: dict[tuple[str, str], tuple[ReplyStream, Posting]] = {}
        self.closing = False
        self._bot = bot
        self._inbox = inbox
        self._dispatch = dispatch
        self._tries = tries
        self._orders: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._suspects = asyncio.Lock()
        self._received: set[int] = set()

    @property
    def count(self) -> int:
        """How many messages are in hand."""
        return len(self._received)

    def take(self, item: InboxItem, *, again: bool) -> None:
        """Begin with a message, unless it is in hand; `again`: it may have been begun before the program ended."""
        if item.id in self._received or self.closing:
            return
        self._received.add(item.id)
        self._dispatch.start(self._handle(item, again))

    async def now(self, item: InboxItem) -> str:
        """Begin with a press; what to say to the person alone.

        An answer of a model comes to the chat, and is the only thing that a crash leaves to be done.
        """
        if (asked := item.asked) is None or item.id in self._received or self.closing:
            return ""
        self._received.add(item.id)
        await self._inbox.begin(item.id)
        result = await self.result(asked, self._language(asked))
        if isinstance(result, ReplyStream):
            self._dispatch.start(self._carry(item, asked, result))
            return ""
        await self._inbox.finish(item.id)
        self._received.discard(item.id)
        return result or ""

    async def carry(self, item: InboxItem, turn: ReplyStream) -> None:
        """Bring to the chat what a command has called forth that was given in the service's own way."""
        if (asked := item.asked) is None or item.id in self._received or self.closing:
            return
        self._received.add(item.id)
        await self._inbox.begin(item.id)
        self._dispatch.start(self._carry(item, asked, turn))

    async def _carry(self, item: InboxItem, asked: Message | Press, turn: ReplyStream) -> None:
        async with self._in_hand(item):
            await self._bring(item, asked, turn.language, turn)

    @asynccontextmanager
    async def _in_hand(self, item: InboxItem) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            await self._inbox.release(item.id)
            raise
        finally:
            self._received.discard(item.id)

    async def _handle(self, item: InboxItem, again: bool) -> None:
        async with self._in_hand(item), AsyncExitStack() as stack:
            async with self._orders[item.channel]:  # messages of a chat begin in their order
                if item.attempts >= SUSPECT:
                    await stack.enter_async_context(self._suspects)
                begun = await self._inbox.begin(item.id)
                if begun is None or begun.asked is None:
                    return
                language = self._language(begun.asked)
                if begun.attempts > self._tries:
                    await self._bury(begun, language)
                    return
                kept = None
                if again:  # the program may have ended when the answer was there already, or its beginning
                    kept = await self._bot.message_index.kept_answer(begun.bot, begun.channel, begun.service_id)
                result = await self.result(begun.asked, language, kept, again=begun.attempts > 1)
                before = ""
                if again and isinstance(result, ReplyStream) and result.so_far is not None:
                    before = await result.so_far()  # what was shown of it is replaced: all of it has to be there
            await self._bring(begun, begun.asked, language, result, kept, before, again=again)

    async def result(
        self, asked: Message | Press, language: str, kept: KeptAnswer | None = None, *, again: bool = False
    ) -> str | ReplyStream | None:
        """What the bot does about a message or a press; `str` is said at once."""
        try:
            if isinstance(asked, Press):
                result = await self._bot.press(asked, redelivered=again)
            elif kept is not None:
                goes_on = kept.partial and kept.latest
                return self._bot.going_on(asked, kept.key, kept.node) if goes_on else kept.text
            else:
                result = await self._bot.receive(asked, redelivered=again)
        except CommandError as error:
            return str(error)
        except ChatbridgeError as error:
            log.warning("channel %s: a message was not answered: %s", asked.channel.id, error)
            return say(language, "trouble", why=error)
        except Exception:
            log.exception("channel %s: a message was not answered", asked.channel.id)
            return say(language, "trouble_inside")
        return result.text if isinstance(result, Notice) else result

    def _language(self, asked: Message | Press) -> str:
        return self._bot.language(asked.channel, asked.language, asked.text if isinstance(asked, Message) else "")

    async def _bring(
        self,
        item: InboxItem,
        asked: Message | Press,
        language: str,
        result: str | ReplyStream | None,
        kept: KeptAnswer | None = None,
        before: str = "",
        *,
        again: bool = False,
    ) -> None:
        if result is None:
            await self._inbox.finish(item.id)
            return
        reply_to, live = None, item.message_ids
        if isinstance(asked, Message):
            reply_to = asked.id if item.service_id == asked.id else None
        elif asked.action == "answer":
            live = live or (asked.message_id,)  # in the place of the offer
        else:
            reply_to = asked.message_id
        posting = self.posting(asked.channel, language, reply_to, live, item=item, before=before, again=again)
        if isinstance(result, str):
            buttons = self.buttons(asked.channel, language, "regenerate", "branch") if kept else ()
            node = kept.node if kept else None
            await self._dispatch.say(item.channel, result, posting, item.id, buttons, node)
            return
        key = (item.channel, item.service_id)
        self.live[key] = (result, posting)
        try:
            await self.stream(asked.channel, result, posting, item.id)
        finally:
            del self.live[key]
            if posting.withdrawn:
                await self._bot.message_index.remove(self._bot.name, *key)

    async def stream(self, channel: Channel, turn: ReplyStream, posting: Posting, received: int | None = None) -> None:
        """Show a model's answer while it comes, and finish it with its buttons."""

        def buttons(turn: ReplyStream) -> tuple[Button, ...]:
            if turn.node is None:
                return ()
            cut = turn.finish is None or turn.finish.reason in ("cancelled", "length")
            actions = ("regenerate", "continue", "branch") if cut else ("regenerate", "branch")
            return self.buttons(channel, posting.language, *actions)

        await self._dispatch.stream(channel.id, turn, posting, received, buttons)

    async def _bury(self, item: InboxItem, language: str) -> None:
        log.error("channel %s: message %s is given up", item.channel, item.service_id)
        await self._inbox.dead_letter(item.id, f"answering it ended the program {self._tries} times")
        posting = Posting(self._dispatch.limits(item.channel), language=language, live=item.message_ids)
        await self._dispatch.say(item.channel, say(language, "gave_up", count=self._tries), posting)

    # --- small things ------------------------------------------------------------------------------------------

    def posting(
        self,
        channel: Channel,
        language: str,
        reply_to: str | None,
        live: Iterable[str] = (),
        *,
        item: InboxItem | None = None,
        before: str = "",
        again: bool = False,
    ) -> Posting:
        """An answer to be shown; in groups it is a reply."""

        async def remember(live: Iterable[str]) -> None:
            if item is not None:
                await self._inbox.show(item.id, [*live])

        return Posting(
            self._dispatch.limits(channel.id),
            key=item.key if item is not None else "",
            begun=again,
            language=language,
            reply_to=reply_to if channel.kind == "group" else None,
            live=[*live],
            remember=remember,
            before=before,
            buttons=self.buttons(channel, language, "stop"),
        )

    def buttons(self, channel: Channel, language: str, *actions: Action) -> tuple[Button, ...]:
        """Buttons for a message, where they are wanted."""
        if not self._bot.effective(channel).buttons:
            return ()
        return tuple(Button(action, say(language, f"button_{action}")) for action in actions)
