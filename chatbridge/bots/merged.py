"""What bots.yaml says for the channels of one bot, merged once and not for each message. Knows no conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge.types import Channel

if TYPE_CHECKING:
    from chatbridge.config.settings import ChannelSettings, Settings


class MergedSettings:
    """One entry for each way of merging: all channels that bots.yaml does not name share one."""

    def __init__(self, bot: str) -> None:
        self._bot = bot
        self._merged_from: Settings | None = None
        self._merged: dict[tuple[str, ...], ChannelSettings] = {}

    def of(self, settings: Settings, channel: Channel) -> ChannelSettings:
        """The settings of a channel. `settings`: all of them, as they are now."""
        if settings is not self._merged_from:
            self._merged, self._merged_from = {}, settings
        own = settings.bots.get(self._bot)
        named = () if own is None else tuple(id for id in (channel.parent, channel.id) if id and id in own.channels)
        if named not in self._merged:
            self._merged[named] = settings.channel(self._bot, channel)
        return self._merged[named]
