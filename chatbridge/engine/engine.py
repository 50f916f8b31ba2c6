"""The engine of one model: requests in, chunks out, one scheduler step at a time. Synchronous and single-threaded.

Knows the `LocalModel` contract; knows no process, no socket and no chat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.config.bounds import KEPT_STATES
from chatbridge.engine.answer_splitter import TextDelta
from chatbridge.engine.backend import LocalModel, Request
from chatbridge.engine.disk_cache import UNLOAD_SECONDS, DiskCache
from chatbridge.engine.generation import Generation, prepare, prompt_ids
from chatbridge.engine.prefill import PrefillLimit
from chatbridge.engine.scheduler import Scheduler
from chatbridge.engine.state_pool import StatePool
from chatbridge.errors import BackendError, ChatbridgeError
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, Finish, FinishReason, Waiting


@dataclass(frozen=True, slots=True)
class Event:
    """What the engine tells of a request: a chunk of its answer, or the error that it ended with.

    `tokens` are the ids sampled since its last event.
    """

    request_id: str
    chunk: Chunk | None = None
    error: ChatbridgeError | None = None
    tokens: tuple[int, ...] = ()


class Engine:
    """Runs `model` for many requests at once.

    `token_budget`: how many tokens one step reads at most, over all requests (the model's own batch may be less).
    `max_batch`: requests that run at once, if fewer than the model takes. `cache_bytes`: memory for states of finished
    requests; 0 keeps none. `disk_cache`: for a model that has none of its own. `prefill_limit`: how long reading may
    hold up those who are being answered. `on_step(ids, tokens)` is called before the model does something: for which
    requests, and how many tokens they read. `clock` gives seconds.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        token_budget: int = 512,
        max_batch: int | None = None,
        cache_bytes: int = KEPT_STATES,
        disk_cache: DiskCache | None = None,
        prefill_limit: PrefillLimit | None = None,
        on_step: Callable[[tuple[str, ...], int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        info = model.info
        rows = min(max_batch or info.max_batch, info.max_batch, info.max_states or info.max_batch)
        self.model = model
        self._clock = clock
        self._on_step = on_step or (lambda ids, tokens: None)
        self._prefill_limit = prefill_limit or PrefillLimit()
        self._scheduler: Scheduler[Generation] = Scheduler(rows, token_budget)
        self._generations: dict[str, Generation] = {}
        self._events: list[Event] = []
        self._told_positions: dict[str, int] = {}
        self._average_seconds: float | None = None  # of the last answers, without their time in the queue
        self._states = StatePool(model, rows, cache_bytes, getattr(model, "disk_cache", None) or disk_cache)
        # Counts of tokens (of prompts: read ones, and those that a state had read before) and of steps.
        self._generated = self._read = self._reused = self._steps = 0

    @property
    def idle(self) -> bool:
        """Whether `step` has nothing to do."""
        return not self._generations and not self._events

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The ids of `prompt`. Raises TemplateError."""
        return prompt_ids(prompt, self.model)

    def submit(self, request: Request, prompt: Sequence[int] | ChatbridgeError | None = None) -> None:
        """Take a request in. What is wrong with it comes as an error event of the next step.

        `prompt`: what `tokenize` gave for its prompt, or raised, where that was called before. Raises: ValueError if a
        request of the same id is under way.
        """
        if request.id in self._generations:
            raise ValueError(f"a request {request.id!r} is under way already")
        try:
            if isinstance(prompt, ChatbridgeError):
                raise prompt
            ids = self.tokenize(request.prompt) if prompt is None else prompt
            generation = prepare(request, self.model, self._clock(), ids)
        except MemoryError:
            raise
        except Exception as error:
            self._events.append(_failure(request.id, error))
            return
        self._generations[request.id] = generation
        self._scheduler.add(generation)

    def cancel(self, request_id: str) -> None:
        """End a request; the next step lets another one run in its stead, and tells how far its answer came."""
        if (generation := self._generations.get(request_id)) is not None:
            self._finish(generation, "cancelled")

    def pause(self, request_id: str) -> None:
        """Give a request up without an end, for one that goes on later with its ids in `Request.resume`.

        Its state is kept, so that it need not be read again. All its ids have been told by then.
        """
        if (generation := self._generations.get(request_id)) is not None:
            self._remove(generation)
            if generation.state is not None:
                self._states.keep(generation.state, len(generation.tokens))

    def step(self) -> list[Event]:
        """Let every running request catch up by its share of the budget, and tell what came of it.

        A request that makes the model raise fails alone. Raises: what the model raises, if it is broken for good;
        MemoryError where the memory does not even do without kept states, which may be any request's fault or nobody's.
        """
        while (generation := self._scheduler.admit()) is not None:
            try:
                self._start(generation)
            except MemoryError:
                self._states.cache.clear()
                self._start(generation)
            except Exception as error:
                self._fail(generation, error)
        self._tell_positions()
        if shares := self._shares():
            self._steps += 1
            divided = [count - 1 for generation, count in shares if not generation.comes_whole]
            with self._prefill_limit.measure(sum(divided), len(divided)):
                results = self._run(shares)
            for (generation, _), sampled in zip(shares, results, strict=True):
                if generation.id in self._generations:
                    self._advance(generation, sampled)
            # The model may have made room for those who began by copying out what is idle.
            self._states.cache.shrink(self._states.cache.max_states)
        events, self._events = self._events, []
        return events

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and what is going on now."""
        scheduler, cache = self._scheduler, self._states.cache
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "positions": {generation.id: scheduler.position(generation) for generation in scheduler.waiting},
            "steps": self._steps,
            "tokens_generated": self._generated,
            "tokens_read": self._read,
            "tokens_reused": self._reused,
            "kept_states": len(cache),
            "kept_bytes": cache.nbytes,
            "cache_hits": cache.hits,
            "cache_evictions": cache.evictions,
        }

    def store_states(
        self,
        disk_cache: DiskCache | None = None,
        seconds: float = UNLOAD_SECONDS,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[int, int]:
        """Put copies of what was read for finished requests on disk; how many are there, and how many are not.

        `disk_cache`: where they go if the engine has had none so far. `seconds`: how long it may take. `interrupted`:
        asked before each, whether there is something better to do.
        """
        return self._states.store(disk_cache, seconds, interrupted)

    def close(self) -> None:
        """Release every state and the model; requests under way are dropped."""
        for generation in list(self._generations.values()):
            self._finish(generation, "cancelled")
        self._events.clear()
        self._states.close()
        self.model.close()

    def _tell_positions(self) -> None:
        """Tell each waiting request its position in the queue, when that has changed."""
        positions = {generation.id: number for number, generation in enumerate(self._scheduler.waiting, start=1)}
        for id, position in positions.items():
            if self._told_positions.get(id) != position:
                # With all rows taken, one becomes free as often as answers end.
                average = self._average_seconds
                seconds = None if average is None else position * average / self._scheduler.max_batch
                self._events.append(Event(id, Chunk(waiting=Waiting(position, seconds))))
        self._told_positions = positions

    def _shares(self) -> list[tuple[Generation, int]]:
        """What each running request consumes in the next step."""
        running = self._scheduler.running
        answering = sum(generation.first_token is not None for generation in running)
        limit = self._prefill_limit.max_tokens(answering, len(running) - answering) if answering else None
        scheduled = self._scheduler.schedule(limit)
        return [(generation, generation.running_state().up_to_checkpoint(count)) for generation, count in scheduled]

    def _start(self, generation: Generation) -> None:
        """Give an admitted request its sampler and its state, with as much of the prompt in it as is known."""
        generation.started = self._clock()
        if generation.exhausted:
            self._finish(generation, generation.exhausted)
        else:
            self._on_step((generation.id,), 0)
            generation.sampler = self._new_sampler(generation)
            state = self._states.acquire(
                generation.tokens, generation.prompt_length, generation.request.adapter, generation.settled
            )
            generation.state = state
            generation.consumed = state.model_state.length
            generation.cached = min(generation.consumed, generation.prompt_length)
            self._reused += generation.cached

    def _new_sampler(self, generation: Generation) -> Any:
        return self.model.new_sampler(generation.request.sampling, generation.tokens, generation.generated)

    def _run(self, shares: list[tuple[Generation, int]]) -> Sequence[Sequence[int]]:
        self._on_step(tuple([generation.id for generation, _ in shares]), sum(count for _, count in shares))
        try:
            return self.model.step([generation.row(count) for generation, count in shares])
        except Exception as error:
            if isinstance(error, MemoryError):
                self._states.cache.clear()
            # One request may have spoilt the step for all: each is tried alone, and only the culprit fails.
            results = [self._run_alone(generation, count) for generation, count in shares]
            if not self._scheduler.running:
                self._states.check_model()
            return results

    def _run_alone(self, generation: Generation, count: int) -> Sequence[int]:
        """Repeat a failed step for one request, from where it stood before."""
        self._on_step((generation.id,), generation.consumed + count)
        try:
            end = generation.consumed + count
            # Where rewinding fails, the pool has released the state: `_fail` must not do so again.
            state, generation.state = generation.running_state(), None
            generation.state = self._states.rewind(state, generation.consumed)
            generation.consumed = generation.state.model_state.length
            generation.sampler = self._new_sampler(generation)
            while True:
                left = end - generation.consumed
                count = generation.share(min(left, self._scheduler.token_budget))
                sampled = self.model.step([generation.row(count)])[0]
                length = generation.state.model_state.length
                if count == left or length == generation.consumed:  # the model may leave it for the next step
                    return sampled
                generation.consumed = length
        except MemoryError:
            raise
        except Exception as error:
            self._fail(generation, error)
            return ()

    def _advance(self, generation: Generation, sampled: Sequence[int]) -> None:
        state = generation.running_state()
        length = state.model_state.length
        self._read += max(0, min(length, generation.prompt_length) - generation.consumed)
        generation.consumed = length
        try:
            before = generation.generated
            reason, deltas = generation.append(sampled, self._clock())
            self._generated += generation.generated - before
            if reason is None:
                if generation.pending < 1:
                    raise BackendError("the model sampled no token, and has nothing left to go on with")
                self._states.checkpoint(state, in_partial_stop=generation.detokenizer.in_partial_stop)
        except MemoryError:
            raise
        except Exception as error:
            self._fail(generation, error)
            return
        if reason is not None:
            self._finish(generation, reason, deltas)
        elif sampled:
            self._tell(generation, [*_chunks(deltas, generation.request.show_thinking)] or [None])

    def _finish(self, generation: Generation, reason: FinishReason, deltas: Sequence[TextDelta] = ()) -> None:
        self._remove(generation)
        deltas = [*deltas, *generation.detokenizer.finish()]
        reply = generation.detokenizer.reply(self.model.info.vocabulary)
        if generation.state is not None:
            self._states.keep(generation.state, generation.prompt_length + len(reply.tokens))
        usage = generation.usage(self._clock())
        if generation.started is not None:
            seconds, average = usage.seconds - usage.queued_seconds, self._average_seconds
            self._average_seconds = seconds if average is None else 0.8 * average + 0.2 * seconds
        *chunks, last = _chunks(deltas, generation.request.show_thinking) or [Chunk()]
        self._tell(generation, [*chunks, replace(last, finish=Finish(reason, reply, usage))])

    def _fail(self, generation: Generation, error: Exception) -> None:
        self._remove(generation)
        if generation.state is not None:
            self._states.discard(generation.state)
        self._events.append(_failure(generation.id, error))

    def _remove(self, generation: Generation) -> None:
        del self._generations[generation.id]
        self._scheduler.remove(generation)

    def _tell(self, generation: Generation, chunks: Sequence[Chunk | None]) -> None:
        """An event for each chunk; the ids go with the last, so that none is told before its text."""
        for chunk in chunks[:-1]:
            self._events.append(Event(generation.id, chunk))
        self._events.append(Event(generation.id, chunks[-1], tokens=tuple(generation.unreported)))
        generation.unreported.clear()


def _failure(request_id: str, error: Exception) -> Event:
    if not isinstance(error, ChatbridgeError):
        error = BackendError(f"{type(error).__name__}: {error}")
    return Event(request_id, error=error)


def _chunks(deltas: Sequence[TextDelta], show_thinking: bool) -> list[Chunk]:
    return [Chunk(delta.text, delta.thinking) for delta in deltas if show_thinking or not delta.thinking]
