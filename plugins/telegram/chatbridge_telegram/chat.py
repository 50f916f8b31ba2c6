"""One Telegram chat as delivery knows it: five calls of the Bot API, each made once. Decides nothing about when."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

import telegram
from telegram.error import ChatMigrated, TelegramError

from chatbridge import Budget, Limits, MessageContent, as_entities, folded, utf16_length
from chatbridge_telegram.channels import ChatAddress
from chatbridge_telegram.failures import NOT_MODIFIED, chat_error, says
from chatbridge_telegram.options import TelegramOptions

T = TypeVar("T")

MAX_TEXT = 4096
MAX_ENTITIES = 100
"""Telegram passes over the formats of a message from then on."""
THINKING = "…"
"""What delivery shows before the first word; an empty draft says it in the person's own language."""

IN_PRIVATE = Budget(4, 4.0)
IN_GROUPS = Budget(20, 60.0)
EVERYWHERE = Budget(25, 1.0)
"""What Telegram allows a bot at least, in one private chat, in one group, and in all; it tells no exact numbers."""


def limits_of(place: ChatAddress, options: TelegramOptions) -> Limits:
    """What a chat takes, and how fast."""
    drafts = place.private and options.drafts
    return Limits(
        MAX_TEXT,
        count=utf16_length,
        render=as_entities,
        max_entities=MAX_ENTITIES,
        fold=folded,
        max_messages=options.max_parts,
        previews="draft" if drafts else "edit",
        preview_every=1.0 if place.private else 5.0,
        # Telegram shows it for five seconds. A draft shows more, and in a group it would take the edits' place.
        typing_every=0.0 if drafts else 4.5 if place.private else 12.0,
        budget=IN_PRIVATE if place.private else IN_GROUPS,
    )


class TelegramChat:
    """A `chatbridge.Chat`."""

    def __init__(self, client: telegram.Bot, place: ChatAddress, options: TelegramOptions) -> None:
        self._client = client
        self._place = place
        self._options = options
        self._chat = place.chat

    async def send(self, part: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        # Telegram knows no nonce: a message that was sent twice is there twice.
        about: dict[str, Any] = {"reply_markup": keyboard(part), "message_thread_id": self._place.topic}
        if reply_to is not None:
            about["reply_parameters"] = telegram.ReplyParameters(int(reply_to), allow_sending_without_reply=True)

        def call() -> Awaitable[telegram.Message]:
            if part.file is None:
                return self._client.send_message(
                    self._chat, part.text, entities=entities(part), link_preview_options=self._previews, **about
                )
            file = telegram.InputFile(part.file.data, part.file.name)
            return self._client.send_document(
                self._chat, file, caption=part.text, caption_entities=entities(part), **about
            )

        return str((await self._call(call)).message_id)

    async def edit(self, message_id: str, part: MessageContent) -> None:
        def call() -> Awaitable[Any]:
            return self._client.edit_message_text(
                part.text,
                self._chat,
                int(message_id),
                entities=entities(part),
                reply_markup=keyboard(part),
                link_preview_options=self._previews,
            )

        await self._call(call, unchanged=True)

    async def delete(self, message_id: str) -> None:
        await self._call(lambda: self._client.delete_message(self._chat, int(message_id)))

    async def typing(self) -> None:
        await self._call(lambda: self._client.send_chat_action(self._chat, "typing", self._place.topic))

    async def draft(self, draft_id: int, part: MessageContent) -> None:
        text = "" if part.text == THINKING else part.text

        def call() -> Awaitable[Any]:
            return self._client.send_message_draft(
                self._chat,
                draft_id,
                text,
                self._place.topic,
                entities=entities(part),
                api_kwargs={"can_stop": any(button.action == "stop" for button in part.buttons)},
            )

        await self._call(call)

    @property
    def _previews(self) -> telegram.LinkPreviewOptions:
        return telegram.LinkPreviewOptions(is_disabled=not self._options.link_previews)

    async def _call(self, call: Any, *, unchanged: bool = False) -> Any:
        """Make a call, and once more if the group has become a supergroup. `unchanged`: "not modified" is no error."""
        try:
            try:
                return await call()
            except ChatMigrated as moved:
                self._chat = moved.new_chat_id
                return await call()
        except TelegramError as error:
            if unchanged and says(error, NOT_MODIFIED):
                return None
            raise chat_error(error) from error


def entities(part: MessageContent) -> list[telegram.MessageEntity]:
    """The formats of a part."""
    return [
        telegram.MessageEntity(
            one.kind,
            one.offset,
            one.length,
            url=one.data if one.kind == "text_link" else None,
            language=one.data or None if one.kind == "pre" else None,
        )
        for one in part.entities
    ]


def keyboard(part: MessageContent) -> telegram.InlineKeyboardMarkup | None:
    """The buttons of a part, in one row."""
    row = [telegram.InlineKeyboardButton(one.label, callback_data=one.action) for one in part.buttons]
    return telegram.InlineKeyboardMarkup([row]) if row else None
