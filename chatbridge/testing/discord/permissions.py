"""Who may do what, where: Discord's permission bits, and the refusals 50001 and 50013. Knows no route."""

from __future__ import annotations

from chatbridge.testing.discord.state import Channel, Refusal, User

PERMISSIONS = {
    "administrator": 1 << 3,
    "add_reactions": 1 << 6,
    "view_channel": 1 << 10,
    "send_messages": 1 << 11,
    "manage_messages": 1 << 13,
    "embed_links": 1 << 14,
    "attach_files": 1 << 15,
    "read_message_history": 1 << 16,
    "mention_everyone": 1 << 17,
    "manage_webhooks": 1 << 29,
    "use_application_commands": 1 << 31,
    "manage_threads": 1 << 34,
    "create_public_threads": 1 << 35,
    "create_private_threads": 1 << 36,
    "send_messages_in_threads": 1 << 38,
}
EVERYONE = sum(PERMISSIONS.values()) & ~(
    PERMISSIONS["administrator"]
    | PERMISSIONS["manage_messages"]
    | PERMISSIONS["manage_threads"]
    | PERMISSIONS["manage_webhooks"]
    | PERMISSIONS["mention_everyone"]
)
"""What members may do unless a role gives more, or a channel less."""


def permissions(user: User, channel: Channel) -> int:
    """The bits that `user` has in `channel`; 0 where they are not in it."""
    if channel.guild is None:
        return EVERYONE if user in channel.recipients else 0
    member = channel.guild.members.get(user.id)
    if member is None:
        return 0
    roles = [channel.guild.roles[channel.guild.id], *member.roles]
    bits = 0
    for role in roles:
        bits |= role.permissions
    if bits & PERMISSIONS["administrator"] or channel.guild.owner is user:
        return sum(PERMISSIONS.values())
    place = channel.parent if channel.is_thread and channel.parent is not None else channel
    for number in (*(role.id for role in roles), user.id):
        bits &= ~place.denied.get(number, 0)
    return bits if bits & PERMISSIONS["view_channel"] else 0


def can(user: User, channel: Channel, *names: str) -> bool:
    """Whether `user` has all these permissions there."""
    bits = permissions(user, channel)
    return all(bits & PERMISSIONS[name] for name in names)


def demand(user: User, channel: Channel, *names: str) -> None:
    """Refuse with 50001 where `user` does not see the channel, with 50013 where they lack a permission."""
    if not permissions(user, channel):
        raise Refusal(403, 50001, "Missing Access")
    if not can(user, channel, *names):
        raise Refusal(403, 50013, "Missing Permissions")


def demand_to_send(user: User, channel: Channel) -> None:
    """Refuse where `user` may not write: lacking permissions, or 50007 in the DM of one who takes none."""
    demand(user, channel, "send_messages_in_threads" if channel.is_thread else "send_messages")
    if channel.guild is None and not all(other.accept_dms for other in channel.recipients):
        raise Refusal(403, 50007, "Cannot send messages to this user")
