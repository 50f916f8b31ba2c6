"""What a chat frontend provides. Knows the bot that a frontend serves, no chat service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chatbridge.bridge import Bot


@dataclass(frozen=True, slots=True)
class FrontendType:
    """What `register_frontends` returns: a chat service, named by `frontend:` in bots.yaml.

    `options`: a `chatbridge.Options` subclass whose fields are the keys that a bot of this frontend accepts.
    `run(options, bot)`: an async function that serves the bot until it is cancelled; it turns the service's
    events into `Message`s for `bot.receive` and shows what comes back.
    """

    name: str
    options: type[BaseModel]
    summary: str
    run: Callable[[Any, Bot], Awaitable[None]]
