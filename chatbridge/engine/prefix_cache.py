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
class Kept:
    """One kept state, the ids it has consumed, and the adapter that read them."""

    tokens: tuple[int, ...]
    state: ModelState
    adapter: str = ""


@dataclass(slots=True)
class PrefixCache:
    """The kept states of one model, least recently used first.

    `can_trim`: whether a state can forget its last tokens; if not, it only serves prompts that begin with all of
    its tokens. `max_bytes` and `max_states` bound what is kept; what goes over is released, oldest first, after
    `on_evicted` has seen it.
    """

    can_trim: bool
    max_bytes: int
    max_states: int
    on_evicted: Callable[[Kept], None] | None = None
    hits: int = 0
    evictions: int = 0
    _kept: dict[Kept, None] = field(default_factory=dict)
    _blocks: dict[int, dict[Kept, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        return sum(kept.state.nbytes for kept in self._kept)

    def take(self, prompt: Sequence[int], *, room: int, beyond: int = 0, adapter: str = "") -> ModelState | None:
        """A state in which `adapter` read more than `beyond` tokens of `prompt` and nothing else; the caller's own.

        At least one token is always left to evaluate, since only evaluating yields the next one's logits.
        `room`: how many states there may be, the kept ones and this one; without room for a copy, the kept state
        itself is given away.
        """
        kept, length = self._find(tuple(prompt), adapter)
        if kept is None or length <= beyond:
            return None
        self.hits += 1
        # A state that is wanted whole comes back longer: no copy. One that can't trim is copied all the same, since
        # a regeneration wants to come back to exactly this point.
        if room < 2 or (self.can_trim and length == len(kept.tokens)):
            self._drop(kept)
            state = kept.state
        else:
            self._touch(kept)
            self.shrink(room - 1)
            state = kept.state.fork()
        if length < len(kept.tokens):
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
        fresh = Kept(tuple(tokens), state, adapter)
        if not fresh.tokens:
            state.release()
            return
        for kept in self._covered(fresh):
            self._drop(kept)
            kept.state.release()
        self._kept[fresh] = None
        for block in _hashes(fresh.tokens, adapter):
            self._blocks.setdefault(block, {})[fresh] = None
        self.shrink(self.max_states)

    def shrink(self, states: int) -> None:
        """Release the least recently used until at most `states` are left and the bytes fit."""
        while self._kept and (len(self._kept) > states or self.nbytes > self.max_bytes):
            oldest = next(iter(self._kept))
            self._drop(oldest)
            if self.on_evicted is not None:
                self.on_evicted(oldest)
            oldest.state.release()
            self.evictions += 1

    def newest(self) -> Iterator[Kept]:
        """What is kept, the most recently used first."""
        return reversed(self._kept)

    def clear(self) -> None:
        """Release everything; nobody is told of it."""
        self.on_evicted = None
        self.shrink(0)

    def _find(self, prompt: tuple[int, ...], adapter: str) -> tuple[Kept | None, int]:
        best, longest = None, 0
        for kept in self._candidates(prompt, adapter):
            if kept.adapter != adapter:
                continue
            length = min(common_prefix(kept.tokens, prompt), len(prompt) - 1)
            if not self.can_trim and length < len(kept.tokens):
                continue
            if length > longest:
                best, longest = kept, length
                if not self.can_trim:
                    break
        return best, longest

    def _candidates(self, prompt: tuple[int, ...], adapter: str) -> Iterator[Kept]:
        """Those worth comparing, longest shared blocks first; all of them where no block is shared."""
        levels = [self._blocks[block] for block in _hashes(prompt, adapter) if block in self._blocks]
        if self.can_trim:
            yield from levels[-1] if levels else self._kept
            return
        # A state that can't trim serves with all of its tokens or not at all: it is a candidate where its blocks end,
        # and the first that serves is the best.
        for number in range(len(levels), 0, -1):
            ending = [kept for kept in levels[number - 1] if len(kept.tokens) < (number + 1) * BLOCK]
            yield from sorted(ending, key=_length, reverse=True)
        yield from sorted((kept for kept in self._kept if len(kept.tokens) < BLOCK), key=_length, reverse=True)

    def _covered(self, fresh: Kept) -> list[Kept]:
        """Kept states that a fresh one makes superfluous."""
        tokens = fresh.tokens
        return [
            kept
            for kept in self._kept
            if kept.adapter == fresh.adapter
            and (len(kept.tokens) <= len(tokens) if self.can_trim else len(kept.tokens) == len(tokens))
            and tokens[: len(kept.tokens)] == kept.tokens
        ]

    def _touch(self, kept: Kept) -> None:
        del self._kept[kept]
        self._kept[kept] = None

    def _drop(self, kept: Kept) -> None:
        del self._kept[kept]
        for block in _hashes(kept.tokens, kept.adapter):
            holders = self._blocks.get(block, {})
            holders.pop(kept, None)
            if not holders:
                self._blocks.pop(block, None)


def _length(kept: Kept) -> int:
    return len(kept.tokens)


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
