"""Which channels may hold messages that the gateway never told of, and from which one on. Makes no call.

A session of the gateway that can't be resumed leaves a gap: what was written between its end and the next one. Ids of
Discord's grow with time, so the last one that was read in a channel says where its gap begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

EPOCH = 1_420_070_400.0
"""The first second of 2015, from which ids count."""

FIRST_START = "since"
"""The mark of the moment from which on messages count, for channels that have none of their own."""


def id_at(seconds: float) -> int:
    """The lowest id of a message at that time, in seconds since 1970."""
    return max(0, int((seconds - EPOCH) * 1000)) << 22


class Missed:
    """The gaps of one bot. `hours`: what is older is not looked for."""

    def __init__(self, marks: Mapping[str, int], hours: float, now: Callable[[], float] = time.time) -> None:
        self._seen = dict(marks)
        self._hours, self._now = hours, now
        self._since: dict[str, int] = {}
        self._base: int | None = None
        """Where the gap of a channel without a mark begins: after the last message that was read anywhere."""
        self._whole: set[str] = set()
        self._all_whole = True

    def begin(self) -> None:
        """A session has begun: in every channel there may be a gap. One that is open already stays as it is."""
        still = {mark: since for mark, since in self._since.items() if mark not in self._whole}
        self._since = self._seen | still
        if self._all_whole:
            self._base = max(self._seen.values(), default=None)
        self._all_whole = False
        self._whole.clear()

    def seen(self, mark: str, message: int) -> None:
        """A message was read, and all before it in its channel."""
        self._seen[mark] = max(self._seen.get(mark, 0), message)

    def was_read(self, mark: str, message: int) -> bool:
        """Whether a message, or a later one of its channel, was read already."""
        return self._seen.get(mark, 0) >= message

    def after(self, mark: str) -> int | None:
        """Where the gap of a channel begins; None where there is none (any more), or none worth looking for."""
        since = self._since.get(mark, self._base)
        if mark in self._whole or not self._hours or since is None:
            return None
        return max(since, id_at(self._now() - 3600 * self._hours))

    def whole(self, mark: str) -> None:
        """The gap of a channel is closed."""
        self._whole.add(mark)

    def all_whole(self) -> None:
        """All channels that are known were looked through."""
        self._all_whole = True

    def open(self, mark: str) -> None:
        """A message could not be stored: the gap begins after the last that was."""
        self._whole.discard(mark)
        if mark in self._seen:
            self._since[mark] = self._seen[mark]

    @property
    def private(self) -> list[str]:
        """The marks of the private chats that are known; Discord does not list them."""
        return [mark for mark in self._since if mark.startswith("@")]
