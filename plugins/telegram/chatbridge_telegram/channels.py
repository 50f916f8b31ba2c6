"""Where a message is: Telegram's chats and topics as chatbridge's channels, and back. Knows no message."""

from __future__ import annotations

from dataclasses import dataclass

import telegram

from chatbridge import Channel


@dataclass(frozen=True, slots=True)
class ChatAddress:
    """A chat, or a topic in it."""

    chat: int
    topic: int | None = None

    @classmethod
    def of(cls, id: str) -> ChatAddress:
        """The place that a channel's id names, `chat` or `chat:topic`."""
        chat, _, topic = id.partition(":")
        return cls(int(chat), int(topic) if topic else None)

    @property
    def id(self) -> str:
        """The channel's id."""
        return f"{self.chat}:{self.topic}" if self.topic is not None else str(self.chat)

    @property
    def private(self) -> bool:
        """Whether it is one person's chat; Telegram gives groups ids below 0."""
        return self.chat > 0


def channel_of(message: telegram.Message) -> Channel:
    """The channel that a message was written in."""
    chat = message.chat
    topic = message.message_thread_id if message.is_topic_message else None
    place = ChatAddress(chat.id, topic)
    name = chat.title or chat.full_name or ""
    parent = None if topic is None else str(chat.id)
    return Channel(place.id, name, "private" if place.private else "group", parent)
