"""What bots are told when something happens: the events of the gateway, and the intents they need."""

from __future__ import annotations

from collections.abc import Callable

from chatbridge.testing.discord.payloads import channel_json, guild_json, member_json, message_json, role_json
from chatbridge.testing.discord.state import Bot, Channel, Event, Guild, Json, Message, Role, User, World

GUILDS, GUILD_MEMBERS, PRESENCES = 1 << 0, 1 << 1, 1 << 8
GUILD_MESSAGES, GUILD_REACTIONS, GUILD_TYPING = 1 << 9, 1 << 10, 1 << 11
DIRECT_MESSAGES, DIRECT_REACTIONS, DIRECT_TYPING = 1 << 12, 1 << 13, 1 << 14
MESSAGE_CONTENT = 1 << 15
ALL_INTENTS = (1 << 17) - 1 | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 25


def sees_content(message: Message, bot: Bot, allowed: bool) -> bool:
    """Whether a bot is told what a message says: with the intent, or where it is the bot's own affair."""
    own = message.author is bot.user or bot.user in message.mentions
    return allowed or own or message.channel.guild is None


def told_message(world: World, message: Message, bot: Bot, allowed: bool) -> Json:
    """A message as a bot sees it that is (not) `allowed` to see content.

    So it is with each message by itself: the one that is replied to may be blank where the reply is not.
    """
    return message_json(world, message, blank=lambda one: not sees_content(one, bot, allowed))


def _in(channel: Channel) -> Json:
    return {"guild_id": str(channel.guild.id)} if channel.guild else {}


def _tell(
    world: World, name: str, channel: Channel, intents: tuple[int, int], payload: Callable[[Bot, int], Json]
) -> None:
    intent = intents[0] if channel.guild else intents[1]
    world.emit(Event(name, intent, channel.guild or channel, payload, channel))


def tell_message(world: World, message: Message, name: str) -> None:
    """MESSAGE_CREATE or MESSAGE_UPDATE; no bot is told of an ephemeral message."""
    channel = message.channel

    def payload(bot: Bot, intents: int) -> Json:
        json = told_message(world, message, bot, bot.message_content and bool(intents & MESSAGE_CONTENT)) | _in(channel)
        member = channel.guild.members.get(message.author.id) if channel.guild else None
        return json | ({"member": member_json(member, with_user=False)} if member else {})

    if not message.ephemeral:
        _tell(world, name, channel, (GUILD_MESSAGES, DIRECT_MESSAGES), payload)


def tell_deleted(world: World, channel: Channel, messages: list[Message]) -> None:
    """MESSAGE_DELETE, or MESSAGE_DELETE_BULK for several."""
    ids = [str(message.id) for message in messages if not message.ephemeral]
    if not ids:
        return
    json = {"channel_id": str(channel.id)} | _in(channel) | ({"id": ids[0]} if len(ids) == 1 else {"ids": ids})
    name = "MESSAGE_DELETE" if len(ids) == 1 else "MESSAGE_DELETE_BULK"
    _tell(world, name, channel, (GUILD_MESSAGES, DIRECT_MESSAGES), lambda bot, intents: json)


def tell_typing(world: World, channel: Channel, user: User) -> None:
    """TYPING_START."""
    json = {"channel_id": str(channel.id), "user_id": str(user.id), "timestamp": int(world.clock())} | _in(channel)
    if channel.guild:
        json["member"] = member_json(channel.guild.members[user.id])
    _tell(world, "TYPING_START", channel, (GUILD_TYPING, DIRECT_TYPING), lambda bot, intents: json)


def tell_reaction(world: World, message: Message, user: User, emoji: str, name: str) -> None:
    """MESSAGE_REACTION_ADD or MESSAGE_REACTION_REMOVE."""
    channel = message.channel
    json: Json = {
        "user_id": str(user.id),
        "channel_id": str(channel.id),
        "message_id": str(message.id),
        "message_author_id": str(message.author.id),
        "emoji": {"id": None, "name": emoji},
        "burst": False,
        "type": 0,
    } | _in(channel)
    if channel.guild and name.endswith("ADD"):
        json["member"] = member_json(channel.guild.members[user.id])
    _tell(world, name, channel, (GUILD_REACTIONS, DIRECT_REACTIONS), lambda bot, intents: json)


def tell_channel(world: World, channel: Channel, name: str) -> None:
    """CHANNEL_CREATE, THREAD_UPDATE and their like."""
    new = {"newly_created": True} if name == "THREAD_CREATE" else {}
    _tell(world, name, channel, (GUILDS, DIRECT_MESSAGES), lambda bot, intents: channel_json(channel, bot.user) | new)


def tell_member(world: World, guild: Guild, user: User, name: str) -> None:
    """GUILD_MEMBER_ADD or GUILD_MEMBER_UPDATE; of a change of its own roles each bot is told."""
    json = member_json(guild.members[user.id]) | {"guild_id": str(guild.id)}
    intent = 0 if user.bot and name == "GUILD_MEMBER_UPDATE" else GUILD_MEMBERS

    def payload(bot: Bot, intents: int) -> Json | None:
        return json if intents & GUILD_MEMBERS or bot.user is user else None

    world.emit(Event(name, intent, guild, payload))


def tell_role(world: World, guild: Guild, role: Role, name: str) -> None:
    """GUILD_ROLE_CREATE, GUILD_ROLE_UPDATE or GUILD_ROLE_DELETE."""
    about: Json = {"role_id": str(role.id)} if name.endswith("DELETE") else {"role": role_json(role)}
    json = {"guild_id": str(guild.id)} | about
    world.emit(Event(name, GUILDS, guild, lambda bot, intents: json))


def tell_guild(world: World, guild: Guild, newcomer: User) -> None:
    """GUILD_CREATE, to a bot that has just been let in."""

    def payload(bot: Bot, intents: int) -> Json | None:
        return guild_json(guild, bot, presences=bool(intents & PRESENCES)) if bot.user is newcomer else None

    world.emit(Event("GUILD_CREATE", GUILDS, guild, payload))
