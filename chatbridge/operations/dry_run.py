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


async def rehearse(settings: Settings, plugins: Plugins, names: Iterable[str]) -> tuple[list[str], int]:
    """What would start, line by line, and how much of it would fail. Loads each model; opens no store."""
    bots = [bot for name, bot in settings.bots.items() if not names or name in set(names)]
    needed = {place.model for bot in bots for _, place in _places(settings, bot)}
    models = ModelPool(plugins)
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
        for where, place in _places(settings, bot):
            lines.append(f"  {where}: {_described(settings, place, infos)}")
    return lines, sum("FAILS" in line for line in lines)


def _places(settings: Settings, bot: BotSettings) -> Iterator[tuple[str, ChannelSettings]]:
    yield "everywhere", settings.channel(bot.name, Channel(""))
    for id in bot.channels:
        yield f"channel {id}", settings.channel(bot.name, Channel(id))


def _described(settings: Settings, place: ChannelSettings, infos: dict[str, ModelInfo]) -> str:
    if place.model not in infos:
        return f"model {place.model} FAILS"
    info = infos[place.model]
    try:
        template = choose_template(settings.templates, place, info)
    except ChatbridgeError as error:
        return f"model {place.model}: FAILS: {error}"
    findings = [f"{one.severity}: {one.message}" for one in diagnose(template, info)]
    return "; ".join([f"model {place.model}, template {template.name}, answers {_answered(place)}", *findings])


def _answered(place: ChannelSettings) -> str:
    """Which messages of a group are answered, in words."""
    kinds = {"always": ["all messages"], "mentions": ["mentions"], "never": []}[place.reply_to]
    if place.reply_to == "mentions" and place.replies:
        kinds.append("replies")
    kinds += [f"{place.prefix!r}"] if place.prefix else []
    kinds += [f"/{place.pattern}/"] if place.pattern else []
    kinds += [f"{place.chance:.0%} of the rest"] if place.chance and place.reply_to == "mentions" else []
    return ", ".join(kinds) or "nothing"
