"""Which channels may hold messages that the gateway never told of, and from which one on. Makes no call.

A session of the gateway that can't be resumed leaves a gap: what was written between its end and the next one. Ids of
Discord's grow with time, so a channel's cursor, the id of the last message that was read there, says where its gap
begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

EPOCH = 1_420_070_400.0
"""The first second of 2015, from which ids count."""

FIRST_START = "since"
"""The cursor of the first start: from then on messages count in channels that have no cursor of their own."""


def id_at(seconds: float) -> int:
    """The lowest id of a message at that time, in seconds since 1970."""
    return max(0, int((seconds - EPOCH) * 1000)) << 22


class Backfill:
    """The gaps of one bot. `cursors`: the last message read, by the names of places (`cursor_name`). `hours`: what is
    older is not looked for."""

    def __init__(self, cursors: Mapping[str, int], hours: float, now: Callable[[], float] = time.time) -> None:
        self._seen = dict(cursors)
        self._hours, self._now = hours, now
        self._since: dict[str, int] = {}
        self._base: int | None = None
        """Where the gap of a channel without a cursor begins: after the last message that was read anywhere."""
        self._closed: set[str] = set()
        self._all_closed = True

    def begin(self) -> None:
        """A session has begun: in every channel there may be a gap. One that is open already stays as it is."""
        still_open = {name: since for name, since in self._since.items() if name not in self._closed}
        self._since = self._seen | still_open
        if self._all_closed:
            self._base = max(self._seen.values(), default=None)
        self._all_closed = False
        self._closed.clear()

    def seen(self, name: str, message: int) -> None:
        """A message was read, and all before it in its channel."""
        self._seen[name] = max(self._seen.get(name, 0), message)

    def was_read(self, name: str, message: int) -> bool:
        """Whether a message, or a later one of its channel, was read already."""
        return self._seen.get(name, 0) >= message

    def after(self, name: str) -> int | None:
        """The message after which a channel's gap begins; None where there is none, or none worth looking for."""
        since = self._since.get(name, self._base)
        if name in self._closed or not self._hours or since is None:
            return None
        return max(since, id_at(self._now() - 3600 * self._hours))

    def close(self, name: str) -> None:
        """All messages in a channel's gap were read."""
        self._closed.add(name)

    def close_all(self) -> None:
        """All channels that are known were looked through."""
        self._all_closed = True

    def reopen(self, name: str) -> None:
        """A message could not be stored: the gap begins after the last that was."""
        self._closed.discard(name)
        if name in self._seen:
            self._since[name] = self._seen[name]

    @property
    def private(self) -> list[str]:
        """The names of the private chats that are known; Discord does not list them."""
        return [name for name in self._since if name.startswith("@")]
