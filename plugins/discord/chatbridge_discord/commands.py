"""Slash commands and context menus, in English and Chinese, registered where they have changed. Carries out none."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from chatbridge import Action, ChatCommand, ChatError, RateLimited
from chatbridge_discord.rest import Rest
from chatbridge_discord.texts import say

log = logging.getLogger(__name__)

SLASH, ON_MESSAGE, STRING = 1, 3, 3
MAX_SLASH = 100
MAX_TRIES = 5
CHINESE = ("zh-CN", "zh-TW")
MENUS: dict[str, Action] = {
    say(f"menu_{action}", "en"): action for action in ("regenerate", "continue", "branch")
}  # what a message's context menu offers
_NAME = re.compile(r"[-\w]{1,32}")
_COMPARED = ("type", "name", "name_localizations", "description", "description_localizations", "contexts")
_COMPARED_OPTION = ("type", "name", "description", "required", "autocomplete")


def described(commands: Iterable[ChatCommand]) -> list[dict[str, Any]]:
    """The commands as Discord wants to be told of them."""
    fitting = [one for one in commands if _NAME.fullmatch(one.name) and one.name == one.name.lower()]
    if len(fitting) > MAX_SLASH:
        log.warning("Discord takes %d slash commands; left out: %s", MAX_SLASH, fitting[MAX_SLASH:])
    menus = [
        {
            "type": ON_MESSAGE,
            "name": name,
            "name_localizations": dict.fromkeys(CHINESE, say(f"menu_{action}", "zh")),
            "contexts": [0, 1],
        }
        for name, action in MENUS.items()
    ]
    return [*(_slash(one) for one in fitting[:MAX_SLASH]), *menus]


def _slash(command: ChatCommand) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": SLASH,
        "name": command.name,
        "description": command.summary[:100] or command.name,
        "description_localizations": dict.fromkeys(CHINESE, command.summary_zh[:100] or command.name),
        "contexts": [0, 1],
        "options": [],
    }
    if command.argument:
        # Never required: whether it may be left out only the command knows, and says what is missing.
        option = {
            "type": STRING,
            "name": option_name(command.argument),
            "description": command.argument[:100],
            "required": False,
            "autocomplete": command.complete is not None,
        }
        told["options"] = [option]
    return told


def option_name(argument: str) -> str:
    """The name of the option that an argument such as `[NAME]` or `KEY VALUE` is typed into."""
    return re.sub(r"\W+", "_", argument.lower()).strip("_")[:32] or "argument"


async def sync_commands(
    rest: Rest,
    application: int,
    wanted: list[dict[str, Any]],
    guild: int | None = None,
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Register the commands, unless Discord has just these. A call that fails is repeated, and logged in the end."""
    path = f"/applications/{application}" + (f"/guilds/{guild}/commands" if guild is not None else "/commands")
    for attempt in range(MAX_TRIES):
        try:
            there = await rest.call("GET", f"{path}?with_localizations=true")
            if _essence(there) != _essence(wanted):
                await rest.call("PUT", path, wanted)
            return
        except ChatError as error:
            if attempt + 1 == MAX_TRIES:
                log.warning("the slash commands could not be put up: %s", error)
            else:
                wait = error.seconds if isinstance(error, RateLimited) else None
                await sleep(2.0**attempt if wait is None else wait + 0.1)


def _essence(commands: Iterable[Mapping[str, Any]]) -> list[Any]:
    """What is compared of commands: sorted, and without what Discord adds."""
    return sorted(
        (
            [_told(command.get(key)) for key in _COMPARED],
            [[_told(option.get(key)) for key in _COMPARED_OPTION] for option in command.get("options") or ()],
        )
        for command in commands
    )


def _told(value: Any) -> str:
    """A value for comparison; Discord leaves out what is empty, and has an order of its own."""
    return json.dumps(value or None, sort_keys=True)
