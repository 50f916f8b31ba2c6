"""The routes of applications: login, users and guilds, commands. Decides nothing: takes calls apart."""

from __future__ import annotations

from chatbridge.testing.discord import commands
from chatbridge.testing.discord.payloads import (
    application_json,
    channel_json,
    guild_json,
    member_json,
    role_json,
    user_json,
)
from chatbridge.testing.discord.routes import Asked, Route, RouteResult
from chatbridge.testing.discord.state import Bot, Guild, Json, Refusal


def get_me(asked: Asked) -> Json:
    return user_json(asked.bot.user) | {"verified": True, "mfa_enabled": False, "locale": "en-US"}


def get_user(asked: Asked) -> Json:
    return user_json(asked.bot.user if asked.ids["user"] == "@me" else asked.world.user(asked.ids["user"]))


def get_application(asked: Asked) -> Json:
    return application_json(asked.bot)


def get_gateway(asked: Asked) -> Json:
    start = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
    asked.bot  # noqa: B018  refused where nobody signed
    return {
        "url": asked.world.base_url.replace("http", "ws", 1) + "/gateway/",
        "shards": asked.world.shards,
        "session_start_limit": start,
    }


def _guild(asked: Asked) -> Guild:
    guild = asked.world.guild(asked.ids["guild"])
    if asked.bot.user.id not in guild.members:
        raise Refusal(403, 50001, "Missing Access")
    return guild


def get_guild(asked: Asked) -> Json:
    hidden = {"channels", "members", "threads", "voice_states", "presences", "joined_at", "large", "member_count"}
    json = guild_json(_guild(asked), asked.bot, presences=False)
    return {name: value for name, value in json.items() if name not in hidden}


def get_channels(asked: Asked) -> list[Json]:
    return [channel_json(channel) for channel in _guild(asked).channels.values() if not channel.is_thread]


def get_roles(asked: Asked) -> list[Json]:
    return [role_json(role) for role in _guild(asked).roles.values()]


def get_member(asked: Asked) -> Json:
    guild = _guild(asked)
    who = asked.bot.user if asked.ids["user"] == "@me" else asked.world.user(asked.ids["user"])
    if who.id not in guild.members:
        raise Refusal(404, 10007, "Unknown Member")
    return member_json(guild.members[who.id])


def _commands_of(asked: Asked) -> tuple[Bot, int | None]:
    if asked.world.application(asked.ids["application"]) is not asked.bot:
        raise Refusal(403, 50001, "Missing Access")
    return asked.bot, _guild(asked).id if "guild" in asked.ids else None


def list_commands(asked: Asked) -> list[Json]:
    bot, guild = _commands_of(asked)
    return list(bot.commands.get(guild, {}).values())


def put_commands(asked: Asked) -> list[Json]:
    return commands.put(asked.world, *_commands_of(asked), asked.body)


def add_command(asked: Asked) -> RouteResult:
    command, new = commands.add(asked.world, *_commands_of(asked), asked.body)
    return RouteResult(201 if new else 200, command)


def _command(asked: Asked) -> Json:
    bot, guild = _commands_of(asked)
    found = bot.commands.get(guild, {}).get(int(asked.ids["command"]))
    if found is None:
        raise Refusal(404, 10063, "Unknown application command")
    return found


def get_command(asked: Asked) -> Json:
    return _command(asked)


def edit_command(asked: Asked) -> Json:
    return commands.add(asked.world, *_commands_of(asked), _command(asked) | asked.body)[0]


def delete_command(asked: Asked) -> None:
    bot, guild = _commands_of(asked)
    del bot.commands[guild][int(_command(asked)["id"])]


_COMMANDS = "/applications/{application}/commands"
_GUILD_COMMANDS = "/applications/{application}/guilds/{guild}/commands"

ROUTES = (
    Route("GET", "/users/@me", get_me),
    Route("GET", "/users/{user}", get_user),
    Route("GET", "/oauth2/applications/@me", get_application),
    Route("GET", "/applications/@me", get_application),
    Route("GET", "/gateway/bot", get_gateway),
    Route("GET", "/guilds/{guild}", get_guild),
    Route("GET", "/guilds/{guild}/channels", get_channels),
    Route("GET", "/guilds/{guild}/roles", get_roles),
    Route("GET", "/guilds/{guild}/members/{user}", get_member),
    *(
        Route(method, path + rest, handle)
        for path in (_COMMANDS, _GUILD_COMMANDS)
        for method, rest, handle in (
            ("GET", "", list_commands),
            ("PUT", "", put_commands),
            ("POST", "", add_command),
            ("GET", "/{command}", get_command),
            ("PATCH", "/{command}", edit_command),
            ("DELETE", "/{command}", delete_command),
        )
    ),
)
