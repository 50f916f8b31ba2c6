"""Which messages a bot answers, by the channel's settings.

Pure decisions about one message; knows no store, no model and no chat service.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from chatbridge.types import Channel, Message

if TYPE_CHECKING:
    from chatbridge.config.settings import ChannelSettings

MOST_TO_BOTS = 5
"""So many answers to other bots in a row; then a person has to speak, or two bots would talk for ever."""


def heard(message: Message, settings: ChannelSettings, draw: Callable[[], float]) -> Message | None:
    """The message as the model is to read it, if it is one that is answered. `draw` gives chances from 0 to 1."""
    addressed = message.mentions_bot or (settings.replies and message.replies_to_bot)
    if (
        message.author.is_bot
        and settings.other_bots != "answer"
        and not (settings.other_bots == "mentions" and addressed)
    ):
        return None
    if settings.prefix and message.text.startswith(settings.prefix):
        rest = message.text[len(settings.prefix) :].strip()
        return replace(message, text=rest) if rest or message.attachments else None
    if settings.pattern is not None and re.search(settings.pattern, message.text):
        return message
    if settings.reply_to == "never":
        return None
    if message.channel.kind != "group":
        return message if settings.private or message.channel.kind == "terminal" else None
    if settings.reply_to == "always" or addressed:
        return message
    return message if settings.chance and draw() < settings.chance else None


class BotStreaks:
    """Counts how many answers in a row went to other bots, for each channel."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def person(self, channel: Channel) -> None:
        """A person has spoken."""
        self._counts.pop(channel.id, None)

    def allow(self, channel: Channel) -> bool:
        """Whether one more answer to a bot is in order; it is counted."""
        count = self._counts.get(channel.id, 0)
        self._counts[channel.id] = count + 1
        return count < MOST_TO_BOTS
