"""Runs RWKV models by BlinkDL's rwkv package: a small state for each conversation, all of them in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    import click

    from chatbridge import BackendType, ChatCommand, Converter, Template


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_rwkv.backend import rwkv

    return [rwkv]


@hookimpl
def register_templates() -> Iterable[Template]:
    from chatbridge_rwkv.chat import FREE

    return [FREE]


@hookimpl
def register_converters() -> Iterable[Converter]:
    from chatbridge_rwkv.converters import CONVERTERS

    return CONVERTERS


@hookimpl
def register_chat_commands() -> Iterable[ChatCommand]:
    from chatbridge_rwkv.chat import commands

    return commands()


@hookimpl
def register_commands(cli: click.Group) -> None:
    from chatbridge_rwkv.cli import states

    cli.add_command(states)
