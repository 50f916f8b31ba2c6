"""Validates what a plugin's hook returned: its types, names and options. Knows no plugin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from chatbridge.errors import PluginError

KINDS = ("backends", "frontends", "templates", "chat_commands", "converters")
"""What the hooks `register_<kind>` offer, besides commands of the command line."""

RESERVED = {
    "backends": (
        "backend", "catalogue", "template", "template_options", "sampling", "max_batch", "hang_timeout",
        "memory_limit", "kept_states", "idle_minutes",
    ),
    "frontends": (
        "frontend", "defaults", "channels", "allow", "deny", "admins", "admin_commands", "pairing", "limits",
        "anonymous", "strangers",
    ),
}  # fmt: skip
"""Keys of bots.yaml that are the core's where they stand beside a plugin's."""


def validated(kind: str, hook: Callable[..., Any]) -> dict[str, Any]:
    """What a plugin's `register_<kind>` returns, by name, once all of it is found to be good.

    Raises: PluginError for anything that can't be used, and whatever the hook itself raises.
    """
    if kind == "commands":
        return _commands(hook)
    wanted = _type_of(kind)
    returned = hook()
    if not isinstance(returned, Iterable):
        raise PluginError(f"register_{kind} has to return a list of {wanted.__name__}, not {_kind_of(returned)}")
    found: dict[str, Any] = {}
    for item in returned:
        if not isinstance(item, wanted):
            raise PluginError(f"register_{kind} has to return {wanted.__name__} only, not {_kind_of(item)}")
        _check_name(kind, item.name)
        if item.name in found:
            raise PluginError(f"register_{kind} returns two things called {item.name!r}")
        if kind in RESERVED:
            _check_options(kind, item.name, item.options)
        found[item.name] = item
    return found


def _type_of(kind: str) -> type[Any]:
    """What a hook has to return; imported only now, since it brings pydantic."""
    from chatbridge.bots.command import ChatCommand
    from chatbridge.engine.backend import BackendType
    from chatbridge.model_tools.converter import Converter
    from chatbridge.plugins.frontend import FrontendType
    from chatbridge.prompts.template import Template

    types = {
        "backends": BackendType, "frontends": FrontendType, "templates": Template, "chat_commands": ChatCommand,
        "converters": Converter,
    }  # fmt: skip
    return types[kind]


def _commands(hook: Callable[..., Any]) -> dict[str, Any]:
    import click

    # A group of its own: a plugin that fails half-way leaves nothing behind, and none replaces another's command.
    group = click.Group()
    hook(cli=group)
    return dict(group.commands)


def _check_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise PluginError(f"register_{kind} returns something without a name")
    if kind == "chat_commands" and not re.fullmatch(r"[a-z][\w-]*", name):
        raise PluginError(f"nobody could type the chat command {name!r}: small letters, digits, - and _ make a name")


def _check_options(kind: str, name: str, options: object) -> None:
    from pydantic import BaseModel

    if not isinstance(options, type) or not issubclass(options, BaseModel):
        raise PluginError(f"the options of {name!r} have to be a class made from chatbridge.Options")
    if taken := next((key for key in options.model_fields if key in RESERVED[kind]), None):
        raise PluginError(f"the options of {name!r} have the key {taken!r}, which is chatbridge's own")


def _kind_of(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
