"""Which conversation a message belongs to, by the channel's settings. Pure; knows no store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge.types import Channel, Message

if TYPE_CHECKING:
    from chatbridge.config.settings import ChannelSettings


SIDE = "/aside/"
"""Between a channel's id and the name of a side conversation."""


def conversation_key(message: Message, settings: ChannelSettings) -> str:
    """The key of the conversation that a message belongs to, if it is no reply to a message that has one.

    Scopes divide groups; a private chat is one conversation.
    """
    channel = message.channel
    if channel.kind != "group":
        return channel.id
    match settings.scope:
        case "channel":
            return channel.parent or channel.id
        case "user":
            return f"{channel.id}/{message.author.id}"
        case "replies":
            return f"{channel.id}#{message.id}"
        case _:
            return channel.id


def owner_of(key: str, channel: Channel) -> str | None:
    """Whose own conversation a key of that channel is, by id: where each person has one, another's is not touched."""
    rest = key.removeprefix(channel.id)
    if channel.kind != "group" or rest == key or not rest.startswith("/") or rest.startswith(SIDE):
        return None
    return rest[1:]


def moved_key(key: str, old: str, new: str) -> str:
    """The key of a conversation, in any scope, once a channel has another id; that of another channel stays."""
    rest = key.removeprefix(old)
    return new + rest if key.startswith(old) and rest[:1] in ("", "/", "#") else key


def in_reply_chains(settings: ChannelSettings, channel: Channel) -> bool:
    """Whether each chain of replies is a conversation there."""
    return settings.scope == "replies" and channel.kind == "group"
