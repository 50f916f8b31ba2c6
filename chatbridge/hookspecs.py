"""The plugin contract, on one screen: what a package under the entry-point group `chatbridge` may provide.

Hooks are synchronous and return descriptions; whatever awaits hangs off what they return. No token passes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from chatbridge.bots.command import ChatCommand
    from chatbridge.bots.reply import FinishedReply
    from chatbridge.config.settings import ChannelSettings
    from chatbridge.engine.backend import BackendType
    from chatbridge.model_tools.converter import Converter
    from chatbridge.plugins.frontend import FrontendType
    from chatbridge.prompts.template import Template
    from chatbridge.types import Message

hookspec = pluggy.HookspecMarker("chatbridge")
hookimpl = pluggy.HookimplMarker("chatbridge")


@hookspec
def register_backends() -> Iterable[BackendType]:  # type: ignore[empty-body]
    """Ways to run models, named by `backend:` in bots.yaml."""


@hookspec
def register_frontends() -> Iterable[FrontendType]:  # type: ignore[empty-body]
    """Chat services, named by `frontend:` in bots.yaml."""


@hookspec
def register_templates() -> Iterable[Template]:  # type: ignore[empty-body]
    """Prompt templates, named by `template:` in bots.yaml."""


@hookspec
def register_converters() -> Iterable[Converter]:  # type: ignore[empty-body]
    """Ways from one form of a model to another, for `chatbridge model convert` and `quantize`."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add `chatbridge <name>` to the command line: `cli.add_command(...)`."""


@hookspec
def register_chat_commands() -> Iterable[ChatCommand]:  # type: ignore[empty-body]
    """`/name` in every frontend at once."""


@hookspec(firstresult=True)
def should_reply(message: Message, settings: ChannelSettings) -> bool | None:
    """Whether the bot answers this message; None leaves it to the next plugin, and at last to `reply_to`.

    It is asked once for a message, and before its files are fetched: `attachments` may have their names alone.
    """


@hookspec
def turn_finished(reply: FinishedReply) -> None:
    """Told of every answer that ended, for logging and metrics; an error here is logged and harms nothing."""
