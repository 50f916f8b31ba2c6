"""The files that come with Discord's messages, as chatbridge knows them before they are fetched. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import aiohttp
import discord

from chatbridge import RemoteFile

log = logging.getLogger(__name__)


def files_of(given: Sequence[discord.Attachment]) -> Sequence[RemoteFile]:
    """All that came along with a message."""
    return [RemoteFile(one.filename, one.content_type or "", one.size, partial(_fetch, one)) for one in given]


async def _fetch(given: discord.Attachment) -> bytes | None:
    try:
        return await given.read()
    except (discord.HTTPException, aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning("a file could not be fetched: %s", error)
        return None
