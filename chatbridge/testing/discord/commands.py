"""The commands that bots put up: slash commands and those of context menus. Knows no interaction."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatbridge.testing.discord.content import check_length, invalid
from chatbridge.testing.discord.state import Bot, Json, Refusal, World

CHAT_INPUT, ON_USER, ON_MESSAGE = 1, 2, 3
SUBCOMMAND, GROUP = 1, 2
_MOST = {CHAT_INPUT: 100, ON_USER: 15, ON_MESSAGE: 15}
_NAME = re.compile(r"^[-_'\w]{1,32}$")


def put(world: World, bot: Bot, guild_id: int | None, bodies: Sequence[Json]) -> list[Json]:
    """Put up exactly these commands, in place of all before; those that stay the same keep their ids."""
    for kind, most in _MOST.items():
        if sum(body.get("type", CHAT_INPUT) == kind for body in bodies) > most:
            raise Refusal(400, 30032, f"Maximum number of application commands reached ({most})")
    names = [(body.get("type", CHAT_INPUT), body.get("name")) for body in bodies]
    if len(set(names)) < len(names):
        raise invalid("name", "APPLICATION_COMMANDS_DUPLICATE_NAME", "Application command names must be unique")
    before = {(old["type"], old["name"]): old["id"] for old in bot.commands.get(guild_id, {}).values()}
    found = [_checked(world, bot, guild_id, body, before) for body in bodies]
    bot.commands[guild_id] = {int(command["id"]): command for command in found}
    return found


def add(world: World, bot: Bot, guild_id: int | None, body: Json) -> tuple[Json, bool]:
    """Put up one command more, or in place of the one of its name; and whether it is new."""
    others = list(bot.commands.get(guild_id, {}).values())
    kind = body.get("type", CHAT_INPUT)
    kept = [old for old in others if (old["type"], old["name"]) != (kind, body.get("name"))]
    return put(world, bot, guild_id, [*kept, body])[-1], len(kept) == len(others)


def _checked(world: World, bot: Bot, guild_id: int | None, body: Json, before: dict[tuple[int, str], str]) -> Json:
    kind, name = int(body.get("type", CHAT_INPUT)), str(body.get("name") or "")
    if kind == CHAT_INPUT:
        _check_slash(body)
    check_length("name", name, 32)
    if not name:
        raise invalid("name", "BASE_TYPE_REQUIRED", "This field is required")
    number = before.get((kind, name)) or str(world.new_id())
    guild = {} if guild_id is None else {"guild_id": str(guild_id)}
    fixed = {"id": number, "application_id": str(bot.application_id), "type": kind, "version": str(world.new_id())}
    defaults: Json = {
        "description": "",
        "options": [],
        "default_member_permissions": None,
        "nsfw": False,
        "dm_permission": True,
    }
    return defaults | body | fixed | guild


def _check_slash(body: Json) -> None:
    name, description = str(body.get("name") or ""), str(body.get("description") or "")
    if not _NAME.match(name) or name != name.lower():
        raise invalid("name", "APPLICATION_COMMAND_INVALID_NAME", "Command name is invalid")
    if not 1 <= len(description) <= 100:
        raise invalid("description", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 100 in length.")
    options = body.get("options") or []
    if len(options) > 25:
        raise invalid("options", "BASE_TYPE_MAX_LENGTH", "Must be 25 or fewer in length.")
    needed = [bool(option.get("required")) for option in options if option.get("type") not in (SUBCOMMAND, GROUP)]
    if needed != sorted(needed, reverse=True):
        text = "Required options must be placed before non-required options"
        raise invalid("options", "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID", text)
    for option in options:
        _check_slash(option)
        if len(option.get("choices") or []) > 25:
            raise invalid("choices", "BASE_TYPE_MAX_LENGTH", "Must be 25 or fewer in length.")


def find(bot: Bot, guild_id: int | None, name: str, kind: int) -> Json:
    """The command that a person in this guild (or in a DM) sees under a name; LookupError where there is none."""
    places = [place for place in (guild_id, None) if place in bot.commands]
    for place in places:
        for command in bot.commands[place].values():
            if command["type"] == kind and command["name"] == name:
                return command
    seen = [command["name"] for place in places for command in bot.commands[place].values()]
    raise LookupError(f"{bot.user.name} has put up no command {name!r} here; it has: {', '.join(seen) or 'none'}")


def fill_in(command: Json, words: Sequence[str], given: dict[str, object], focused: str | None = None) -> list[Json]:
    """The options of an interaction, as a person's client sends them, who chose the subcommands `words`.

    ValueError where they would not fit what the bot has put up.
    """
    options = {option["name"]: option for option in command.get("options") or []}
    if words:
        inner = options.get(words[0])
        if inner is None or inner["type"] not in (SUBCOMMAND, GROUP):
            raise ValueError(f"{command['name']} has no subcommand {words[0]!r}")
        return [{"name": words[0], "type": inner["type"], "options": fill_in(inner, words[1:], given, focused)}]
    if unknown := set(given) - set(options):
        raise ValueError(f"{command['name']} has no option {', '.join(sorted(unknown))}")
    filled: list[Json] = []
    for name, option in options.items():
        if name not in given:
            if option.get("required") and focused is None:
                raise ValueError(f"{command['name']} needs the option {name!r}")
            continue
        value = given[name]
        choices = [choice["value"] for choice in option.get("choices") or []]
        if choices and value not in choices:
            raise ValueError(f"{name} is one of {choices}, not {value!r}")
        filled.append({"name": name, "type": option["type"], "value": value})
        if name == focused:
            filled[-1]["focused"] = True
    return filled
