"""Which messages a bot answers, by the channel's settings.

Pure decisions about one message; knows no store, no model and no chat service.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from chatbridge.config.pattern import pattern_of
from chatbridge.types import Channel, Message

if TYPE_CHECKING:
    from chatbridge.config.settings import ChannelSettings

MAX_ANSWERS_TO_BOTS = 5
"""So many answers to other bots in a row; then a person has to speak, or two bots would talk for ever."""


def matches(message: Message, settings: ChannelSettings, draw: Callable[[], float]) -> bool:
    """Whether a message is one that is answered. `draw` gives chances from 0 to 1.

    Of its files only their presence counts: they are fetched for a message that is answered, and not before.
    """
    called = message.mentions_bot or (settings.replies and message.replies_to_bot)
    if message.author.is_bot and settings.other_bots != "answer" and not (settings.other_bots == "mentions" and called):
        return False
    if settings.prefix and message.text.startswith(settings.prefix):
        return addressed_text(message, settings) != message.text
    if settings.pattern is not None and pattern_of(settings.pattern).found_in(message.text):
        return True
    if settings.reply_to == "never":
        return False
    if message.channel.kind != "group":
        return settings.private or message.channel.kind == "terminal"
    if settings.reply_to == "always" or called:
        return True
    return bool(settings.chance) and draw() < settings.chance


def addressed_text(message: Message, settings: ChannelSettings) -> str:
    """What the model reads of a message's text: all but the prefix, unless nothing else was said."""
    if not settings.prefix or not message.text.startswith(settings.prefix):
        return message.text
    rest = message.text[len(settings.prefix) :].strip()
    return rest if rest or message.attachments else message.text


def is_addressed(message: Message) -> bool:
    """Whether a message is meant for the bot, whatever the channel's settings are."""
    return message.mentions_bot or message.replies_to_bot or message.channel.kind != "group"


def without_name(text: str, name: str) -> str:
    """A text without the bot's name at its beginning, and what people write between it and their words.

    `name`: a regular expression; upper and lower case are the same.
    """
    return re.sub(rf"\A{name}[\s,:;，：；、]*", "", text, count=1, flags=re.IGNORECASE)


MAX_STREAKS = 1000
"""Of so many channels is remembered how often bots were answered there, of those in which one wrote last."""


class BotStreaks:
    """Counts how many answers in a row went to other bots, for each channel."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def person(self, channel: Channel) -> None:
        """A person has spoken."""
        self._counts.pop(channel.id, None)

    def allow(self, channel: Channel) -> bool:
        """Whether one more answer to a bot is in order; it is counted."""
        count = self._counts.pop(channel.id, 0)
        self._counts[channel.id] = count + 1
        while len(self._counts) > MAX_STREAKS:
            del self._counts[next(iter(self._counts))]
        return count < MAX_ANSWERS_TO_BOTS
