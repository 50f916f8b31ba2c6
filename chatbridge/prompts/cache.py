"""A cache that is bounded by what it holds, not by how many things it holds. Knows nothing of what is kept.

`functools.lru_cache` counts entries, and an entry may be a file that somebody sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_AROUND, _CHARACTER = 200, 4
"""Bytes that something takes besides its text, and a character at most."""


def weight(texts: Iterable[str]) -> int:
    """About how many bytes these texts take with what is kept around each; rather too many than too few."""
    return sum(_AROUND + _CHARACTER * len(text) for text in texts)


class ByteLru(Generic[Key, Value]):
    """The values used last, as many as `max_bytes` have room for. Safe to use from any thread.

    `size`: about how many bytes an entry takes, key and value. What takes more than a `largest` of the room is made
    anew each time, so that it doesn't push everything else out.
    """

    def __init__(self, max_bytes: int, size: Callable[[Key, Value], int], *, largest: float = 1 / 16) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._largest = int(max_bytes * largest)
        self._size = size
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`; `make` gives it where it is not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found[0]
        value = make()
        taken = self._size(key, value)
        if taken <= self._largest:
            with self._lock:
                self._keep(key, value, taken)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.used = 0

    def _keep(self, key: Key, value: Value, taken: int) -> None:
        if key in self._kept:  # another thread was faster
            self.used -= self._kept.pop(key)[1]
        self._kept[key] = (value, taken)
        self.used += taken
        while self.used > self.max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.used -= freed
