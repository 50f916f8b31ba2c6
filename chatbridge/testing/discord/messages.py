"""The life of messages: sent, edited, deleted, reacted to, looked up. Knows no HTTP; what it refuses it raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chatbridge.testing.discord.content import check_length, check_message, invalid, resolve_mentions
from chatbridge.testing.discord.events import tell_channel, tell_deleted, tell_message, tell_reaction
from chatbridge.testing.discord.permissions import can, demand, demand_to_send
from chatbridge.testing.discord.state import (
    COMPONENTS_V2,
    EPHEMERAL,
    HAS_SNAPSHOT,
    LOADING,
    Attachment,
    Channel,
    Json,
    Message,
    Refusal,
    User,
    World,
)
from chatbridge.testing.wire.forms import Upload

NONCE_SECONDS = 300
"""For how long a nonce is remembered; Discord says `a few minutes`."""


def post(world: World, channel: Channel, author: User, body: Json, files: Sequence[Upload] = ()) -> Message:
    """Send a message with the fields of Discord's `POST …/messages`; one with a known nonce is not sent again."""
    demand_to_send(author, channel)
    if files:
        demand(author, channel, "attach_files")
    nonce = body.get("nonce")
    if nonce is not None:
        check_length("nonce", str(nonce), 25)
    known = channel.nonces.get((author.id, str(nonce)))
    if body.get("enforce_nonce") and known and world.clock() - known[0] < NONCE_SECONDS:
        return known[1]
    message = compose(world, channel, author, body, files)
    message.flags &= ~(EPHEMERAL | LOADING)  # only answers to interactions are
    message.reply_to = _replied_to(channel, author, body.get("message_reference"))
    message.kind = 19 if message.reply_to else 0
    message.nonce = nonce
    publish(world, message, body.get("allowed_mentions"))
    if nonce is not None:
        channel.nonces[author.id, str(nonce)] = (world.clock(), message)
    return message


def compose(world: World, channel: Channel, author: User, body: Json, files: Sequence[Upload]) -> Message:
    """A message that is in no channel yet."""
    if body.get("poll") or body.get("sticker_ids"):
        raise NotImplementedError("the stand-in knows neither polls nor stickers")
    return Message(
        world.new_id(),
        channel,
        author,
        str(body.get("content") or ""),
        world.clock(),
        embeds=[{"type": "rich", **embed} for embed in body.get("embeds") or []],
        components=_numbered(body.get("components") or []),
        attachments=attach(world, body.get("attachments") or [], files),
        flags=int(body.get("flags") or 0),
    )


def publish(world: World, message: Message, allowed_mentions: Json | None) -> None:
    """Check a message, put it in its channel and tell of it."""
    resolve_mentions(message, allowed_mentions)
    if not message.loading and message.snapshot is None:
        check_message(message)
    message.notified = message.pings
    channel = message.channel
    if channel.archived:
        if channel.locked:
            raise Refusal(400, 50083, "Thread is archived")
        channel.archived = False
        tell_channel(world, channel, "THREAD_UPDATE")
    channel.messages[message.id] = message
    tell_message(world, message, "MESSAGE_CREATE")


def _replied_to(channel: Channel, author: User, reference: Json | None) -> Message | None:
    if not reference:
        return None
    demand(author, channel, "read_message_history")
    try:
        found = channel.messages[int(reference["message_id"])]
    except (KeyError, ValueError):
        if reference.get("fail_if_not_exists") is False:
            return None
        raise invalid("message_reference", "REPLIES_UNKNOWN_MESSAGE", "Unknown message") from None
    if found.ephemeral:
        raise invalid("message_reference", "REPLIES_CANNOT_REPLY_TO_EPHEMERAL", "Cannot reply to this message")
    return found


def _numbered(components: list[Json], start: int = 1) -> list[Json]:
    """The components with the ids that Discord gives to those that came without."""
    numbered: list[Json] = []
    for component in components:
        component = {"id": start, **component}
        start += 1
        if inner := component.get("components"):
            component["components"] = _numbered(inner, start)
            start += len(inner)
        numbered.append(component)
    return numbered


