"""What this plugin offers. Imports nothing heavy: `chatbridge --help` must stay quick for everybody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import BackendType, ChatCommand, FrontendType, Template


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_hello.model import imitator

    return [imitator]


@hookimpl
def register_frontends() -> Iterable[FrontendType]:
    from chatbridge_hello.service import lines

    return [lines]


@hookimpl
def register_templates() -> Iterable[Template]:
    from chatbridge import Template

    return [Template(name="letter", summary="Dear model, …", user="Dear model,\n{text}\n", assistant="Yours:{text}\n")]


@hookimpl
def register_chat_commands() -> Iterable[ChatCommand]:
    from chatbridge_hello.commands import hello

    return [hello]
