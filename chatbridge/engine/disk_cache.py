"""Keeps states on disk, so that after a restart no history is read again. Knows files and tokens; knows no model.

A file belongs to one fingerprint, to one adapter or none, and to the ids that its state has consumed; it is given back
for a prompt that begins with these ids, and for nothing else. The ids are what people wrote: only the owner may read
the files.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol

from chatbridge.engine.backend import ModelState
from chatbridge.engine.prefix_cache import reusable
from chatbridge.errors import ModelLoadError

MIN_TOKENS = 64
"""Tokens that are worth a file; fewer are read again as fast."""

CLOSE_SECONDS, UNLOAD_SECONDS = 3.0, 30.0
"""Seconds that a model may take for putting its states away: one that is being closed, and one that nobody uses."""

MAX_BYTES = 8 << 30
"""What a folder may hold unless somebody says more or less."""

_MAGIC = b"chatbridge-state-2\n"
_NO_ADAPTER = bytes(8)
_NAME_BYTES = 16
_PARTS = 16
"""One of so many of a folder's room is written before its files are looked at, and is left free then."""
_SUFFIX = ".state"


@dataclass(frozen=True, slots=True)
class StoredState:
    """One state on disk, the ids that it has consumed, and a hash of what read them."""

    tokens: tuple[int, ...]
    path: Path
    adapter: bytes = _NO_ADAPTER

    def saved(self, count: int = -1) -> bytes:
        """What `ModelState.save` wrote, or its first `count` bytes. Raises OSError or ValueError where it is gone."""
        with self.path.open("rb") as file:
            if _read_stored(file.read, self.path) != self:
                raise ValueError(f"{self.path} holds another state by now")
            return file.read(count)

    def read_by(self, adapter: str) -> bool:
        """Whether it was the adapter with this digest in `ModelInfo.adapters` that read the tokens; empty for none."""
        return self.adapter == _adapter_digest(adapter)


class DiskCacheOptions(Protocol):
    """The keys of bots.yaml by which a backend lets people keep states: the folder, and the most it may hold."""

    @property
    def keep_states(self) -> Path | Literal[False] | None: ...

    @property
    def keep_states_gib(self) -> float: ...


