"""Keeps states of finished requests, so that the next one need not read again what a state has read before.

Identity is the tuple of token ids that a state has consumed, and the adapter that read them; never a conversation's
name: equal tokens mean equal state, so channels share without knowing of each other. Knows no model and no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from chatbridge.engine.backend import ModelState

BLOCK = 32
"""Tokens per hashed block: prefixes are found by hash, and then compared token by token."""


@dataclass(slots=True, eq=False)
class CacheEntry:
    """One kept state, the ids it has consumed, and the adapter that read them."""

    tokens: tuple[int, ...]
    state: ModelState
    adapter: str = ""


@dataclass(slots=True)
class PrefixCache:
    """The kept states of one model, least recently used first.

    `can_trim`: whether a state can forget its last tokens; if not, it only serves prompts that begin with all of
    its tokens. `max_bytes` and `max_states` bound what is kept; what goes over is released, oldest first, after
    `on_evicted` has seen it. `bidirectional_until`: as in `ModelInfo`.
    """

    can_trim: bool
    max_bytes: int
    max_states: int
    on_evicted: Callable[[CacheEntry], None] | None = None
    bidirectional_until: int | None = None
    hits: int = 0
    evictions: int = 0
    _entries: dict[CacheEntry, None] = field(default_factory=dict)
    _blocks: dict[int, dict[CacheEntry, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return sum(entry.state.nbytes for entry in self._entries)

    def fetch(self, prompt: Sequence[int], *, room: int, beyond: int = 0, adapter: str = "") -> ModelState | None:
        """A state that has consumed the beginning of `prompt`, as much of it as any has, and nothing else.

        It belongs to the caller. None where no state of `adapter` has consumed more than `beyond` tokens of it. At
        least one token is always left to evaluate, since only evaluating yields the next one's logits. `room`: how many
        states there may be, the kept ones and this one; without room for a copy, the kept state itself is given away.
        """
        entry, length = self._find(tuple(prompt), adapter)
        if entry is None or length <= beyond:
            return None
        self.hits += 1
        # A state that is wanted whole comes back longer: no copy. One that can't trim is copied all the same, since
        # a regeneration wants to come back to exactly this point.
        if room < 2 or (self.can_trim and length == len(entry.tokens)):
            self._drop(entry)
            state = entry.state
        else:
            self._touch(entry)
            self.shrink(room - 1)
            state = entry.state.fork()
        if length < len(entry.tokens):
            state.trim(length)
        return state

    def shared(self, prompt: Sequence[int], adapter: str = "") -> int:
        """How many tokens of `prompt`, in whole blocks, some kept state begins with, whatever else it has consumed."""
        tokens = tuple(prompt)
        deepest = None
        for block in _hashes(tokens, adapter):
            if block not in self._blocks:
                break
            deepest = next(iter(self._blocks[block]))
        return 0 if deepest is None else common_prefix(deepest.tokens, tokens) // BLOCK * BLOCK

    def put(self, tokens: Sequence[int], state: ModelState, adapter: str = "") -> None:
        """Keep a state in which `adapter` read `tokens`; it belongs to the cache from now on."""
        new = CacheEntry(tuple(tokens), state, adapter)
        if not new.tokens:
            state.release()
            return
        for entry in self._covered(new):
            self._drop(entry)
            entry.state.release()
        self._entries[new] = None
        for block in _hashes(new.tokens, adapter):
            self._blocks.setdefault(block, {})[new] = None
        self.shrink(self.max_states)

    def shrink(self, states: int) -> None:
        """Release the least recently used until at most `states` are left and the bytes fit."""
        while self._entries and (len(self._entries) > states or self.nbytes > self.max_bytes):
            oldest = next(iter(self._entries))
            self._drop(oldest)
            if self.on_evicted is not None:
                self.on_evicted(oldest)
            oldest.state.release()
            self.evictions += 1

    def newest(self) -> Iterator[CacheEntry]:
        """What is kept, the most recently used first."""
        return reversed(self._entries)

    def clear(self) -> None:
        """Release everything; nobody is told of it."""
        self.on_evicted = None
        self.shrink(0)

    def _find(self, prompt: tuple[int, ...], adapter: str) -> tuple[CacheEntry | None, int]:
        best, longest = None, 0
        for entry in self._candidates(prompt, adapter):
            if entry.adapter != adapter:
                continue
            length = reusable(entry.tokens, prompt, self.bidirectional_until)
            if not self.can_trim and length < len(entry.tokens):
                continue
            if length > longest:
                best, longest = entry, length
                if not self.can_trim:
                    break
        return best, longest

    def _candidates(self, prompt: tuple[int, ...], adapter: str) -> Iterator[CacheEntry]:
        """Those worth comparing, longest shared blocks first; all of them where no block is shared."""
        levels = [self._blocks[block] for block in _hashes(prompt, adapter) if block in self._blocks]
        if self.can_trim:
            yield from levels[-1] if levels else self._entries
            return
        # A state that can't trim serves with all of its tokens or not at all: it is a candidate where its blocks end,
        # and the first that serves is the best.
        for number in range(len(levels), 0, -1):
            ending = [entry for entry in levels[number - 1] if len(entry.tokens) < (number + 1) * BLOCK]
            yield from sorted(ending, key=_length, reverse=True)
        yield from sorted((entry for entry in self._entries if len(entry.tokens) < BLOCK), key=_length, reverse=True)

    def _covered(self, new: CacheEntry) -> list[CacheEntry]:
        """Entries that a new one makes superfluous."""
        tokens, until = new.tokens, self.bidirectional_until
        return [
            entry
            for entry in self._entries
            if entry.adapter == new.adapter
            and (len(entry.tokens) <= len(tokens) if self.can_trim else len(entry.tokens) == len(tokens))
            and tokens[: len(entry.tokens)] == entry.tokens
            and (until is None or _context(tokens, until) == _context(entry.tokens, until))
        ]

    def _touch(self, entry: CacheEntry) -> None:
        del self._entries[entry]
        self._entries[entry] = None

    def _drop(self, entry: CacheEntry) -> None:
        del self._entries[entry]
        for block in _hashes(entry.tokens, entry.adapter):
            holders = self._blocks.get(block, {})
            holders.pop(entry, None)
            if not holders:
                self._blocks.pop(block, None)


def _length(entry: CacheEntry) -> int:
    return len(entry.tokens)


def reusable(kept: Sequence[int], prompt: Sequence[int], until: int | None = None) -> int:
    """How many of the first tokens of `prompt` a state that has consumed `kept` has read as this prompt wants them.

    One token is always left to evaluate. `until`: the token that ends what is read in both directions, if any: a state
    whose part before it is another one has read every token otherwise.
    """
    length = min(common_prefix(kept, prompt), len(prompt) - 1)
    if until is None:
        return length
    context = _context(prompt, until)
    return length if length >= context == _context(kept, until) else 0


def _context(tokens: Sequence[int], until: int) -> int:
    """How many tokens stand before `until`: all, where a state was trimmed to just these."""
    return tokens.index(until) if until in tokens else len(tokens)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share (halving, since slices compare at C speed)."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _hashes(tokens: tuple[int, ...], adapter: str) -> Iterator[int]:
    """A hash for each whole block, which stands for all tokens up to its end and for what read them."""
    running = hash(adapter)
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        running = hash((running, tokens[start : start + BLOCK]))
        yield running
