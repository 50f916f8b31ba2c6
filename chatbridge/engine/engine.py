"""The engine of one model: requests in, chunks out, one scheduler step at a time. Synchronous and single-threaded.

Knows the `LocalModel` contract; knows no process, no socket and no chat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.engine.backend import LocalModel, Request
from chatbridge.engine.detokenizer import Piece
from chatbridge.engine.job import Generation, prepare, prompt_ids
from chatbridge.engine.prefill import Pace
from chatbridge.engine.scheduler import Scheduler
from chatbridge.engine.states import States
from chatbridge.errors import BackendError, ChatbridgeError
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, Finish, FinishReason, Waiting

CACHE_BYTES = 1 << 30
"""How much memory kept states may hold, unless told otherwise: 1 GiB."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request. `tokens` are the ids sampled since its last event."""

    request_id: str
    chunk: Chunk | None = None
    error: ChatbridgeError | None = None
    tokens: tuple[int, ...] = ()


class Engine:
    """Runs `model` for many requests at once.

    `token_budget`: how many tokens one step reads at most, over all requests (the model's own batch may be less).
    `cache_bytes`: memory for states of finished requests; 0 keeps none. `pace`: how long reading may hold up those who
    are being answered. `clock` gives seconds.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        token_budget: int = 512,
        max_batch: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        info = model.info
        rows = min(max_batch or info.max_batch, info.max_batch, info.max_states or info.max_batch)
        self.model = model
        self._clock = clock
        self._pace = pace or Pace()
        self._scheduler: Scheduler[Generation] = Scheduler(rows, token_budget)
        self._answers: dict[str, Generation] = {}
        self._events: list[Event] = []
        self._places: dict[str, int] = {}
        self._usual: float | None = None
        self._states = States(model, rows, cache_bytes, getattr(model, "disk_cache", None))
        # `_places`: what waiting requests were told of their place. `_usual`: seconds that an answer takes lately.
        # Counts of tokens (read and reused ones of prompts) and of steps.
        self._generated = self._read = self._reused = self._steps = 0

    @property
    def idle(self) -> bool:
        """Whether `step` has nothing to do."""
        return not self._answers and not self._events

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The ids of `prompt`. Raises TemplateError."""
        return prompt_ids(prompt, self.model)

    def submit(self, request: Request) -> None:
        """Take a request in. What is wrong with it comes as an error event of the next step.

        Raises: ValueError if a request of the same id is under way.
        """
        if request.id in self._answers:
            raise ValueError(f"a request {request.id!r} is under way already")
        try:
            answer = prepare(request, self.model, self._clock())
        except Exception as error:
            self._events.append(_failure(request.id, error))
            return
        self._answers[request.id] = answer
        self._scheduler.add(answer)

    def cancel(self, request_id: str) -> None:
        """End a request; the next step gives its slot to another and tells what came of it."""
        if (answer := self._answers.get(request_id)) is not None:
            self._finish(answer, "cancelled")

    def step(self) -> list[Event]:
        """Let every running request catch up by its share of the budget, and tell what came of it.

        A request that makes the model raise fails alone. Raises: what the model raises, if it is broken for good.
        """
        while (answer := self._scheduler.admit()) is not None:
            try:
                self._begin(answer)
            except Exception as error:
                self._fail(answer, error)
        self._tell_places()
        if shares := self._shares():
            self._steps += 1
            with self._pace.reading(sum(count - 1 for _, count in shares)):
                results = self._run(shares)
            for (answer, _), sampled in zip(shares, results, strict=True):
                if answer.id in self._answers:
                    self._advance(answer, sampled)
        events, self._events = self._events, []
        return events

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and what is going on now."""
        return {
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "positions": {answer.id: self._scheduler.position(answer) for answer in self._scheduler.waiting},
            "steps": self._steps,
            "tokens_generated": self._generated,
            "tokens_read": self._read,
            "tokens_reused": self._reused,
            "kept_states": len(self._states.cache),
            "kept_bytes": self._states.cache.nbytes,
            "cache_hits": self._states.cache.hits,
            "cache_evictions": self._states.cache.evictions,
        }

    def close(self) -> None:
        """Release every state and the model; requests under way are dropped."""
        for answer in list(self._answers.values()):
            self._finish(answer, "cancelled")
        self._events.clear()
        self._states.close()
        self.model.close()

    def _tell_places(self) -> None:
        """Tell each waiting request how many are before it, when that has changed."""
        places = {answer.id: place for place, answer in enumerate(self._scheduler.waiting, start=1)}
        for id, place in places.items():
            if self._places.get(id) != place:
                # With all rows taken, one becomes free as often as answers end.
                seconds = None if self._usual is None else place * self._usual / self._scheduler.max_batch
                self._events.append(Event(id, Chunk(waiting=Waiting(place, seconds))))
        self._places = places

    def _shares(self) -> list[tuple[Generation, int]]:
        """What each running request consumes in the next step."""
        answering = any(answer.first_token is not None for answer in self._scheduler.running)
        scheduled = self._scheduler.schedule(self._pace.most() if answering else None)
        return [(answer, answer.held().up_to_copy(count)) for answer, count in scheduled]

    def _begin(self, answer: Generation) -> None:
        """Give an admitted request its sampler and its state, with as much of the prompt in it as is known."""
        answer.started = self._clock()
        if answer.ended:
            self._finish(answer, answer.ended)
        else:
            answer.sampler = self._new_sampler(answer)
            answer.memory = self._states.take(answer.tokens, answer.prompt_length, answer.request.adapter)
            answer.consumed = answer.memory.state.length
            answer.cached = min(answer.consumed, answer.prompt_length)
            self._reused += answer.cached

    def _new_sampler(self, answer: Generation) -> Any:
        return self.model.new_sampler(answer.request.sampling, answer.tokens, answer.generated)

    def _run(self, shares: list[tuple[Generation, int]]) -> Sequence[Sequence[int]]:
        try:
            return self.model.step([answer.row(count) for answer, count in shares])
        except Exception:
            # One request may have spoilt the step for all: each is tried alone, and only the culprit fails.
            results = [self._run_alone(answer, count) for answer, count in shares]
            if not self._scheduler.running:
                self._states.check_model()
            return results

    def _run_alone(self, answer: Generation, count: int) -> Sequence[int]:
        """Repeat a failed step for one request, from where it stood before."""
        try:
            end = answer.consumed + count
            memory, answer.memory = answer.held(), None
            answer.memory = self._states.rewind(memory, answer.consumed)
            answer.consumed = answer.memory.state.length
            answer.sampler = self._new_sampler(answer)
            while (left := end - answer.consumed) > self._scheduler.token_budget:
                self.model.step([answer.row(self._scheduler.token_budget)])
                answer.consumed += self._scheduler.token_budget
            return self.model.step([answer.row(left)])[0]
        except Exception as error:
            self._fail(answer, error)
            return ()

    def _advance(self, answer: Generation, sampled: Sequence[int]) -> None:
        memory = answer.held()
        self._read += max(0, min(memory.state.length, answer.prompt_length) - answer.consumed)
        answer.consumed = memory.state.length
        try:
            before = answer.generated
            reason, pieces = answer.take(sampled, self._clock())
            self._generated += answer.generated - before
            if reason is None:
                if answer.pending < 1:
                    raise BackendError("the model sampled no token, and has nothing left to go on with")
                self._states.mark(memory, holding=answer.assembly.holding)
        except Exception as error:
            self._fail(answer, error)
            return
        if reason is not None:
            self._finish(answer, reason, pieces)
        elif sampled:
            self._tell(answer, [*_chunks(pieces, answer.request.show_thinking)] or [None])

    def _finish(self, answer: Generation, reason: FinishReason, pieces: Sequence[Piece] = ()) -> None:
        self._forget(answer)
        pieces = [*pieces, *answer.assembly.finish()]
        reply = answer.assembly.reply(self.model.info.vocabulary)
        if answer.memory is not None:
            self._states.keep(answer.memory, answer.prompt_length + len(reply.tokens))
        usage = answer.usage(self._clock())
        if answer.started is not None:
            took = usage.seconds - usage.queued_seconds
            self._usual = took if self._usual is None else 0.8 * self._usual + 0.2 * took
        *chunks, last = _chunks(pieces, answer.request.show_thinking) or [Chunk()]
        self._tell(answer, [*chunks, replace(last, finish=Finish(reason, reply, usage))])

    def _fail(self, answer: Generation, error: Exception) -> None:
        self._forget(answer)
        if answer.memory is not None:
            self._states.drop(answer.memory)
        self._events.append(_failure(answer.id, error))

    def _forget(self, answer: Generation) -> None:
        del self._answers[answer.id]
        self._scheduler.remove(answer)

    def _tell(self, answer: Generation, chunks: Sequence[Chunk | None]) -> None:
        """An event for each chunk; the ids go with the last, so that none is told before its text."""
        for chunk in chunks[:-1]:
            self._events.append(Event(answer.id, chunk))
        self._events.append(Event(answer.id, chunks[-1], tokens=tuple(answer.fresh)))
        answer.fresh.clear()


def _failure(request_id: str, error: Exception) -> Event:
    if not isinstance(error, ChatbridgeError):
        error = BackendError(f"{type(error).__name__}: {error}")
    return Event(request_id, error=error)


def _chunks(pieces: Sequence[Piece], show_thinking: bool) -> list[Chunk]:
    return [Chunk(piece.text, piece.thinking) for piece in pieces if show_thinking or not piece.thinking]