@dataclass(slots=True)
class DiskCache:
    """The states of the model with this `fingerprint` in `folder`, which is made where it is not there.

    `max_bytes`: of all files in the folder, of whatever model; those used least recently go first. `clock`: seconds.
    """

    folder: Path
    fingerprint: str
    max_bytes: int = MAX_BYTES
    clock: Callable[[], float] = time.monotonic
    _stored: dict[Path, StoredState] = field(default_factory=dict)
    _written: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stored = {stored.path: stored for stored in self.contents(self.folder, f"{self._model_digest()}-")}

    @classmethod
    def from_options(cls, options: DiskCacheOptions, fingerprint: str) -> DiskCache | None:
        """The one that a model's options ask for, if they do. Raises ModelLoadError where the folder can't be used."""
        folder = options.keep_states
        if not folder:
            return None
        try:
            return cls(folder, fingerprint, int(options.keep_states_gib * 2**30))
        except OSError as error:
            raise ModelLoadError(f"keep_states: {folder} can't be used: {error.strerror or error}") from error

    @staticmethod
    def contents(folder: Path, start: str = "") -> Iterator[StoredState]:
        """All states in a folder whose files' names begin with `start`, of whatever model."""
        for path in sorted(folder.glob(f"{start}*{_SUFFIX}")):
            # One that is damaged is as good as none.
            with suppress(OSError, ValueError, struct.error), path.open("rb") as file:
                yield _read_stored(file.read, path)

    @staticmethod
    def clear(folder: Path) -> int:
        """Delete all states in a folder, of whatever model, and halves of such; how many. Raises: OSError."""
        files = [*folder.glob(f"*{_SUFFIX}"), *folder.glob("*.part")]
        for file in files:
            file.unlink(missing_ok=True)
        return len(files)

    def put(self, tokens: Sequence[int], state: ModelState, adapter: str = "") -> bool:
        """Keep a copy of `state`, which has consumed `tokens` with `adapter` (its digest in `ModelInfo.adapters`).

        Returns whether it is there: what can't be written is left out, and what is too short to be worth a file.
        """
        if len(tokens) < MIN_TOKENS:
            return False
        packed = struct.pack(f"<{len(tokens)}I", *tokens)
        digest = _adapter_digest(adapter)
        name = f"{self._model_digest()}-{blake2b(digest + packed, digest_size=_NAME_BYTES).hexdigest()}"
        path = self.folder / f"{name}{_SUFFIX}"
        if path in self._stored:
            return True
        partial = self.folder / f"{name}.{os.getpid()}.part"
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                written = file.write(b"".join((_MAGIC, digest, struct.pack("<I", len(tokens)), packed, state.save())))
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            return False
        self._stored[path] = StoredState(tuple(tokens), path, digest)
        self._shrink(written)
        return True

    def put_all(
        self,
        kept: Iterable[tuple[Sequence[int], ModelState, str]],
        seconds: float = CLOSE_SECONDS,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[int, int]:
        """Keep these ids, states and adapters, the most wanted first, as many as there is time for.

        `interrupted`: asked before each, whether there is something better to do. Returns how many are there, and how
        many are not: for want of time or of room. Short ones count as neither.
        """
        end, there, missing = self.clock() + seconds, 0, 0
        for tokens, state, adapter in kept:
            if len(tokens) < MIN_TOKENS:
                continue
            if self.clock() < end and not interrupted() and self.put(tokens, state, adapter):
                there += 1
            else:
                missing += 1
        return there, missing

    def longest(
        self, prompt: Sequence[int], *, whole: bool, adapter: str = "", until: int | None = None
    ) -> tuple[StoredState | None, int]:
        """The adapter's state that shares most with `prompt`, and how much; `whole`: only one with nothing else in it.

        One token is always left to evaluate. `until`: `ModelInfo.bidirectional_until`.
        """
        best, longest, wanted, digest = None, 0, tuple(prompt), _adapter_digest(adapter)
        own = [stored for stored in self._stored.values() if stored.adapter == digest]
        if whole:
            # Where the last ids differ, there is no need to compare all the others.
            alike = (one for one in own if one.tokens[-1:] == wanted[len(one.tokens) - 1 : len(one.tokens)])
            for stored in sorted(alike, key=lambda one: len(one.tokens), reverse=True):
                if reusable(stored.tokens, wanted, until) == len(stored.tokens):
                    return stored, len(stored.tokens)
            return None, 0
        for stored in own:
            length = reusable(stored.tokens, wanted, until)
            if length > longest:
                best, longest = stored, length
        return best, longest

    def read(self, stored: StoredState) -> bytes | None:
        """What `ModelState.save` wrote; None where it is gone."""
        try:
            saved = stored.saved()
            os.utime(stored.path)
            return saved
        except (OSError, ValueError, struct.error):
            self.drop(stored)
            return None

    def drop(self, stored: StoredState) -> None:
        """Give up one that is of no use."""
        self._stored.pop(stored.path, None)
        with suppress(OSError):
            stored.path.unlink()

    def _shrink(self, written: int) -> None:
        """Drop what is too much, after a file of so many bytes; others may write there, too."""
        # Looking at all files takes a while where there are thousands: only now and then.
        self._written += written
        if self._written < self.max_bytes // _PARTS:
            return
        self._written = 0
        files = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes - self.max_bytes // _PARTS:
                return
            total -= size
            self.drop(StoredState((), path))

    def _model_digest(self) -> str:
        return _digest(self.fingerprint).hex()


def _digest(mark: str) -> bytes:
    return blake2b(mark.encode(), digest_size=len(_NO_ADAPTER)).digest()


def _adapter_digest(adapter: str) -> bytes:
    return _digest(adapter) if adapter else _NO_ADAPTER


def _read_stored(read: Callable[[int], bytes], path: Path) -> StoredState:
    if read(len(_MAGIC)) != _MAGIC:
        raise ValueError("not a state")
    digest = read(len(_NO_ADAPTER))
    (count,) = struct.unpack("<I", read(4))
    if 4 * count > path.stat().st_size:  # room for what is to be read is made first
        raise ValueError("it ends before its ids do")
    return StoredState(struct.unpack(f"<{count}I", read(4 * count)), path, digest)
