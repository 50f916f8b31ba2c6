"""The settings that apply in the channels of one bot: what bots.yaml says, merged once and not for each message, with
what a conversation has set for itself on top. Knows no conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chatbridge.bots.stored_overrides import sound
from chatbridge.types import Channel

if TYPE_CHECKING:
    from chatbridge.config.settings import ChannelSettings, Settings

log = logging.getLogger(__name__)


class MergedSettings:
    """One entry for each way of merging: all channels that bots.yaml does not name share one."""

    def __init__(self, bot: str) -> None:
        self._bot = bot
        self._merged_from: Settings | None = None
        self._merged: dict[tuple[str, ...], ChannelSettings] = {}

    def of(self, settings: Settings, channel: Channel, overrides: Mapping[str, Any] | None = None) -> ChannelSettings:
        """The settings of a channel. `settings`: all of them, as they are now. `overrides`: a conversation's own."""
        if not overrides:
            return self._without_overrides(settings, channel)
        try:
            return settings.channel(self._bot, channel, overrides=overrides)
        except ValidationError:
            kept, left_out = sound(overrides)
            where = f"bot {self._bot}, channel {channel.id}"
            log.warning("%s: settings of the conversation are left out: %s", where, ", ".join(left_out))
            return settings.channel(self._bot, channel, overrides=kept)

    def _without_overrides(self, settings: Settings, channel: Channel) -> ChannelSettings:
        if settings is not self._merged_from:
            self._merged, self._merged_from = {}, settings
        own = settings.bots.get(self._bot)
        named = () if own is None else tuple(id for id in (channel.parent, channel.id) if id and id in own.channels)
        if named not in self._merged:
            self._merged[named] = settings.channel(self._bot, channel)
        return self._merged[named]
