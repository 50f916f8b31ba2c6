"""The JSON that Discord writes of what it holds: ids as strings, times in ISO 8601. Decides nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from chatbridge.testing.discord.permissions import permissions
from chatbridge.testing.discord.state import (
    DM,
    FORUM,
    Attachment,
    Bot,
    Channel,
    Guild,
    Json,
    Member,
    Message,
    Role,
    User,
    Webhook,
    World,
)

LINK_SECONDS = 24 * 3600
"""For how long the address of a file is good; a new one comes with each look at its message."""


def iso(at: float) -> str:
    """A time as Discord writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def user_json(user: User) -> Json:
    return {
        "id": str(user.id),
        "username": user.name,
        "discriminator": "0000" if user.bot else "0",
        "global_name": user.global_name,
        "avatar": None,
        "bot": user.bot,
        "public_flags": 0,
    }


def application_flags(bot: Bot) -> int:
    """The switches of the developer portal, as the flags of applications that are not verified."""
    return bot.presences << 13 | bot.server_members << 15 | bot.message_content << 19


def application_json(bot: Bot) -> Json:
    return {
        "id": str(bot.application_id),
        "name": bot.user.name,
        "description": "",
        "summary": "",
        "icon": None,
        "verify_key": "0" * 64,
        "flags": application_flags(bot),
        "bot_public": True,
        "bot_require_code_grant": False,
        "owner": {**user_json(bot.user), "bot": False},
        "rpc_origins": [],
    }


def member_json(member: Member, *, with_user: bool = True) -> Json:
    user = {"user": user_json(member.user)} if with_user else {}
    return user | {
        "nick": member.nick,
        "avatar": None,
        "roles": [str(role.id) for role in member.roles],
        "joined_at": iso(member.joined),
        "premium_since": None,
        "deaf": False,
        "mute": False,
        "pending": False,
        "flags": 0,
    }


def role_json(role: Role) -> Json:
    return {
        "id": str(role.id),
        "name": role.name,
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "position": role.position,
        "permissions": str(role.permissions),
        "managed": False,
        "mentionable": role.mentionable,
        "flags": 0,
        "icon": None,
        "unicode_emoji": None,
    }


def channel_json(channel: Channel, viewer: User | None = None) -> Json:
    last = str(max(channel.messages)) if channel.messages else None
    json: Json = {"id": str(channel.id), "type": channel.kind, "last_message_id": last, "flags": 0}
    if channel.kind == DM:
        return json | {"recipients": [user_json(user) for user in channel.recipients if user is not viewer]}
    assert channel.guild is not None
    json |= {"name": channel.name, "guild_id": str(channel.guild.id), "rate_limit_per_user": 0}
    parent = str(channel.parent.id) if channel.parent else None
    if channel.is_thread:
        return json | {"parent_id": parent, **_thread_fields(channel, viewer)}
    overwrites = [
        {"id": str(number), "type": int(number not in channel.guild.roles), "allow": "0", "deny": str(bits)}
        for number, bits in channel.denied.items()
    ]
    json |= {
        "position": 0,
        "permission_overwrites": overwrites,
        "nsfw": False,
        "parent_id": parent,
        "topic": channel.topic,
    }
    return json | ({"available_tags": [], "default_reaction_emoji": None} if channel.kind == FORUM else {})


def _thread_fields(thread: Channel, viewer: User | None) -> Json:
    assert thread.owner is not None
    made = iso(snowflake_time(thread.id))
    joined = viewer is not None and viewer.id in thread.members
    return {
        "owner_id": str(thread.owner.id),
        "member_count": len(thread.members),
        "message_count": len(thread.messages),
        "total_message_sent": len(thread.messages),
        "thread_metadata": {
            "archived": thread.archived,
            "auto_archive_duration": thread.archive_minutes,
            "archive_timestamp": made,
            "locked": thread.locked,
            "create_timestamp": made,
        },
    } | ({"member": thread_member_json(thread, viewer.id)} if viewer is not None and joined else {})


def thread_member_json(thread: Channel, user_id: int) -> Json:
    return {
        "id": str(thread.id),
        "user_id": str(user_id),
        "join_timestamp": iso(snowflake_time(thread.id)),
        "flags": 0,
    }


def webhook_json(webhook: Webhook) -> Json:
    assert webhook.channel.guild is not None
    return {
        "id": str(webhook.id),
        "type": 1,
        "token": webhook.token,
        "name": webhook.name,
        "avatar": None,
        "channel_id": str(webhook.channel.id),
        "guild_id": str(webhook.channel.guild.id),
        "application_id": None,
        "user": user_json(webhook.maker),
    }


def snowflake_time(number: int) -> float:
    """When an id was given out, in seconds since 1970."""
    return ((number >> 22) + 1_420_070_400_000) / 1000


def signature(attachment: Attachment, expires: str) -> str:
    """What an address of a file is signed with, until when (seconds since 1970, in hexadecimal) it is good."""
    return hashlib.sha256(f"{attachment.id} {expires}".encode()).hexdigest()


