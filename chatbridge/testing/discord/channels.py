"""The life of channels: DMs opened, threads started, joined, archived. Knows no HTTP; what it refuses it raises."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.testing.discord.content import check_length, invalid
from chatbridge.testing.discord.events import tell_channel
from chatbridge.testing.discord.messages import post
from chatbridge.testing.discord.permissions import PERMISSIONS, demand
from chatbridge.testing.discord.state import (
    DM,
    FORUM,
    PRIVATE_THREAD,
    PUBLIC_THREAD,
    Channel,
    Guild,
    Json,
    Message,
    Refusal,
    User,
    World,
)
from chatbridge.testing.wire.forms import Upload


def open_dm(world: World, one: User, other: User) -> Channel:
    """The DM of two users, which is made at its first use."""
    for channel in world.channels.values():
        if channel.kind == DM and set(channel.recipients) == {one, other}:
            return channel
    if one is other:
        raise Refusal(400, 50033, "Invalid Recipient(s)")
    channel = Channel(world.new_id(), DM, "", recipients=[one, other])
    world.channels[channel.id] = channel
    return channel


def start_thread(world: World, parent: Channel, user: User, body: Json, message: Message | None = None) -> Channel:
    """A thread below a channel: from a message (whose id it gets), or on its own."""
    kind = PUBLIC_THREAD if message or parent.kind == FORUM else int(body.get("type", PRIVATE_THREAD))
    demand(user, parent, "create_private_threads" if kind == PRIVATE_THREAD else "create_public_threads")
    name = str(body.get("name") or "")
    if not name.strip():
        raise invalid("name", "BASE_TYPE_REQUIRED", "This field is required")
    check_length("name", name, 100)
    if message is not None and message.thread is not None:
        raise Refusal(400, 160004, "A thread has already been created for this message")
    if parent.guild is None or parent.is_thread or kind not in (PUBLIC_THREAD, PRIVATE_THREAD):
        raise Refusal(400, 50024, "Cannot execute action on this channel type")
    thread = Channel(message.id if message else world.new_id(), kind, name, parent.guild, parent, user)
    thread.archive_minutes = int(body.get("auto_archive_duration") or 1440)
    thread.members.add(user.id)
    world.channels[thread.id] = parent.guild.channels[thread.id] = thread
    if message is not None:
        message.thread = thread
    tell_channel(world, thread, "THREAD_CREATE")
    return thread


def start_post(
    world: World, forum: Channel, user: User, body: Json, files: Sequence[Upload]
) -> tuple[Channel, Message]:
    """A post in a forum: a thread, and its first message, which has the same id."""
    thread = start_thread(world, forum, user, body)
    try:
        message = post(world, thread, user, body.get("message") or {}, files)
    except Refusal:
        remove(world, thread)
        raise
    return thread, message


def change(world: World, channel: Channel, user: User, body: Json) -> Channel:
    """Rename a channel; archive, lock or open a thread."""
    own = channel.is_thread and channel.owner is user
    if not own:
        demand(user, channel, "manage_threads")
    if "name" in body:
        check_length("name", str(body["name"]), 100)
        channel.name = str(body["name"])
    channel.topic = body.get("topic", channel.topic)
    if channel.is_thread:
        channel.archived = bool(body.get("archived", channel.archived))
        channel.locked = bool(body.get("locked", channel.locked))
        channel.archive_minutes = int(body.get("auto_archive_duration", channel.archive_minutes))
    tell_channel(world, channel, "THREAD_UPDATE" if channel.is_thread else "CHANNEL_UPDATE")
    return channel


def remove(world: World, channel: Channel) -> None:
    """Delete a channel and all it holds; a DM is only closed."""
    if channel.guild is None:
        return
    tell_channel(world, channel, "THREAD_DELETE" if channel.is_thread else "CHANNEL_DELETE")
    for inner in [inner for inner in channel.guild.channels.values() if inner.parent is channel]:
        remove(world, inner)
    del world.channels[channel.id], channel.guild.channels[channel.id]


def active_threads(guild: Guild) -> list[Channel]:
    """The threads of a guild that are not archived."""
    return [channel for channel in guild.channels.values() if channel.is_thread and not channel.archived]


def take_away(world: World, channel: Channel, number: int, names: Sequence[str]) -> None:
    """Deny permissions in a channel to a user or a role, and tell of it."""
    for name in names:
        channel.denied[number] = channel.denied.get(number, 0) | PERMISSIONS[name]
    tell_channel(world, channel, "CHANNEL_UPDATE")
