"""What each kind of update means for the bot: messages, edits, buttons, the Stop of a draft. Sends by delivery."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, get_args

import telegram
from telegram.error import TelegramError

from chatbridge import Action, Author, Bot, Channel, Delivery, Downloads, Limits, Press, StoreError
from chatbridge_telegram.channels import ChatAddress, channel_of
from chatbridge_telegram.chat import TelegramChat, limits_of
from chatbridge_telegram.failures import why
from chatbridge_telegram.files import files_of
from chatbridge_telegram.incoming import message_of
from chatbridge_telegram.options import TelegramOptions

log = logging.getLogger(__name__)

ACTIONS: dict[str, Action] = {action: action for action in get_args(Action)}
"""What a button's data stands for."""

MAX_ANSWER = 200
"""UTF-16 units of an answer to the press of a button."""
MAX_LINE = 60
"""A longer one is shown in a window of its own, since the line at the top is soon gone."""


class Room:
    """A bot in Telegram. `delivery` is set before the first update comes."""

    delivery: Delivery

    def __init__(self, bot: Bot, client: telegram.Bot, options: TelegramOptions, downloads: Downloads) -> None:
        self._bot, self._client, self._options = bot, client, options
        self._downloads = downloads
        self._tasks: set[asyncio.Task[None]] = set()

    def chat(self, channel: str) -> TelegramChat:
        """The chat of a channel's id."""
        return TelegramChat(self._client, ChatAddress.of(channel), self._options)

    def limits(self, channel: str) -> Limits:
        """What that chat takes."""
        return limits_of(ChatAddress.of(channel), self._options)

    async def take_all(self, updates: Sequence[telegram.Update]) -> None:
        """Act on several updates: those of one chat in their order, and chats side by side."""
        by_chat: defaultdict[int, list[telegram.Update]] = defaultdict(list)
        for update in updates:
            by_chat[update.effective_chat.id if update.effective_chat else 0].append(update)

        async def take(of_chat: Sequence[telegram.Update]) -> None:
            for update in of_chat:
                await self.take(update)

        failures = await asyncio.gather(*(take(of_chat) for of_chat in by_chat.values()), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure

    async def take(self, update: telegram.Update) -> None:
        """Act on an update. When this returns it may be confirmed: messages are stored. Raises: StoreError."""
        try:
            if update.message is not None:
                await self._message(update.message)
            elif update.edited_message is not None:
                await self._edited(update.edited_message)
            elif update.callback_query is not None:
                await self._pressed(update.callback_query)
            elif update.my_chat_member is not None:
                self._membership_changed(update.my_chat_member)
            elif (stopped := update.api_kwargs.get("stopped_message_generation")) is not None:
                await self._stopped(stopped)
        except StoreError:
            raise
        except Exception:  # asked for again and again, it would keep all others away
            log.exception("an update was left out")

    # --- messages ----------------------------------------------------------------------------------------------

    async def _message(self, given: telegram.Message) -> None:
        # Both the old chat and the new one are told, and either may come first.
        if given.migrate_from_chat_id is not None:
            await self.delivery.moved(ChatAddress(given.migrate_from_chat_id).id, ChatAddress(given.chat.id).id)
        if given.migrate_to_chat_id is not None:
            await self.delivery.moved(ChatAddress(given.chat.id).id, ChatAddress(given.migrate_to_chat_id).id)
            log.warning(
                "the group %s has become %s, and goes on there: say so in bots.yaml, if it is named there",
                given.chat.id,
                given.migrate_to_chat_id,
            )
        message = message_of(given, self._client.bot)
        if message is not None and (files := files_of(given)):
            message = await self._bot.bring_files(message, files, self._downloads)
        if message is not None:
            await self.delivery.accept(message)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Run this in the background; the next update does not wait for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Cancel what runs in the background; all answers are in the outbox."""
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an update was left out: %s", error, exc_info=error)

    async def _edited(self, given: telegram.Message) -> None:
        message = message_of(given, self._client.bot)
        if message is not None:
            files, _ = self._downloads.announced(files_of(given))
            await self.delivery.edited(replace(message, attachments=files))

    # --- buttons -----------------------------------------------------------------------------------------------

    async def _pressed(self, query: telegram.CallbackQuery) -> None:
        message = query.message
        action = ACTIONS.get(query.data or "")
        line = ""
        if isinstance(message, telegram.Message) and action is not None:
            channel = channel_of(message)
            author = Author(str(query.from_user.id), query.from_user.full_name, query.from_user.is_bot)
            language = query.from_user.language_code or ""
            line = await self.delivery.press(
                Press(action, str(message.message_id), channel, author, language, query.id)
            )
        self._start(_answer(query, line))

    async def _stopped(self, stopped: dict[str, Any]) -> None:
        """Somebody pressed Stop on a draft."""
        chat, topic = stopped["chat"], stopped.get("message_thread_id")
        place = ChatAddress(int(chat["id"]), topic)
        name = str(chat.get("first_name", ""))
        channel = Channel(place.id, name, "private", None if topic is None else str(chat["id"]))
        await self.delivery.press(Press("stop", str(stopped["draft_id"]), channel, Author(str(chat["id"]), name)))

    def _membership_changed(self, changed: telegram.ChatMemberUpdated) -> None:
        """The bot was added to a chat, or removed: log the chat's id, which bots.yaml may need."""
        log.info(
            "the chat %s (%s): the bot is %s now, by %s",
            changed.chat.id,
            changed.chat.effective_name,
            changed.new_chat_member.status,
            changed.from_user.full_name,
        )


async def _answer(query: telegram.CallbackQuery, line: str) -> None:
    """Answer the press of a button, with a line for that person alone if there is one."""
    try:
        await query.answer(_cut(line) or None, show_alert=len(line) > MAX_LINE)
    except TelegramError as error:  # too late, as like as not; what was wanted is done
        log.info("the press of a button could not be answered: %s", why(error))


def _cut(line: str) -> str:
    """As much of a line as fits into the answer to a press."""
    data = line.encode("utf-16-le")[: 2 * MAX_ANSWER]
    return data.decode("utf-16-le", "ignore")
