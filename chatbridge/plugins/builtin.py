"""What the core itself offers, under the names of the hooks by which plugins offer the same. Knows no plugin."""

from __future__ import annotations

from typing import Any


def commands() -> dict[str, dict[str, Any]]:
    """The names of our own `chatbridge <name>`; each is imported when it is used."""
    from chatbridge.cli.names import COMMANDS

    return {"commands": dict.fromkeys(COMMANDS)}


def everything_else() -> dict[str, dict[str, Any]]:
    """By kind and name."""
    from chatbridge.bots.commands import BUILTIN
    from chatbridge.model_tools.builtin import CONVERTERS
    from chatbridge.prompts.builtin import presets

    return {
        "backends": {},
        "frontends": {},
        "templates": dict(presets()),
        "chat_commands": {command.name: command for command in BUILTIN},
        "converters": {converter.name: converter for converter in CONVERTERS},
    }
