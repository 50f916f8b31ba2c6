"""What each hook is for, and what is said about plugins; `test_broken_plugins.py` has the broken ones."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatbridge import (
    Author,
    Bridge,
    Channel,
    ChannelSettings,
    ChatCommand,
    CommandContext,
    Converter,
    FinishedReply,
    FrontendType,
    Message,
    Notice,
    Options,
    PluginError,
    Plugins,
    ReplyStream,
    Template,
    hookimpl,
    hookspecs,
)
from chatbridge.plugins.packages import FIRST_PARTY, install_command
from chatbridge.testing import ScriptedBackend, bridge_with, plugin_of, scripted

Install = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

# --- what is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FIRST_PARTY.items() for name in names])
def test_a_missing_plugin_of_ours_says_how_to_get_it(kind: str, name: str) -> None:
    with pytest.raises(PluginError) as caught:
        getattr(Plugins(discover=False), f"require_{kind}")(name)
    assert str(caught.value) == f"{kind} {name!r} needs its plugin: {install_command(kind, name)}"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("backend", "nunpy", "there is no backend 'nunpy'; did you mean 'numpy'? (installed: numpy)"),
        ("backend", "repl", "there is no backend 'repl' (installed: numpy)"),
        ("backend", "discord", "there is no backend 'discord' (installed: numpy)"),
        ("frontend", "rwkv", "there is no frontend 'rwkv' (installed: repl)"),
        (
            "frontend",
            "telegramm",
            "there is no frontend 'telegramm'; did you mean 'telegram'? "
            f"It needs its plugin: {install_command('frontend', 'telegram')} (installed: repl)",
        ),
    ],
)
def test_an_unknown_name_gets_a_hint(kind: str, name: str, message: str) -> None:
    import chatbridge_numpy
    import chatbridge_repl

    with pytest.raises(PluginError) as caught:
        getattr(Plugins([chatbridge_numpy, chatbridge_repl], discover=False), f"require_{kind}")(name)
    assert str(caught.value) == message


def test_a_name_that_a_broken_plugin_would_offer_says_why_it_is_not_there(install: Install) -> None:
    install("acme", "import acme_driver")
    plugins = Plugins()
    with pytest.raises(PluginError) as caught:
        plugins.require_backend("acme")
    assert str(caught.value) == (
        "the plugin for backend 'acme' is broken: ModuleNotFoundError: No module named 'acme_driver'; "
        "pip install the library that provides 'acme_driver'"
    )
    with pytest.raises(PluginError, match="broken plugins: acme, see `chatbridge plugins`"):
        plugins.require_backend("acme-turbo")


def test_plugins_that_are_handed_in_may_look_alike() -> None:
    one, two = (plugin_of(templates=[Template(name=name, user="{text}", assistant="{text}")]) for name in "ab")
    plugins = Plugins([one, two], discover=False)
    assert {"a", "b"} <= plugins.templates.keys()
    assert [record.name for record in plugins.records()] == ["Plugin", "Plugin (2)"]


# --- every hook ----------------------------------------------------------------------------------------------------

HOOKS = sorted(name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "chatbridge_spec"))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test_that_it_is_called(hook: str) -> None:
    assert f"test_{hook}_is_called" in globals()


def test_register_backends_is_called() -> None:
    kind = scripted(ScriptedBackend("Hello"))
    assert Plugins([plugin_of(backends=[kind])], discover=False).require_backend("scripted") is kind


def test_register_frontends_is_called() -> None:
    async def run(options: Options, bot: object) -> None: ...

    kind = FrontendType("pigeons", Options, "slow", run)
    assert Plugins([plugin_of(frontends=[kind])], discover=False).require_frontend("pigeons") is kind


def test_register_templates_is_called() -> None:
    template = Template(name="letter", user="Dear model, {text}", assistant="Yours, {text}")
    assert Plugins([plugin_of(templates=[template])], discover=False).templates["letter"] is template


def test_register_converters_is_called() -> None:
    kind = Converter("shrink", "makes it small", ("gguf",), ("tiny",), lambda conversion: None)
    assert Plugins([plugin_of(converters=[kind])], discover=False).converters["shrink"] is kind


COMMANDS = """
    import click
    from chatbridge import hookimpl

    @click.command("greet", help="Greet somebody.")
    @click.argument("name")
    def greet(name):
        click.echo(f"Good evening, {name}!")

    @hookimpl
    def register_commands(cli):
        cli.add_command(greet)
"""
THIEF = COMMANDS.replace('"greet"', '"check"').replace("Good evening", "Stolen")


def test_register_commands_is_called(install: Install, chatbridge: Run) -> None:
    install("greeter", COMMANDS)
    install("thief", THIEF)
    done = chatbridge("greet", "Ann")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Good evening, Ann!\n", "")
    assert re.search(r"greet +Greet somebody\.", chatbridge("--help").stdout)
    assert "Stolen" not in chatbridge("check").stdout


async def roll(context: CommandContext, argument: str) -> str | ReplyStream:
    if argument == "again":
        return context.dialogue.regenerate(context.language)
    return f"{context.message.author.name} rolls {argument or 6}"


DICE = ChatCommand("roll", "roll a die", "掷骰子", roll, "[SIDES]")


ALONE = Channel("c1")


def message(text: str, channel: Channel = ALONE, **more: Any) -> Message:
    return Message(str(hash(text)), channel, Author("1", "Ann"), text, **more)


async def said(turn: Notice | ReplyStream | None) -> str | None:
    if isinstance(turn, ReplyStream):
        return "".join([chunk.text async for chunk in turn])
    return turn.text if turn else None


async def test_register_chat_commands_is_called(tmp_path: Path) -> None:
    backend = scripted(ScriptedBackend("First.", "Second."))
    async with bridge_with(backend, tmp_path / "db", plugins=[plugin_of(chat_commands=[DICE])]) as bridge:
        bot = bridge.bot("b")
        assert await said(await bot.receive(message("/roll 20"))) == "Ann rolls 20"
        assert await said(await bot.receive(message("/ROLL"))) == "Ann rolls 6"
        assert await said(await bot.receive(message("Hello"))) == "First."
        assert await said(await bot.receive(message("/roll again"))) == "Second."
        assert "- `/roll [SIDES]`: roll a die" in (await said(await bot.receive(message("/help"))) or "")
    async with bridge_with(
        backend, tmp_path / "db2", plugins=[plugin_of(chat_commands=[DICE])], defaults=ChannelSettings(language="zh")
    ) as bridge:
        assert "掷骰子" in (await said(await bridge.bot("b").receive(message("/help"))) or "")


class Opinion:
    """Answers `should_reply` as it is told, and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    @hookimpl
    def should_reply(self, message: Message, settings: ChannelSettings) -> bool | None:
        self.asked.append((message.text, settings.reply_to))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Silence(Opinion):
    """Asked first, since it is newest."""


ROOM = Channel("room", kind="group")


async def answers(bridge: Bridge, text: str, **more: Any) -> bool:
    return await said(await bridge.bot("b").receive(message(text, ROOM, **more))) is not None


async def test_should_reply_is_called(tmp_path: Path) -> None:
    opinion, silence = Opinion(True), Silence(None)
    backend = scripted(ScriptedBackend("Yes?"))
    async with bridge_with(
        backend, tmp_path / "db", plugins=[opinion, silence], defaults=ChannelSettings(reply_to="mentions")
    ) as bridge:
        assert await answers(bridge, "not for the bot")
        assert silence.asked == opinion.asked == [("not for the bot", "mentions")]
        silence.answer = False
        assert not await answers(bridge, "for the bot", mentions_bot=True)
        assert len(opinion.asked) == 1, "the first answer counts, and nobody else is asked"
        opinion.answer = silence.answer = None
        assert not await answers(bridge, "nobody knows")
        assert await answers(bridge, "then the settings decide", mentions_bot=True)


@pytest.mark.parametrize("error", [RuntimeError("no opinion"), SystemExit(1)])
async def test_a_failing_should_reply_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    plugins = [Opinion(True), Silence(error)]
    async with bridge_with(
        scripted(ScriptedBackend("Yes?")), tmp_path / "db", plugins=plugins, defaults=ChannelSettings(reply_to="never")
    ) as bridge:
        assert await answers(bridge, "hello")
    assert "the plugin Silence failed in should_reply" in caplog.text


class Observer:
    """Remembers turns; `then` says what becomes of it."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.then = then
        self.turns: list[FinishedReply] = []

    @hookimpl
    def turn_finished(self, reply: FinishedReply) -> object:
        self.turns.append(reply)
        return self.then()


async def test_turn_finished_is_called(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> object:
        raise OSError("the disk is full")

    observers = [Observer(), Observer(fail), Observer(lambda: "an answer that nobody wants"), Observer()]
    async with bridge_with(scripted(ScriptedBackend("Yes?")), tmp_path / "db", plugins=observers) as bridge:
        assert await said(await bridge.bot("b").receive(message("hello"))) == "Yes?"
    for observer in observers:
        (turn,) = observer.turns
        assert (turn.bot, turn.channel.id, turn.model) == ("b", "c1", "model")
        assert turn.finish is not None
        assert turn.finish.reply.text == "Yes?"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == ["the plugin Observer (2) failed in turn_finished"]
    assert "the disk is full" in caplog.text


def test_hooks_may_leave_out_arguments() -> None:
    class Short:
        @hookimpl
        def should_reply(self, message: Message) -> bool:
            return message.text == "yes"

    plugins = Plugins([Short()], discover=False)
    assert plugins.ask("should_reply", message=message("yes"), settings=ChannelSettings()) is True
    assert plugins.ask("should_reply", message=message("no"), settings=ChannelSettings()) is False


def test_pluggys_own_order_is_kept() -> None:
    class Last:
        @hookimpl(trylast=True)
        def should_reply(self) -> bool:
            return False

    plugins = Plugins([Opinion(True), Last()], discover=False)
    assert plugins.ask("should_reply", message=message("hi"), settings=ChannelSettings()) is True


# --- chatbridge plugins --------------------------------------------------------------------------------------------


def test_the_list_of_plugins(install: Install, chatbridge: Run) -> None:
    install("greeter", COMMANDS)
    install("lost", "import llama_of_the_future")
    done = chatbridge("plugins")
    assert done.returncode == 0
    assert "greeter 1.2\n  commands: greet\n" in done.stdout
    assert (
        "lost 1.2  broken\n"
        "  reason: ModuleNotFoundError: No module named 'llama_of_the_future'\n"
        "  remedy: pip install the library that provides 'llama_of_the_future'\n"
    ) in done.stdout
    assert re.search(r"(?m)^numpy \S+\n  backends: numpy$", done.stdout)


def test_the_list_as_json(install: Install, chatbridge: Run) -> None:
    install("greeter", COMMANDS)
    install("lost", "import llama_of_the_future")
    done = chatbridge("plugins", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = {plugin["name"]: plugin for plugin in json.loads(done.stdout)}
    assert listed["greeter"] == {
        "name": "greeter",
        "version": "1.2",
        "offers": {"commands": ["greet"]},
        "reason": "",
        "remedy": "",
    }
    assert listed["lost"]["reason"] == "ModuleNotFoundError: No module named 'llama_of_the_future'"
    assert listed["numpy"]["offers"] == {"backends": ["numpy"]}
