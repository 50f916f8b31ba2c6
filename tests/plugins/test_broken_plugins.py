"""Broken plugins, as installed packages: each is withdrawn whole, with reason and remedy, and stops no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from chatbridge import BackendType, Plugins, Template, hookimpl
from chatbridge.config.keys import BotKeys, ModelKeys
from chatbridge.plugins.checks import RESERVED
from chatbridge.plugins.manager import PluginRecord
from chatbridge.testing import ScriptedBackend, scripted

Install = Callable[..., Path]

SOUND = """
    from chatbridge import Template, hookimpl

    @hookimpl
    def register_templates():
        return [Template(name=__name__, user="{text}", assistant="{text}")]
"""

START = """
    import chatbridge
    from chatbridge import BackendType, ChatCommand, FrontendType, Options, Template, hookimpl

    async def run(*arguments): ...

    def connected(name, options=Options):
        return BackendType(name, options, "", connect=run)

    @hookimpl
    def register_templates():
        return [Template(name="fine", user="{text}", assistant="{text}")]

    @hookimpl(specname="register_commands")
    def fine_command(cli):
        import click
        cli.add_command(click.Command("fine"))
"""
"""A plugin that offers a template and a command; what follows breaks it, and both have to go."""

AUTHOR = "update or uninstall the plugin 'broken', or tell its author"
TWO = "rename it, or uninstall one of the two"

BROKEN = {
    # at import
    "an error": ("raise RuntimeError('no luck')", "RuntimeError: no luck", AUTHOR),
    "an error of many lines": ("raise ValueError('one\\n  two')", "ValueError: one two", AUTHOR),
    "an exit": ("raise SystemExit", "SystemExit", AUTHOR),
    "a panic": ("class Panic(BaseException): ...\nraise Panic('rust')", "Panic: rust", AUTHOR),
    "not Python": ("def f(:", "SyntaxError: .*", AUTHOR),
    "a missing library": (
        "import llama_of_the_future.api",
        "ModuleNotFoundError: No module named 'llama_of_the_future'",
        "pip install the library that provides 'llama_of_the_future'",
    ),
    # hooks that are none
    "a misspelt hook": (
        "@hookimpl\ndef register_backend(): return []",
        "there is no hook called 'register_backend'; did you mean 'register_backends'?",
        AUTHOR,
    ),
    "a hook of another program": ("@hookimpl\ndef xyz(): ...", "there is no hook called 'xyz'", AUTHOR),
    "a wrong argument": (
        "@hookimpl\ndef register_backends(models): return []",
        "PluginValidationError: Plugin 'broken' for hook 'register_backends' .*{'models'}.*",
        AUTHOR,
    ),
    "an async hook": (
        "@hookimpl\nasync def should_reply(): return True",
        "its should_reply is async; hooks are plain functions that return at once",
        AUTHOR,
    ),
    "a wrapper": (
        "@hookimpl(wrapper=True)\ndef turn_finished(): yield",
        "its turn_finished is a wrapper; hooks are plain functions here",
        AUTHOR,
    ),
    # what hooks return
    "nothing": (
        "@hookimpl\ndef register_backends(): ...",
        "register_backends has to return a list of BackendType, not nothing",
        AUTHOR,
    ),
    "a thing, not a list": (
        "@hookimpl\ndef register_backends(): return connected('one')",
        "register_backends has to return a list of BackendType, not BackendType",
        AUTHOR,
    ),
    "nothing in a list": (
        "@hookimpl\ndef register_frontends(): return [None]",
        "register_frontends has to return FrontendType only, not nothing",
        AUTHOR,
    ),
    "something else": (
        "@hookimpl\ndef register_chat_commands(): return ['roll']",
        "register_chat_commands has to return ChatCommand only, not str",
        AUTHOR,
    ),
    "the other kind": (
        "@hookimpl\ndef register_frontends(): return [connected('one')]",
        "register_frontends has to return FrontendType only, not BackendType",
        AUTHOR,
    ),
    "an error in a hook": ("@hookimpl\ndef register_frontends(): 1 / 0", "ZeroDivisionError: division by zero", AUTHOR),
    "an error half-way": (
        "@hookimpl\ndef register_backends():\n    yield connected('fine')\n    raise OSError('half')",
        "OSError: half",
        AUTHOR,
    ),
    "an exit in a hook": ("@hookimpl\ndef register_backends(): raise SystemExit(3)", "SystemExit: 3", AUTHOR),
    "a command half-way": (
        "@hookimpl\ndef register_commands(cli): cli.add_command(1)",
        "AttributeError: .*",
        AUTHOR,
    ),
    "no name": (
        "@hookimpl\ndef register_backends(): return [connected(' ')]",
        "register_backends returns something without a name",
        AUTHOR,
    ),
    "a name twice": (
        "@hookimpl\ndef register_backends(): return [connected('one'), connected('one')]",
        "register_backends returns two things called 'one'",
        AUTHOR,
    ),
    "a name that nobody can type": (
        "@hookimpl\ndef register_chat_commands(): return [ChatCommand('Roll dice', '', '', run)]",
        "nobody could type the chat command 'Roll dice': .*",
        AUTHOR,
    ),
    "options that are none": (
        "@hookimpl\ndef register_backends(): return [connected('one', dict)]",
        "the options of 'one' have to be a class made from chatbridge.Options",
        AUTHOR,
    ),
    "options with a key of ours": (
        "class Mine(Options):\n    channels: int = 1\n"
        "@hookimpl\ndef register_frontends(): return [FrontendType('one', Mine, '', run)]",
        "the options of 'one' have the key 'channels', which is chatbridge's own",
        AUTHOR,
    ),
    "neither load nor connect": (
        "@hookimpl\ndef register_backends(): return [BackendType('one', Options, '')]",
        "TypeError: BackendType 'one' needs exactly one of load= and connect=",
        AUTHOR,
    ),
    "a word in the place of several": (
        "@hookimpl\ndef register_backends(): return [BackendType('one', Options, '', connect=run, runs='gguf')]",
        r"TypeError: BackendType 'one': runs is a tuple of words, as \('gguf',\)",
        AUTHOR,
    ),
    # clashes
    "our backend's name": (
        "@hookimpl\ndef register_backends(): return [connected('numpy')]",
        "its backend 'numpy' is offered by the plugin 'numpy' already",
        TWO,
    ),
    "our frontend's name": (
        "@hookimpl\ndef register_frontends(): return [FrontendType('repl', Options, '', run)]",
        "its frontend 'repl' is offered by the plugin 'repl' already",
        TWO,
    ),
    "a preset's name": (
        "@hookimpl(specname='register_templates')\n"
        "def more(): return [Template(name='alpaca', user='{text}', assistant='{text}')]",
        "its template 'alpaca' is offered by chatbridge itself already",
        TWO,
    ),
    "a neighbour's name": (
        "@hookimpl(specname='register_templates')\n"
        "def more(): return [Template(name='aardvark', user='{text}', assistant='{text}')]",
        "its template 'aardvark' is offered by the plugin 'aardvark' already",
        TWO,
    ),
    "our chat command's name": (
        "@hookimpl\ndef register_chat_commands(): return [ChatCommand('help', '', '', run)]",
        "its chat command 'help' is offered by chatbridge itself already",
        TWO,
    ),
    "our command's name": (
        "@hookimpl\ndef register_commands(cli):\n    import click\n    cli.add_command(click.Command('check'))",
        "its command 'check' is offered by chatbridge itself already",
        TWO,
    ),
}


def record_of(plugins: Plugins, name: str) -> PluginRecord:
    return next(record for record in plugins.records() if record.name == name)


@pytest.mark.parametrize(("code", "reason", "remedy"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_withdrawn_whole_and_stops_no_other(
    install: Install, code: str, reason: str, remedy: str
) -> None:
    install("aardvark", SOUND)
    install("broken", re.sub(r"(?m)^ {4}", "", START) + code)
    install("zebra", SOUND)
    plugins = Plugins()
    assert {"aardvark", "zebra", "alpaca"} <= plugins.templates.keys()
    broken = record_of(plugins, "broken")
    assert re.fullmatch(reason.replace("?", r"\?"), broken.reason), broken.reason
    assert broken.remedy == remedy
    assert broken.version == "1.2"
    assert broken.offers == {}
    assert record_of(plugins, "zebra").offers == {"templates": ["zebra"]}
    for everything in (plugins.backends, plugins.frontends, plugins.templates, plugins.chat_commands, plugins.commands):
        assert not {"fine", "one"} & everything.keys()
    assert "numpy" in plugins.backends


@pytest.mark.parametrize("first", ["backends", "templates", "commands"])
def test_it_is_withdrawn_whichever_offer_is_asked_for_first(install: Install, first: str) -> None:
    install("broken", START + "\n    @hookimpl\n    def register_frontends(): 1 / 0\n")
    plugins = Plugins()
    assert getattr(plugins, first) is not None
    assert record_of(plugins, "broken").reason
    assert "fine" not in plugins.templates
    assert "fine" not in plugins.commands


def test_ctrl_c_is_no_failure_of_a_plugin(install: Install) -> None:
    install("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Plugins()


def test_a_broken_plugin_does_not_stand_in_the_place_of_a_sound_one_of_the_same_name(install: Install) -> None:
    install("impostor", "raise RuntimeError", entry="numpy")
    install("stranger", SOUND, entry="repl")
    plugins = Plugins()
    assert record_of(plugins, "numpy").reason == ""
    assert record_of(plugins, "numpy (2)").reason == "RuntimeError"
    assert record_of(plugins, "repl (2)").reason == "another plugin is called 'repl' already"
    assert record_of(plugins, "repl (2)").remedy == TWO
    assert "numpy" in plugins.backends
    assert "repl" in plugins.frontends
    assert "stranger" not in plugins.templates


def test_a_package_without_metadata_is_taken_as_it_is(install: Install) -> None:
    install("damaged", SOUND, metadata=False)
    plugins = Plugins()
    assert "damaged" in plugins.templates
    assert record_of(plugins, "damaged").version == ""


def test_backends_are_only_those_of_sound_plugins() -> None:
    class Picky:
        @hookimpl
        def register_backends(self) -> Iterable[BackendType]:
            return [scripted(ScriptedBackend())]

        @hookimpl
        def register_templates(self) -> Iterable[Template]:
            raise RuntimeError

    assert not Plugins([Picky()], discover=False).backends


def test_no_plugin_can_take_a_key_that_bots_yaml_has_beside_its_own() -> None:
    keys = {"backends": ModelKeys, "frontends": BotKeys}
    assert {kind: set(names) for kind, names in RESERVED.items()} == {
        kind: set(model.model_fields) for kind, model in keys.items()
    }
