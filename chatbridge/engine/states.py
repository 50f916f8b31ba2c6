"""Who holds which state of a model: requests under way theirs, and the prefix cache those of finished ones.

Sees to it that there are never more states than the model allows. Knows tokens; knows no text and no sampling.

A state that can't trim serves only prompts that begin with all it has consumed. So copies are kept of where a later
request will come back to: before the last token of a prompt (for a regeneration), where a prompt leaves what another
one has said as well (a system text, a message that was edited), and before what may be the beginning of a stop string,
which is no part of the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.engine.backend import LocalModel, ModelState, Row
from chatbridge.engine.disk_cache import DiskCache, StoredState
from chatbridge.engine.prefix_cache import BLOCK, Kept, PrefixCache, common_prefix
from chatbridge.errors import BackendError

KEPT_STATES = 256
"""How many states are kept where the model itself sets no bound."""


@dataclass(slots=True, eq=False)
class Memory:
    """What the model remembers for one request.

    `tokens`: the request's own list of ids, which grows; `adapter`: what reads them. `copies`: at which lengths of the
    state a copy is wanted, the shortest first, and last where the prompt ends but for one token. `earlier`: a copy from
    before what may be the beginning of a stop string.
    """

    tokens: list[int]
    adapter: str
    state: ModelState
    copies: tuple[int, ...] = ()
    earlier: ModelState | None = None

    def up_to_copy(self, count: int) -> int:
        """How many of the next `count` tokens may be consumed in one step."""
        length = self.state.length
        return min(count, next((copy - length for copy in self.copies if copy > length), count))


class States:
    """All states of `model`, for at most `rows` requests at once; kept ones hold at most `cache_bytes`.

    `disk_cache`: where states go that are no longer kept, and come back from.
    """

    def __init__(self, model: LocalModel, rows: int, cache_bytes: int, disk_cache: DiskCache | None = None) -> None:
        info = model.info
        self._model = model
        self._can_trim = info.can_trim
        self._most = info.max_states or rows + KEPT_STATES
        self._spare = self._most - rows
        self._memories: dict[Memory, None] = {}
        self._disk_cache = disk_cache
        self.cache = PrefixCache(
            info.can_trim, cache_bytes, self._most, None if disk_cache is None else self._put_on_disk
        )

    def take(self, tokens: list[int], prompt_length: int, adapter: str = "") -> Memory:
        """The memory for a request that begins with `tokens`: as many of them consumed as in any state there is."""
        running, shared = self._closest(tokens, adapter)
        stored, length = self._longest_on_shelf(tokens, adapter)
        state = self.cache.take(tokens, room=self._room(), beyond=max(shared, length), adapter=adapter)
        if state is None and stored is not None and length > shared:
            state = self._from_shelf(stored, length, adapter)
        if state is None:
            state = self._new(adapter) if running is None else self._forked(running, shared)
        memory = Memory(tokens, adapter, state, self._copies(tokens, prompt_length, adapter, state.length))
        self._memories[memory] = None
        return memory

    def mark(self, memory: Memory, *, holding: bool) -> None:
        """Take the copies that are due after a step; `holding`: the next token may go on with a stop string."""
        if self._can_trim:
            return
        length = memory.state.length
        if length in memory.copies and self._room() > 0:
            self.cache.shrink(self._room() - 1)
            self.cache.put(memory.tokens[:length], memory.state.fork(), memory.adapter)
        if not holding:
            self._release_earlier(memory)
        elif memory.earlier is None and self._spare > sum(1 for other in self._memories if other.earlier):
            self.cache.shrink(self._room() - 1)
            memory.earlier = memory.state.fork()

    def rewind(self, memory: Memory, length: int) -> Memory:
        """The memory as it was at `length` tokens; where it can't trim, as much of that as is kept elsewhere."""
        if self._can_trim and memory.state.length > length:
            memory.state.trim(length)
        if memory.state.length == length:
            return memory
        self.drop(memory)
        return self.take(memory.tokens, memory.copies[-1] + 1 if memory.copies else 0, memory.adapter)

    def keep(self, memory: Memory, end: int) -> None:
        """Take back the memory of a request whose prompt and reply have `end` tokens, for later requests."""
        del self._memories[memory]
        usable = len(memory.tokens) if self._can_trim else end
        if self._can_trim and memory.state.length > usable:
            memory.state.trim(usable)
        states = [state for state in (memory.state, memory.earlier) if state is not None]
        best = next((state for state in states if state.length <= usable), None)
        for state in states:
            if state is not best:
                state.release()
        if best is not None:
            self.cache.put(memory.tokens[: best.length], best, memory.adapter)

    def drop(self, memory: Memory) -> None:
        """Release the memory of a request that failed."""
        del self._memories[memory]
        self._release_earlier(memory)
        memory.state.release()

    def close(self) -> None:
        """Release what is kept, and put into the disk cache as much of it as there is time for."""
        if self._disk_cache is not None:
            self._disk_cache.put_all(
                (kept.tokens, kept.state, self._mark(kept.adapter)) for kept in self.cache.newest()
            )
        self.cache.clear()

    def check_model(self) -> None:
        """Raise what the model raises if it can't even read one token from the start any more."""
        state = self._new("")
        try:
            self._model.step([Row(state, [self._model.info.bos or 0], None)])
        finally:
            state.release()

    def _closest(self, tokens: Sequence[int], adapter: str) -> tuple[ModelState | None, int]:
        """The state of a request under way that shares most with `tokens` (a common system text, say)."""
        best, longest = None, 0
        for memory in self._memories if self._can_trim else ():
            if memory.adapter != adapter:
                continue
            consumed = memory.tokens[: memory.state.length]
            if (shared := min(common_prefix(consumed, tokens), len(tokens) - 1)) > longest:
                best, longest = memory.state, shared
        return best, longest

    def _copies(self, tokens: Sequence[int], prompt_length: int, adapter: str, length: int) -> tuple[int, ...]:
        """Where copies are wanted of a state that has consumed the first `length` of `tokens`."""
        if self._can_trim:
            return ()
        end = prompt_length - 1
        branch = min(self.cache.shared(tokens, adapter), end)
        # A whole block more, or reading it again costs less than the copy.
        return (branch, end) if length + BLOCK <= branch < end else (end,)

    def _forked(self, state: ModelState, length: int) -> ModelState:
        self.cache.shrink(self._room() - 1)
        copy = state.fork()
        copy.trim(length)
        return copy

    def _new(self, adapter: str, saved: bytes | None = None) -> ModelState:
        self.cache.shrink(self._room() - 1)
        return self._model.new_state(saved, adapter) if adapter else self._model.new_state(saved)

    def _mark(self, adapter: str) -> str:
        """What stands for the adapter in the disk cache."""
        return self._model.info.adapters.get(adapter, "")

    def _put_on_disk(self, kept: Kept) -> None:
        assert self._disk_cache is not None
        self._disk_cache.put(kept.tokens, kept.state, self._mark(kept.adapter))

    def _longest_on_shelf(self, tokens: Sequence[int], adapter: str) -> tuple[StoredState | None, int]:
        if self._disk_cache is None:
            return None, 0
        return self._disk_cache.longest(tokens, whole=not self._can_trim, adapter=self._mark(adapter))

    def _from_shelf(self, stored: StoredState, length: int, adapter: str) -> ModelState | None:
        """The first `length` tokens of a state on disk; None where it is gone or the model refuses it."""
        assert self._disk_cache is not None
        saved = self._disk_cache.read(stored)
        if saved is None:
            return None
        try:
            state = self._new(adapter, saved)
        except BackendError:
            self._disk_cache.drop(stored)
            return None
        if state.length != len(stored.tokens):
            state.release()
            self._disk_cache.drop(stored)
            return None
        if length < state.length:
            state.trim(length)
        return state

    def _room(self) -> int:
        """How many states there may be besides those of requests under way."""
        return self._most - sum(1 if memory.earlier is None else 2 for memory in self._memories)

    def _release_earlier(self, memory: Memory) -> None:
        if memory.earlier is not None:
            memory.earlier.release()
            memory.earlier = None
