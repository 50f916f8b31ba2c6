"""Where a message is: Discord's channels, threads and private chats as chatbridge's channels. Knows no message."""

from __future__ import annotations

from typing import Any

import discord

from chatbridge import Channel


def channel_of(where: Any, guild: discord.Guild | None = None) -> Channel:
    """A channel, a thread, a forum post or a private chat; one that the library does not know is told of by its id."""
    guild_id = guild.id if guild is not None else getattr(where, "guild_id", None)
    if isinstance(where, discord.abc.GuildChannel | discord.Thread):
        guild_id = where.guild.id
    if guild_id is None:
        person = getattr(where, "recipient", None)
        return Channel(str(where.id), person.display_name if person is not None else "", "private")
    parent = str(where.parent_id) if isinstance(where, discord.Thread) else None
    return Channel(str(where.id), getattr(where, "name", None) or "", "group", parent, str(guild_id))


def cursor_name(where: Any, guild: discord.Guild | None = None) -> str:
    """The name of the cursor that says how far a place was read: the channel's id, with `@` before a private one's."""
    channel = channel_of(where, guild)
    return f"@{channel.id}" if channel.kind == "private" else channel.id
