"""Threads that the bot opens to answer in, one for each message to it. Knows no answer."""

from __future__ import annotations

import logging

import aiohttp
import discord

from chatbridge import Channel
from chatbridge_discord.channels import channel_of
from chatbridge_discord.failures import why
from chatbridge_discord.texts import say

log = logging.getLogger(__name__)

THERE_ALREADY = 160004
MAX_NAME = 60


def thread_of(given: discord.Message, me: discord.ClientUser) -> Channel | None:
    """The thread that the bot has opened for a message, if it has."""
    thread = given.thread or (given.guild.get_thread(given.id) if given.guild is not None else None)
    return channel_of(thread) if thread is not None and thread.owner_id == me.id else None


async def open_thread(given: discord.Message, text: str, language: str) -> Channel | None:
    """Open a thread for a message of a channel; None where there can't be one, and the channel itself has to do."""
    if not isinstance(given.channel, discord.TextChannel):
        return None
    first_line = " ".join(text.split())[:MAX_NAME]
    name = first_line or say("thread", language, name=given.author.display_name)[:MAX_NAME]
    try:
        return channel_of(await given.create_thread(name=name))
    except discord.HTTPException as error:
        if error.code == THERE_ALREADY:  # from before a crash
            parent, guild = given.channel.id, given.channel.guild.id
            return Channel(str(given.id), name, "group", str(parent), str(guild))
        log.warning("channel %s: no thread can be opened, and the answer comes there: %s", given.channel.id, why(error))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning(
            "channel %s: no thread could be opened, and the answer comes there: %s", given.channel.id, why(error)
        )
    return None
