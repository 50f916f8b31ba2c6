"""What a chat frontend provides. Knows the bot that a frontend serves, no chat service."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chatbridge.bots.bot import Bot


@dataclass(frozen=True, slots=True)
class FrontendType:
    """What `register_frontends` returns: a chat service, named by `frontend:` in bots.yaml.

    `options`: a `chatbridge.Options` subclass whose fields are the keys that a bot of this frontend accepts.
    `run(options, bot)`: an async function that serves the bot until it is cancelled; it turns the service's
    events into `Message`s for `bot.receive` and shows what comes back.
    `ids`: a regular expression that every id of a channel or person matches; `ids_hint` says in words what an id
    looks like and where it is found.
    `ends`: `run` may return by itself, as a terminal's does when its person leaves. Any other's has failed when it
    returns, and is started again. A `ConfigError` from `run` is for what only a person can mend, such as a wrong
    token: the bot then stays away until bots.yaml changes.
    """

    name: str
    options: type[BaseModel]
    summary: str
    run: Callable[[Any, Bot], Awaitable[None]]
    ids: str = r"\S(.*\S)?"
    ids_hint: str = "it should have no blanks around it"
    ends: bool = False

    def check_id(self, id: str) -> str:
        """What is wrong with an id of this service, in words; empty for a good one."""
        return "" if re.fullmatch(self.ids, id, re.DOTALL) else self.ids_hint