def attachment_json(world: World, attachment: Attachment, *, ephemeral: bool = False) -> Json:
    now = int(world.clock())
    expires = f"{now + LINK_SECONDS:x}"
    signed = f"ex={expires}&is={now:x}&hm={signature(attachment, expires)}"
    url = f"{world.base_url}/attachments/{attachment.id}/{quote(attachment.filename)}?{signed}"
    json: Json = {
        "id": str(attachment.id),
        "filename": attachment.filename,
        "size": len(attachment.content),
        "url": url,
        "proxy_url": url,
        "content_type": attachment.content_type,
        "ephemeral": ephemeral,
    }
    return json | ({"description": attachment.description} if attachment.description else {})


def _seen(message: Message) -> bool:
    return False


def message_json(
    world: World, message: Message, *, blank: Callable[[Message], bool] = _seen, inner: bool = False
) -> Json:
    """A message. `blank`: which ones are told without what needs the intent for content, this and those inside of it.
    `inner`: replied to, so told without its own.
    """
    channel, author, hidden = message.channel, message.author, blank(message)
    json: Json = {
        "id": str(message.id),
        "channel_id": str(channel.id),
        "author": user_json(author),
        "content": "" if hidden else message.content,
        "timestamp": iso(message.at),
        "edited_timestamp": None if message.edited is None else iso(message.edited),
        "tts": False,
        "mention_everyone": message.mention_everyone,
        "mentions": [_mention_json(user, channel.guild) for user in message.mentions],
        "mention_roles": [str(role.id) for role in message.mention_roles],
        "attachments": []
        if hidden
        else [attachment_json(world, found, ephemeral=message.ephemeral) for found in message.attachments],
        "embeds": [] if hidden else message.embeds,
        "components": [] if hidden else message.components,
        "pinned": False,
        "type": message.kind,
        "flags": message.flags,
    }
    if message.nonce is not None:
        json["nonce"] = message.nonce
    if message.application_id is not None:
        json["application_id"] = str(message.application_id)
    if message.webhook_id is not None:
        json["webhook_id"] = str(message.webhook_id)
    if message.interaction is not None:
        json |= {"interaction_metadata": message.interaction, "webhook_id": str(message.application_id)}
    if message.reactions:
        json["reactions"] = [
            {
                "count": len(users),
                "me": False,
                "me_burst": False,
                "emoji": {"id": None, "name": emoji},
                "count_details": {"burst": 0, "normal": len(users)},
                "burst_colors": [],
            }
            for emoji, users in message.reactions.items()
        ]
    if message.reply_to is not None:
        old = message.reply_to
        guild = {"guild_id": str(channel.guild.id)} if channel.guild else {}
        json["message_reference"] = {"type": 0, "message_id": str(old.id), "channel_id": str(old.channel.id)} | guild
        if not inner:
            told = None if old.deleted else message_json(world, old, blank=blank, inner=True)
            json["referenced_message"] = told
    if (forwarded := message.snapshot) is not None:
        place = {"message_id": str(forwarded.id), "channel_id": str(forwarded.channel.id)}
        json["message_reference"] = {"type": 1, **place}
        kept = ("content", "embeds", "attachments", "components", "timestamp", "edited_timestamp", "flags", "type")
        whole = message_json(world, forwarded, blank=lambda one: hidden, inner=True)
        json["message_snapshots"] = [{"message": {name: whole[name] for name in (*kept, "mentions", "mention_roles")}}]
    if message.thread is not None:
        json["thread"] = channel_json(message.thread)
    return json


def _mention_json(user: User, guild: Guild | None) -> Json:
    member = guild.members.get(user.id) if guild else None
    return user_json(user) | ({"member": member_json(member, with_user=False)} if member else {})


def guild_json(guild: Guild, viewer: Bot, *, presences: bool) -> Json:
    """What GUILD_CREATE tells: of the members only the bot itself, unless it is told of presences too."""
    members = [member for member in guild.members.values() if presences or member.user is viewer.user]
    seen = [channel for channel in guild.channels.values() if permissions(viewer.user, channel)]
    return {
        "id": str(guild.id),
        "name": guild.name,
        "icon": None,
        "splash": None,
        "discovery_splash": None,
        "description": None,
        "owner_id": str(guild.owner.id),
        "region": "deprecated",
        "afk_channel_id": None,
        "afk_timeout": 300,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "roles": [role_json(role) for role in guild.roles.values()],
        "emojis": [],
        "stickers": [],
        "features": [],
        "mfa_level": 0,
        "nsfw_level": 0,
        "application_id": None,
        "system_channel_id": None,
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "public_updates_channel_id": None,
        "vanity_url_code": None,
        "banner": None,
        "premium_tier": 0,
        "preferred_locale": guild.locale,
        "joined_at": iso(guild.members[viewer.user.id].joined),
        "large": False,
        "unavailable": False,
        "member_count": len(guild.members),
        "members": [member_json(member) for member in members],
        "channels": [channel_json(channel) for channel in seen if not channel.is_thread],
        "threads": [
            channel_json(channel, viewer.user) for channel in seen if channel.is_thread and not channel.archived
        ],
        "voice_states": [],
        "presences": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }
