"""The routes of channels: messages, reactions, typing, threads, DMs. Decides nothing: takes calls apart."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.testing.discord import channels, messages
from chatbridge.testing.discord.content import invalid
from chatbridge.testing.discord.events import tell_typing, told_message
from chatbridge.testing.discord.payloads import channel_json, thread_member_json, user_json
from chatbridge.testing.discord.permissions import demand, demand_to_send
from chatbridge.testing.discord.routes import Asked, Route, RouteResult
from chatbridge.testing.discord.state import Bot, Channel, Json, Message, Refusal


def _channel(asked: Asked) -> Channel:
    channel = asked.world.channel(asked.ids["channel"])
    demand(asked.bot.user, channel, "view_channel")
    return channel


def _message(asked: Asked) -> Message:
    return asked.world.message(_channel(asked), asked.ids["message"])


def _seen(asked: Asked, message: Message) -> Json:
    bot: Bot = asked.bot
    return told_message(asked.world, message, bot, bot.message_content)


def get_channel(asked: Asked) -> Json:
    return channel_json(_channel(asked), asked.bot.user)


def change_channel(asked: Asked) -> Json:
    return channel_json(channels.change(asked.world, _channel(asked), asked.bot.user, asked.body), asked.bot.user)


def delete_channel(asked: Asked) -> Json:
    channel = _channel(asked)
    if channel.guild is not None:
        demand(asked.bot.user, channel, "manage_threads")
    json = channel_json(channel, asked.bot.user)
    channels.remove(asked.world, channel)
    return json


def list_messages(asked: Asked) -> list[Json]:
    channel = _channel(asked)
    demand(asked.bot.user, channel, "read_message_history")
    limit = int(asked.query.get("limit", "50"))
    if not 1 <= limit <= 100:
        raise invalid("limit", "NUMBER_TYPE_MAX", "int value should be between 1 and 100.")
    return [_seen(asked, message) for message in messages.history(channel, dict(asked.query), limit)]


def get_message(asked: Asked) -> Json:
    demand(asked.bot.user, _channel(asked), "read_message_history")
    return _seen(asked, _message(asked))


def post_message(asked: Asked) -> Json:
    channel = asked.world.channel(asked.ids["channel"])
    return _seen(asked, messages.post(asked.world, channel, asked.bot.user, asked.body, asked.files))


def edit_message(asked: Asked) -> Json:
    return _seen(asked, messages.edit(asked.world, _message(asked), asked.bot.user, asked.body, asked.files))


def delete_message(asked: Asked) -> None:
    messages.delete(asked.world, [_message(asked)], asked.bot.user)


def delete_messages(asked: Asked) -> None:
    channel = _channel(asked)
    demand(asked.bot.user, channel, "manage_messages")
    ids: Sequence[object] = asked.body["messages"]
    if not 2 <= len(ids) <= 100:
        raise invalid("messages", "BASE_TYPE_BAD_LENGTH", "Must be between 2 and 100 in length.")
    found = [channel.messages[int(str(number))] for number in ids if int(str(number)) in channel.messages]
    messages.delete(asked.world, found, asked.bot.user)


def type_in(asked: Asked) -> None:
    channel = asked.world.channel(asked.ids["channel"])
    demand_to_send(asked.bot.user, channel)
    tell_typing(asked.world, channel, asked.bot.user)


def react(asked: Asked) -> None:
    messages.react(asked.world, _message(asked), asked.bot.user, asked.ids["emoji"])


def unreact(asked: Asked) -> None:
    who = asked.ids.get("user", "@me")
    user = asked.bot.user if who == "@me" else asked.world.user(who)
    if user is not asked.bot.user:
        demand(asked.bot.user, _channel(asked), "manage_messages")
    messages.unreact(asked.world, _message(asked), user, asked.ids["emoji"])


def list_reactions(asked: Asked) -> list[Json]:
    return [user_json(user) for user in _message(asked).reactions.get(asked.ids["emoji"], [])]


def clear_reactions(asked: Asked) -> None:
    message = _message(asked)
    demand(asked.bot.user, message.channel, "manage_messages")
    for emoji, users in tuple(message.reactions.items()):
        for user in tuple(users):
            messages.unreact(asked.world, message, user, emoji)


def thread_from(asked: Asked) -> RouteResult:
    message = _message(asked)
    thread = channels.start_thread(asked.world, message.channel, asked.bot.user, asked.body, message)
    return RouteResult(201, channel_json(thread, asked.bot.user))


def thread_in(asked: Asked) -> RouteResult:
    parent, user = _channel(asked), asked.bot.user
    if "message" not in asked.body:
        return RouteResult(201, channel_json(channels.start_thread(asked.world, parent, user, asked.body), user))
    thread, first = channels.start_post(asked.world, parent, user, asked.body, asked.files)
    return RouteResult(201, channel_json(thread, user) | {"message": _seen(asked, first)})


def _thread(asked: Asked) -> Channel:
    thread = _channel(asked)
    if not thread.is_thread:
        raise Refusal(400, 50024, "Cannot execute action on this channel type")
    return thread


def _thread_user(asked: Asked) -> int:
    who = asked.ids.get("user", "@me")
    return asked.bot.user.id if who == "@me" else asked.world.user(who).id


def join(asked: Asked) -> None:
    _thread(asked).members.add(_thread_user(asked))


def leave(asked: Asked) -> None:
    _thread(asked).members.discard(_thread_user(asked))


def list_joined(asked: Asked) -> list[Json]:
    thread = _thread(asked)
    return [thread_member_json(thread, number) for number in sorted(thread.members)]


def active_threads(asked: Asked) -> Json:
    user = asked.bot.user
    found = channels.active_threads(asked.world.guild(asked.ids["guild"]))
    joined = [thread for thread in found if user.id in thread.members]
    return {
        "threads": [channel_json(thread, user) for thread in found],
        "members": [thread_member_json(thread, user.id) for thread in joined],
    }


def archived_threads(asked: Asked) -> Json:
    parent = _channel(asked)
    everything = parent.guild.channels.values() if parent.guild else ()
    found = [channel for channel in everything if channel.parent is parent and channel.archived]
    return {"threads": [channel_json(thread, asked.bot.user) for thread in found], "members": [], "has_more": False}


def open_dm(asked: Asked) -> Json:
    channel = channels.open_dm(asked.world, asked.bot.user, asked.world.user(asked.body["recipient_id"]))
    return channel_json(channel, asked.bot.user)


_MESSAGES = "/channels/{channel}/messages"
_MESSAGE = _MESSAGES + "/{message}"
_MEMBERS = "/channels/{channel}/thread-members"
_EMOJI = _MESSAGE + "/reactions/{emoji}"

ROUTES = (
    Route("POST", _MESSAGES, post_message, of_messages=True),
    Route("GET", _MESSAGES, list_messages),
    Route("POST", _MESSAGES + "/bulk-delete", delete_messages),
    Route("GET", _MESSAGE, get_message),
    Route("PATCH", _MESSAGE, edit_message, of_messages=True),
    Route("DELETE", _MESSAGE, delete_message),
    Route("POST", "/channels/{channel}/typing", type_in, of_messages=True),
    Route("PUT", _EMOJI + "/@me", react),
    Route("DELETE", _EMOJI + "/{user}", unreact),
    Route("GET", _EMOJI, list_reactions),
    Route("DELETE", _MESSAGE + "/reactions", clear_reactions),
    Route("POST", _MESSAGE + "/threads", thread_from),
    Route("POST", "/channels/{channel}/threads", thread_in),
    Route("GET", "/channels/{channel}/threads/archived/public", archived_threads),
    Route("GET", _MEMBERS, list_joined),
    Route("PUT", _MEMBERS + "/{user}", join),
    Route("DELETE", _MEMBERS + "/{user}", leave),
    Route("GET", "/guilds/{guild}/threads/active", active_threads),
    Route("POST", "/users/@me/channels", open_dm),
    Route("GET", "/channels/{channel}", get_channel),
    Route("PATCH", "/channels/{channel}", change_channel),
    Route("DELETE", "/channels/{channel}", delete_channel),
)
