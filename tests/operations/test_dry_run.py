"""What a dry run says of each channel, without a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge import BackendType, ChannelSettings, ModelLoadError, Options, Plugins
from chatbridge.config.settings import BotSettings, ModelSettings, Settings
from chatbridge.operations.dry_run import dry_run
from chatbridge.prompts import presets
from chatbridge.testing import ScriptedBackend, plugin_of, scripted


def settings_of(folder: Path, *bots: BotSettings, defaults: ChannelSettings | None = None) -> Settings:
    models = {name: ModelSettings(name, "scripted", Options(), template="alpaca") for name in ("one", "two", "unused")}
    return Settings(
        models, presets(), folder / "db", defaults or ChannelSettings(model="one"), {bot.name: bot for bot in bots}
    )


def plugins_of(backend: ScriptedBackend) -> Plugins:
    return Plugins([plugin_of(backends=[scripted(backend)])], discover=False)


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ({"reply_to": "always", "chance": 0.5}, "all messages"),
        ({"reply_to": "mentions", "replies": True}, "mentions, replies"),
        ({"reply_to": "mentions", "replies": False}, "mentions"),
        ({"reply_to": "mentions", "replies": False, "chance": 0.25}, "mentions, 25% of the rest"),
        ({"reply_to": "never", "replies": True}, "nothing"),
        ({"reply_to": "never", "prefix": "!", "pattern": "^hey"}, "'!', /^hey/"),
    ],
)
async def test_it_says_which_messages_are_answered(tmp_path: Path, answered: dict[str, object], words: str) -> None:
    defaults = ChannelSettings(model="one", **answered)  # type: ignore[arg-type]
    settings = settings_of(tmp_path, BotSettings("bot", "fake", Options()), defaults=defaults)
    lines, failures = await dry_run(settings, plugins_of(ScriptedBackend()), ())
    assert (len(lines), failures) == (3, 0)
    assert lines[0].startswith("model one: loads; ")
    assert lines[1] == "bot bot: fake"
    assert lines[2].startswith(f"  everywhere: model one, template alpaca, answers {words}")
    assert words == "all messages" or "all messages" not in lines[2]


async def test_each_bot_and_channel_that_is_asked_for_has_a_line(tmp_path: Path) -> None:
    first = BotSettings("a", "fake", Options(), channels={"7": ChannelSettings(model="two")})
    settings = settings_of(tmp_path, first, BotSettings("b", "fake", Options()))
    for names, beginnings in (
        ((), ["model one: ", "model two: ", "bot a", "  everywhere", "  channel 7", "bot b", "  everywhere"]),
        (("b",), ["model one: ", "bot b", "  everywhere"]),
    ):
        lines, failures = await dry_run(settings, plugins_of(ScriptedBackend()), names)
        assert failures == 0
        assert [line[: len(begin)] for line, begin in zip(lines, beginnings, strict=True)] == beginnings


async def test_a_model_that_does_not_load_fails_wherever_it_is_used(tmp_path: Path) -> None:
    async def connect(options: Options) -> ScriptedBackend:
        raise ModelLoadError("no such file")

    broken = BackendType("scripted", Options, "is not there", connect=connect)
    settings = settings_of(tmp_path, BotSettings("bot", "fake", Options()))
    lines, failures = await dry_run(settings, Plugins([plugin_of(backends=[broken])], discover=False), ())
    assert lines == ["model one: FAILS: no such file", "bot bot: fake", "  everywhere: model one FAILS"]
    assert failures == 2
