"""Who holds which state of a model: running requests theirs, and the prefix cache those of finished ones.

Sees to it that there are never more states than the model allows. Knows tokens; knows no text and no sampling.

A state that can't trim serves only prompts that begin with all it has consumed. So checkpoints, copies of a state, are
kept of where a later request will come back to: before the generation prompt (for an answer that goes back otherwise
than it was sampled, or a regeneration), where a prompt leaves what another one has said as well (a system text, a
message that was edited), and before what may be the beginning of a stop string, which is no part of the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatbridge.engine.backend import LocalModel, ModelState, Row
from chatbridge.engine.disk_cache import CLOSE_SECONDS, DiskCache, StoredState
from chatbridge.engine.prefix_cache import BLOCK, CacheEntry, PrefixCache, reusable
from chatbridge.errors import BackendError

MAX_KEPT_STATES = 256
"""How many states are kept where the model itself sets no bound."""


@dataclass(slots=True, eq=False)
class RequestState:
    """What one running request holds of the model (llama.cpp: a slot).

    `tokens`: the request's own list of ids, which grows; `adapter`: what reads them. `model_state` has consumed the
    first `model_state.length` of them, and the first `prompt_length` are the prompt, of which later prompts have the
    first `settled`, too. `checkpoints`: the lengths of the
    state at which a copy is wanted, ascending. `before_stop`: a copy from before what may be the beginning of a stop
    string.
    """

    tokens: list[int]
    prompt_length: int
    adapter: str
    model_state: ModelState
    checkpoints: tuple[int, ...] = ()
    before_stop: ModelState | None = None
    settled: int = 0

    def up_to_checkpoint(self, count: int) -> int:
        """How many of the next `count` tokens may be consumed in one step, so that it ends at a checkpoint."""
        length = self.model_state.length
        return min(count, next((point - length for point in self.checkpoints if point > length), count))


class StatePool:
    """All states of `model`, for at most `rows` requests at once.

    `cache_bytes`: memory that states of finished requests may hold. `disk_cache`: where states go that are kept in
    memory no longer, and come back from.
    """

    def __init__(self, model: LocalModel, rows: int, cache_bytes: int, disk_cache: DiskCache | None = None) -> None:
        info = model.info
        self._model = model
        self._can_trim = info.can_trim
        self._until = info.bidirectional_until
        self._max_states = info.max_states or rows + MAX_KEPT_STATES
        self._max_before_stop = self._max_states - rows
        self._running: dict[RequestState, None] = {}
        self._disk_cache = disk_cache
        self.cache = PrefixCache(info.can_trim, cache_bytes, self._max_states, self._put_on_disk, self._until)

    def acquire(self, tokens: list[int], prompt_length: int, adapter: str = "", settled: int = 0) -> RequestState:
        """The state for a request that begins with `tokens`: as many of them consumed as in any state there is."""
        running, shared = self._closest_running(tokens, adapter)
        stored, length = self._longest_on_disk(tokens, adapter)
        state = self.cache.fetch(tokens, room=self._room(), beyond=max(shared, length), adapter=adapter)
        if state is None and stored is not None and length > shared:
            state = self._from_disk(stored, length, adapter)
        if state is None:
            state = self._new_state(adapter) if running is None else self._fork(running, shared)
        checkpoints = self._checkpoints(tokens, prompt_length, adapter, state.length, settled)
        acquired = RequestState(tokens, prompt_length, adapter, state, checkpoints, settled=settled)
        self._running[acquired] = None
        return acquired

    def checkpoint(self, request: RequestState, *, in_partial_stop: bool) -> None:
        """Take the copies that are due after a step; `in_partial_stop`: the next token may go on with a stop string."""
        if self._can_trim:
            return
        length = request.model_state.length
        if length in request.checkpoints and self._room() > 0:
            self.cache.shrink(self._room() - 1)
            self.cache.put(request.tokens[:length], request.model_state.fork(), request.adapter, checkpoint=True)
        # The reply ends before its stop string, and a state that can't trim can't go back there. So the first step that
        # may have begun one leaves a copy, which stays as long as it may be one and goes when it proves none. The state
        # has not consumed the step's last token yet: the copy ends before the stop string's first. Such copies are a
        # convenience, so they are made only of states that no request can be in need of.
        if not in_partial_stop:
            self._release_before_stop(request)
        elif request.before_stop is None and self._before_stop_count() < self._max_before_stop:
            self.cache.shrink(self._room() - 1)
            request.before_stop = request.model_state.fork()

    def rewind(self, request: RequestState, length: int) -> RequestState:
        """The state as it was at `length` tokens; where it can't trim, as much of that as is kept elsewhere."""
        if self._can_trim:
            request.model_state.trim(min(length, request.model_state.length))
        if request.model_state.length == length:
            return request
        self.discard(request)
        return self.acquire(request.tokens, request.prompt_length, request.adapter, request.settled)

    def keep(self, request: RequestState, end: int) -> None:
        """Cache the state of a request that has ended; `end`: how many tokens its prompt and reply have."""
        del self._running[request]
        usable = len(request.tokens) if self._can_trim else end
        if self._can_trim and request.model_state.length > usable:
            request.model_state.trim(usable)
        states = [state for state in (request.model_state, request.before_stop) if state is not None]
        best = next((state for state in states if state.length <= usable), None)
        for state in states:
            if state is not best:
                state.release()
        if best is not None:
            self.cache.put(request.tokens[: best.length], best, request.adapter)

    def discard(self, request: RequestState) -> None:
        """Release the state of a request that has failed."""
        del self._running[request]
        self._release_before_stop(request)
        request.model_state.release()

    def store(
        self, disk_cache: DiskCache | None, seconds: float, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[int, int]:
        """Put a copy of what is kept into the disk cache, or into this one where there is none; see `put_all`."""
        self._disk_cache = self._disk_cache or disk_cache
        if self._disk_cache is None:
            return 0, len(self.cache)
        kept = ((entry.tokens, entry.state, self._digest(entry.adapter)) for entry in self.cache.newest())
        return self._disk_cache.put_all(kept, seconds, interrupted)

    def close(self) -> None:
        """Release what is kept, and put into the disk cache as much of it as there is time for."""
        self.store(None, CLOSE_SECONDS)
        self.cache.clear()

    def check_model(self) -> None:
        """Raise what the model raises if it can't even read one token from the start any more."""
        state = self._new_state("")
        try:
            self._model.step([Row(state, [self._until or self._model.info.bos or 0], None)])
        finally:
            state.release()

    def _closest_running(self, tokens: Sequence[int], adapter: str) -> tuple[ModelState | None, int]:
        """The state of a running request that shares most with `tokens` (a common system text, say), and how much."""
        best, longest = None, 0
        for request in self._running if self._can_trim else ():
            if request.adapter != adapter:
                continue
            consumed = request.tokens[: request.model_state.length]
            if (shared := reusable(consumed, tokens, self._until)) > longest:
                best, longest = request.model_state, shared
        return best, longest

    def _checkpoints(
        self, tokens: Sequence[int], prompt_length: int, adapter: str, length: int, settled: int
    ) -> tuple[int, ...]:
        """Where copies are wanted of a state that has consumed the first `length` of `tokens`."""
        if self._can_trim or self._until is not None:
            return ()
        end = prompt_length - 1
        branch = min(self.cache.shared(tokens, adapter), end)
        # A whole block more, or reading it again costs less than the copy.
        wanted = [branch] if length + BLOCK <= branch else []
        if length < settled < end:
            wanted.append(settled)
        if not wanted or end - wanted[-1] >= BLOCK:
            wanted.append(end)
        return tuple(sorted(set(wanted)))

    def _fork(self, state: ModelState, length: int) -> ModelState:
        self.cache.shrink(self._room() - 1)
        copy = state.fork()
        copy.trim(length)
        return copy

    def _new_state(self, adapter: str, saved: bytes | None = None) -> ModelState:
        self.cache.shrink(self._room() - 1)
        return self._model.new_state(saved, adapter) if adapter else self._model.new_state(saved)

    def _digest(self, adapter: str) -> str:
        """What stands for the adapter in the disk cache."""
        return self._model.info.adapters.get(adapter, "")

    def _put_on_disk(self, entry: CacheEntry) -> None:
        if self._disk_cache is not None:
            self._disk_cache.put(entry.tokens, entry.state, self._digest(entry.adapter))

    def _longest_on_disk(self, tokens: Sequence[int], adapter: str) -> tuple[StoredState | None, int]:
        if self._disk_cache is None:
            return None, 0
        digest = self._digest(adapter)
        return self._disk_cache.longest(tokens, whole=not self._can_trim, adapter=digest, until=self._until)

    def _from_disk(self, stored: StoredState, length: int, adapter: str) -> ModelState | None:
        """The first `length` tokens of a state on disk; None where it is gone or the model refuses it."""
        assert self._disk_cache is not None
        saved = self._disk_cache.read(stored)
        if saved is None:
            return None
        try:
            state = self._new_state(adapter, saved)
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
        """How many states there may be besides those of running requests."""
        return self._max_states - sum(1 if request.before_stop is None else 2 for request in self._running)

    def _before_stop_count(self) -> int:
        return sum(request.before_stop is not None for request in self._running)

    def _release_before_stop(self, request: RequestState) -> None:
        if request.before_stop is not None:
            request.before_stop.release()
            request.before_stop = None
