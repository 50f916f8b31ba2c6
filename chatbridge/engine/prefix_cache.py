"""Keeps states of finished requests, so that the next one need not read again what a state has read before.

Identity is the tuple of token ids that a state has consumed, and the adapter that read them; never a conversation's
name: equal tokens mean equal state, so channels share without knowing of each other. Knows no model and no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from chatbridge.engine.backend import ModelState
from chatbridge.engine.eviction import Use, Uses

BLOCK = 32
"""Tokens per hashed block: prefixes are found by hash, and then compared token by token."""


@dataclass(slots=True, eq=False)
class CacheEntry:
    """One kept state, the ids it has consumed, and the adapter that read them.

    `hashes`: of its whole blocks; with none, of the adapter alone. `use`: when its conversation was heard of.
    """

    tokens: tuple[int, ...]
    state: ModelState
    adapter: str
    hashes: tuple[int, ...]
    use: Use


@dataclass(slots=True)
class PrefixCache:
    """The kept states of one model, least recently used first.

    `can_trim`: whether a state can forget its last tokens; if not, it only serves prompts that begin with all of
    its tokens. `max_bytes` and `max_states` bound what is kept; what goes over is released, after `on_evicted` has seen
    it: first what will not be wanted for long (see `eviction`), by what it takes and what reading it again would.
    `bidirectional_until`: as in `ModelInfo`.
    """

    can_trim: bool
    max_bytes: int
    max_states: int
    on_evicted: Callable[[CacheEntry], None] | None = None
    bidirectional_until: int | None = None
    hits: int = 0
    evictions: int = 0
    _entries: dict[CacheEntry, None] = field(default_factory=dict)
    _uses: Uses = field(default_factory=Uses)
    # Those that have a block in them, and those whose last whole block it is: the latter with none, by their adapter.
    _blocks: dict[int, dict[CacheEntry, None]] = field(default_factory=dict)
    _ends: dict[int, dict[CacheEntry, None]] = field(default_factory=dict)

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
        wanted = tuple(prompt)
        entry, length = self._find(wanted, adapter) or (None, beyond)
        if entry is None or length <= beyond:
            return None
        self.hits += 1
        if room < 2 or (self.can_trim and self._may_go(entry, wanted, length)):
            self._drop(entry)
            if kept := length // BLOCK:
                self._uses.rename(entry.hashes[-1], entry.hashes[kept - 1])
            state = entry.state
        else:
            self._touch(entry)
            self.shrink(room - 1, keep=entry)
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

    def put(self, tokens: Sequence[int], state: ModelState, adapter: str = "", *, checkpoint: bool = False) -> None:
        """Keep a state in which `adapter` read `tokens`; it belongs to the cache from now on.

        `checkpoint`: it is a copy of one with which its conversation goes on.
        """
        ids = tuple(tokens)
        if not ids:
            state.release()
            return
        hashes = (*_hashes(ids, adapter),)
        for entry in self._covered(ids, adapter, (hash(adapter), *hashes)):
            self._drop(entry)
            entry.state.release()
        # Conversations of less than a block are told apart by all that they hold.
        known = hashes or (hash((adapter, ids)),)
        use = self._uses.copy() if checkpoint else self._uses.use(known, known[-1])
        new = CacheEntry(ids, state, adapter, hashes or (hash(adapter),), use)
        self._entries[new] = None
        for block in hashes:
            self._blocks.setdefault(block, {})[new] = None
        self._ends.setdefault(new.hashes[-1], {})[new] = None
        self.shrink(self.max_states)

    def shrink(self, states: int, *, keep: CacheEntry | None = None) -> None:
        """Release states until at most `states` are left and the bytes fit; `keep` is not among them."""
        total = self.nbytes
        while self._entries and (len(self._entries) > states or total > self.max_bytes):
            by_bytes = total > self.max_bytes
            evicted = max(self._entries, key=lambda entry: (entry is not keep, self._cost(entry, by_bytes)))
            if evicted is keep:
                return
            total -= evicted.state.nbytes
            self._drop(evicted)
            if self.on_evicted is not None:
                self.on_evicted(evicted)
            evicted.state.release()
            self.evictions += 1

    def newest(self) -> Iterator[CacheEntry]:
        """What is kept, the most recently used first."""
        return reversed(self._entries)

    def clear(self) -> None:
        """Release everything; nobody is told of it."""
        for entry in [*self._entries]:
            self._drop(entry)
            entry.state.release()

    def _may_go(self, entry: CacheEntry, prompt: tuple[int, ...], length: int) -> bool:
        """Whether the first `length` tokens of a kept state may be had without a copy of the rest.

        One that is wanted whole comes back longer. Where a prompt is within it, an answer is given anew: nobody is
        likely to go on from the old one, and reading it again would take no longer than the copy does.
        """
        rest = len(entry.tokens) - length
        return not rest or (rest <= length and entry.tokens[length : len(prompt)] == prompt[length:])

    def _cost(self, entry: CacheEntry, by_bytes: bool) -> float:
        """What keeping it costs: for how long in vain, in bytes or as one of the states, for each token it saves."""
        cost = self._uses.remaining(entry.use) / len(entry.tokens)
        return cost * entry.state.nbytes if by_bytes else cost

    def _find(self, prompt: tuple[int, ...], adapter: str) -> tuple[CacheEntry, int] | None:
        """The entry that serves best, and how many tokens of the prompt it has."""
        found = (
            (entry, reusable(entry.tokens, prompt, self.bidirectional_until))
            for entry in self._candidates(prompt, adapter)
            if entry.adapter == adapter
        )
        if not self.can_trim:
            return next(((entry, length) for entry, length in found if length == len(entry.tokens)), None)
        # Of several, the one with the least besides: that is copied as well.
        return max(found, key=lambda one: (one[1], -len(one[0].tokens)), default=None)

    def _candidates(self, prompt: tuple[int, ...], adapter: str) -> Iterator[CacheEntry]:
        """Those worth comparing: with the longest shared blocks, or all of them where no block is shared."""
        hashes = (*_hashes(prompt, adapter),)
        if self.can_trim:
            levels = [self._blocks[block] for block in hashes if block in self._blocks]
            yield from levels[-1] if levels else self._entries
            return
        # A state that can't trim serves with all of its tokens or not at all: it is a candidate where its blocks end,
        # and the first that serves is the best.
        for end in reversed((hash(adapter), *hashes)):
            yield from sorted(self._ends.get(end, ()), key=_length, reverse=True)

    def _covered(self, tokens: tuple[int, ...], adapter: str, ends: tuple[int, ...]) -> list[CacheEntry]:
        """Entries that a new one with these tokens makes superfluous: they end where it has a block."""
        until = self.bidirectional_until
        return [
            entry
            for end in ends
            for entry in self._ends.get(end, ())
            if entry.adapter == adapter
            and (self.can_trim or len(entry.tokens) == len(tokens))
            and tokens[: len(entry.tokens)] == entry.tokens
            and (until is None or _context(tokens, until) == _context(entry.tokens, until))
        ]

    def _touch(self, entry: CacheEntry) -> None:
        self._uses.again(entry.use)
        del self._entries[entry]
        self._entries[entry] = None

    def _drop(self, entry: CacheEntry) -> None:
        del self._entries[entry]
        for index, hashes in ((self._blocks, entry.hashes), (self._ends, entry.hashes[-1:])):
            for block in hashes:
                holders = index.get(block, {})
                holders.pop(entry, None)
                if not holders:
                    index.pop(block, None)


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
