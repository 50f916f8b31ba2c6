"""The files that come with Discord's messages, before they are fetched, and how they are. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Self

import aiohttp
import discord

from chatbridge import RemoteFile

CHUNK = 65536
log = logging.getLogger(__name__)


def files_of(given: Sequence[discord.Attachment]) -> Sequence[RemoteFile]:
    """All that came along with a message."""
    return [RemoteFile(one.filename, one.content_type or "", one.size, one.url) for one in given]


class Files:
    """Fetches files by their addresses, which need no token. Use it as an async context manager."""

    def __init__(self, proxy: str | None = None) -> None:
        self._proxy = proxy

    async def __aenter__(self) -> Self:
        # The library would take in all of a file, however long it is, and whatever it is packed in.
        self._session = aiohttp.ClientSession(auto_decompress=False, headers={"Accept-Encoding": "identity"})
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._session.close()

    async def fetch(self, source: str, max_bytes: int) -> bytes | None:
        """The content of a file, no further than a little behind `max_bytes`; None where it can't be had."""
        data = bytearray()
        try:
            async with self._session.get(source, proxy=self._proxy, raise_for_status=True) as answer:
                async for piece in answer.content.iter_chunked(CHUNK):
                    data += piece
                    if len(data) > max_bytes:
                        break
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("a file could not be fetched: %s", type(error).__name__)
            return None
        return bytes(data)