def attach(
    world: World, described: Sequence[Json], files: Sequence[Upload], old: Sequence[Attachment] = ()
) -> list[Attachment]:
    """The files of a message: the `old` ones that `attachments` names, and those uploaded with it."""
    named = {str(item["id"]): item for item in described}
    kept = [attachment for attachment in old if str(attachment.id) in named]
    for index, file in enumerate(files):
        about = named.get(str(index), {})
        name = about.get("filename") or file.name
        new = Attachment(world.new_id(), name, file.content, file.content_type, about.get("description"))
        world.attachments[new.id] = new
        kept.append(new)
    return kept


def edit(world: World, message: Message, author: User, body: Json, files: Sequence[Upload] = ()) -> Message:
    """Change a message by the fields of Discord's `PATCH …/messages/{id}`; all or nothing."""
    if message.author is not author:
        raise Refusal(403, 50005, "Cannot edit a message authored by another user")
    if message.snapshot is not None:
        raise Refusal(400, 50021, "Cannot execute action on a system message")
    if message.channel.archived:
        raise Refusal(400, 50083, "Thread is archived")
    new = compose(world, message.channel, author, _merged(message, body), ())
    new.flags |= message.flags & COMPONENTS_V2  # for good, once it is set
    known = message.attachments
    new.attachments = (
        attach(world, body["attachments"] or [], files, known)
        if "attachments" in body
        else [*known, *attach(world, [], files)]
    )
    new.reply_to = message.reply_to
    resolve_mentions(new, body.get("allowed_mentions"))
    if not new.loading:
        check_message(new)
    message.history.append(message.content)
    for name in ("content", "embeds", "components", "attachments", "flags", "mentions", "mention_roles"):
        setattr(message, name, getattr(new, name))
    message.mention_everyone = new.mention_everyone
    message.edited = world.clock()
    tell_message(world, message, "MESSAGE_UPDATE")
    return message


def _merged(message: Message, body: Json) -> Json:
    old = {name: getattr(message, name) for name in ("content", "embeds", "components", "flags")}
    return old | {name: value for name, value in body.items() if name in old}


def forward(world: World, message: Message, channel: Channel, author: User) -> Message:
    """A message that holds another as it is now."""
    demand_to_send(author, channel)
    demand(author, message.channel, "read_message_history")
    new = compose(world, channel, author, {"flags": HAS_SNAPSHOT}, ())
    new.snapshot = replace(message, reply_to=None)
    publish(world, new, None)
    return new


def unfurl(world: World, message: Message, embed: Json) -> None:
    """Put a link's preview under a message: bots are told of an update, though nobody has edited it."""
    message.embeds = [*message.embeds, embed]
    tell_message(world, message, "MESSAGE_UPDATE")


def delete(world: World, messages: Sequence[Message], user: User) -> None:
    """Delete messages: one's own, or anyone's with the permission to manage messages."""
    for message in messages:
        if message.author is not user and not can(user, message.channel, "manage_messages"):
            raise Refusal(403, 50013, "Missing Permissions")
    for message in messages:
        message.deleted = True
        del message.channel.messages[message.id]
    if messages:
        tell_deleted(world, messages[0].channel, list(messages))


def history(channel: Channel, query: dict[str, str], limit: int) -> list[Message]:
    """Messages of a channel, newest first: those `before`, `after` or `around` an id, or the last."""
    found = sorted(
        (message for message in channel.messages.values() if not message.ephemeral), key=lambda item: item.id
    )
    if after := query.get("after"):
        return [message for message in found if message.id > int(after)][:limit][::-1]
    if before := query.get("before"):
        found = [message for message in found if message.id < int(before)]
    elif around := query.get("around"):
        half = limit // 2
        index = sum(message.id < int(around) for message in found)
        return found[max(0, index - half) : index + half + 1][:limit][::-1]
    return found[-limit:][::-1]


def react(world: World, message: Message, user: User, emoji: str) -> None:
    """Add a reaction; a second one alike changes nothing."""
    demand(user, message.channel, "add_reactions", "read_message_history")
    users = message.reactions.setdefault(emoji, [])
    if user not in users:
        users.append(user)
        tell_reaction(world, message, user, emoji, "MESSAGE_REACTION_ADD")


def unreact(world: World, message: Message, user: User, emoji: str) -> None:
    """Take a reaction back, or refuse with 10014 where there is none."""
    users = message.reactions.get(emoji, [])
    if user not in users:
        raise Refusal(404, 10014, "Unknown Emoji")
    users.remove(user)
    if not users:
        del message.reactions[emoji]
    tell_reaction(world, message, user, emoji, "MESSAGE_REACTION_REMOVE")
