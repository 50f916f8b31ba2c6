"""`chatbridge run --dry-run`: goes through everything that a start needs, but for calling a chat service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from chatbridge.bots.request import choose_template
from chatbridge.errors import ChatbridgeError
from chatbridge.prompts.doctor import diagnose
from chatbridge.types import Channel, ModelInfo
from chatbridge.worker.pool import ModelPool

if TYPE_CHECKING:
    from chatbridge.config.settings import BotSettings, ChannelSettings, Settings
    from chatbridge.plugins.manager import Plugins


async def dry_run(settings: Settings, plugins: Plugins, names: Iterable[str]) -> tuple[list[str], int]:
    """A line for each model, bot and channel, and how many of them would fail. Loads each model; opens no store."""
    bots = [bot for name, bot in settings.bots.items() if not names or name in set(names)]
    needed = {channel.model for bot in bots for _, channel in _channels(settings, bot)}
    models = ModelPool(plugins.require_backend)
    lines: list[str] = []
    infos: dict[str, ModelInfo] = {}
    try:
        for name in sorted(needed):
            try:
                async with models.use(settings.models[name]) as backend:
                    infos[name] = backend.info
                    details = ", ".join(f"{key} {value}" for key, value in backend.info.details.items())
                    lines.append(f"model {name}: loads; {details or backend.info.architecture}")
            except ChatbridgeError as error:
                lines.append(f"model {name}: FAILS: {error}")
    finally:
        await models.aclose()
    for bot in bots:
        lines.append(f"bot {bot.name}: {bot.frontend}")
        for where, channel in _channels(settings, bot):
            lines.append(f"  {where}: {_channel_line(settings, channel, infos)}")
    return lines, sum("FAILS" in line for line in lines)


def _channels(settings: Settings, bot: BotSettings) -> Iterator[tuple[str, ChannelSettings]]:
    yield "everywhere", settings.channel(bot.name, Channel(""))
    for id in bot.channels:
        yield f"channel {id}", settings.channel(bot.name, Channel(id))


def _channel_line(settings: Settings, channel: ChannelSettings, infos: dict[str, ModelInfo]) -> str:
    if channel.model not in infos:
        return f"model {channel.model} FAILS"
    info = infos[channel.model]
    try:
        template = choose_template(settings.templates, channel, info)
    except ChatbridgeError as error:
        return f"model {channel.model}: FAILS: {error}"
    findings = [f"{one.severity}: {one.message}" for one in diagnose(template, info, options=channel.template_options)]
    line = f"model {channel.model}, template {template.name}, answers {_answered_messages(channel)}"
    return "; ".join([line, *findings])


def _answered_messages(channel: ChannelSettings) -> str:
    """Which messages of a group are answered, in words."""
    kinds = {"always": ["all messages"], "mentions": ["mentions"], "never": []}[channel.reply_to]
    if channel.reply_to == "mentions" and channel.replies:
        kinds.append("replies")
    kinds += [f"{channel.prefix!r}"] if channel.prefix else []
    kinds += [f"/{channel.pattern}/"] if channel.pattern else []
    kinds += [f"{channel.chance:.0%} of the rest"] if channel.chance and channel.reply_to == "mentions" else []
    return ", ".join(kinds) or "nothing"
