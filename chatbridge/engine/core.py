"""The engine of one model: requests in, chunks out, one scheduler step at a time. Synchronous and single-threaded.

Knows the `LocalModel` contract; knows no process, no socket and no chat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatbridge.engine.assembly import OPEN, Assembly, Piece
from chatbridge.engine.contract import LocalModel, ModelState, Request, Row
from chatbridge.engine.prefix_cache import PrefixCache, common_prefix
from chatbridge.engine.scheduler import Job, Scheduler
from chatbridge.errors import BackendError, ChatbridgeError, InvalidRequest, PromptTooLong, TemplateError
from chatbridge.prompts.segments import Prompt, Text, encode
from chatbridge.types import Chunk, Finish, FinishReason, Usage

CACHE_BYTES = 1 << 30
"""How much memory kept states may hold, unless told otherwise: 1 GiB."""

CACHE_STATES = 256
"""How many states are kept where the model itself sets no bound."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request. `tokens` are the ids sampled since its last event."""

    request_id: str
    chunk: Chunk | None = None
    error: ChatbridgeError | None = None
    tokens: tuple[int, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class _Answer(Job):
    """A job with everything that belongs to its answer. `fresh` ids have not been told in an event yet."""

    request: Request
    assembly: Assembly
    ends: frozenset[int]
    prompt_length: int
    limit: int
    submitted: float
    started: float = 0.0
    first_token: float = 0.0
    cached: int = 0
    state: ModelState | None = None
    sampler: Any = None
    boundary: tuple[int, ModelState] | None = None
    fresh: list[int] = field(default_factory=list)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length


class Engine:
    """Runs `model` for many requests at once.

    `token_budget`: how many tokens one step reads at most, over all requests (the model's own batch may be less).
    `cache_bytes`: memory for states of finished requests; 0 keeps none. `clock` gives seconds.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        token_budget: int = 512,
        max_batch: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        info = model.info
        rows = min(max_batch or info.max_batch, info.max_batch, info.max_states or info.max_batch)
        self.model = model
        self._clock = clock
        self._scheduler: Scheduler[_Answer] = Scheduler(rows, token_budget)
        self._answers: dict[str, _Answer] = {}
        self._events: list[Event] = []
        self._max_states = info.max_states or rows + CACHE_STATES
        self._cache = PrefixCache(info.can_trim, cache_bytes, self._max_states)
        self._generated = self._read = self._reused = self._steps = 0

    @property
    def idle(self) -> bool:
        """Whether `step` has nothing to do."""
        return not self._answers and not self._events

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The ids of `prompt`. Raises TemplateError."""
        info = self.model.info
        return encode(prompt, self.model.tokenizer, bos=info.bos, eos=info.eos[0] if info.eos else None)

    def submit(self, request: Request) -> None:
        """Take a request in. What is wrong with it comes as an error event of the next step."""
        try:
            answer = self._prepare(request)
        except ChatbridgeError as error:
            self._events.append(Event(request.id, error=error))
            return
        self._answers[request.id] = answer
        self._scheduler.add(answer)

    def cancel(self, request_id: str) -> None:
        """End a request; the next step gives its slot to another and tells what came of it."""
        if (answer := self._answers.get(request_id)) is not None:
            self._events.append(self._finish(answer, "cancelled"))

    def step(self) -> list[Event]:
        """Let every running request catch up by its share of the budget, and tell what came of it."""
        while (answer := self._scheduler.admit()) is not None:
            self._guarded(answer, self._begin)
        shares = [(answer, self._up_to_boundary(answer, count)) for answer, count in self._scheduler.schedule()]
        if shares:
            self._steps += 1
            for (answer, count), tokens in zip(shares, self._run(shares), strict=True):
                if answer.id in self._answers:
                    self._advance(answer, count, tokens)
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
            "kept_states": len(self._cache),
            "kept_bytes": self._cache.nbytes,
            "cache_hits": self._cache.hits,
            "cache_evictions": self._cache.evictions,
        }

    def close(self) -> None:
        """Release every state and the model."""
        for answer in list(self._answers.values()):
            self._finish(answer, "cancelled")
        self._cache.clear()
        self.model.close()

    # --- a request's beginning ---------------------------------------------------------------------------------

    def _prepare(self, request: Request) -> _Answer:
        info = self.model.info
        prompt = self.tokenize(request.prompt)
        if not prompt:
            raise InvalidRequest("the prompt is empty: there is nothing to answer")
        if bad := next((token for token in prompt if not 0 <= token < info.vocab_size), None):
            raise InvalidRequest(f"token {bad} is outside the vocabulary of {info.vocab_size} ids")
        if len(prompt) >= info.context_length:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, and the model {info.name!r} takes {info.context_length} "
                f"with the answer; shorten it, or raise context_length"
            )
        last = request.prompt[-1]
        thinking = isinstance(last, Text) and last.text.rstrip().endswith(OPEN)
        stop = (*request.stop, *request.sampling.stop)
        answer = _Answer(
            id=request.id,
            tokens=[*prompt, *request.resume],
            request=request,
            assembly=Assembly(self.model.tokenizer.decode, stop, thinking=thinking),
            ends=frozenset((*info.eos, *(self._stop_token(token) for token in request.stop_tokens))),
            prompt_length=len(prompt),
            limit=min(len(prompt) + request.sampling.max_tokens, info.context_length),
            submitted=self._clock(),
        )
        for token in request.resume:
            answer.assembly.push(token)
        return answer

    def _stop_token(self, text: str) -> int:
        found = self.model.tokenizer.special(text)
        if found is None:
            raise TemplateError(f"the template ends replies at {text!r}, which this model does not have")
        return found

    def _begin(self, answer: _Answer) -> None:
        """Give an admitted request its sampler and its state, with as much of the prompt in it as is known."""
        answer.started = self._clock()
        if len(answer.tokens) >= answer.limit or answer.assembly.stopped:
            self._events.append(self._finish(answer, "stop" if answer.assembly.stopped else "length"))
            return
        request = answer.request
        answer.sampler = self.model.new_sampler(request.sampling, answer.tokens, len(request.resume))
        running = sum(1 for other in self._answers.values() if other.state is not None)
        self._cache.shrink(max(0, self._max_states - running - 1))
        answer.state, answer.consumed = self._cache.take(answer.tokens)
        self._take_from_running(answer)
        if answer.state is None:
            answer.state = self.model.new_state()
        answer.cached = min(answer.consumed, answer.prompt_length)
        self._reused += answer.consumed

    def _take_from_running(self, answer: _Answer) -> None:
        """Use a running request's state if it shares more than any kept one (a common system text, say)."""
        if not self.model.info.can_trim:
            return
        for other in self._scheduler.running:
            if other is answer or other.state is None:
                continue
            shared = min(common_prefix(other.tokens[: other.consumed], answer.tokens), len(answer.tokens) - 1)
            if shared > answer.consumed:
                if answer.state is not None:
                    answer.state.release()
                answer.state, answer.consumed = other.state.fork(), shared
                answer.state.trim(shared)

    # --- a step ------------------------------------------------------------------------------------------------

    def _run(self, shares: list[tuple[_Answer, int]]) -> Sequence[Sequence[int]]:
        rows = [_row(answer, count) for answer, count in shares]
        try:
            return self.model.step(rows)
        except Exception:
            # One request may have spoilt the step for all: each is tried alone, and only the culprit fails. If
            # none gets through, the model itself is broken, and that is the caller's to know.
            results: list[Sequence[int]] = []
            failed = 0
            for answer, count in shares:
                try:
                    if answer.state is None or answer.state.length != answer.consumed:
                        raise BackendError("the failed step left this conversation's state half-read")
                    results += self.model.step([_row(answer, count)])
                except Exception as error:
                    failed += 1
                    results.append(())
                    self._fail(answer, error)
            if failed == len(shares) > 1:
                raise
            return results

    def _advance(self, answer: _Answer, count: int, sampled: Sequence[int]) -> None:
        answer.consumed += count
        self._read += count
        if not self.model.info.can_trim and answer.consumed == answer.prompt_length - 1:
            self._keep_copy(answer)
        reason: FinishReason | None = None
        pieces: list[Piece] = []
        for token in sampled:
            reason, shown = self._take_token(answer, token)
            pieces += shown
            if reason is not None:
                break
        if len(sampled) > 1:
            self._catch_up(answer)
        if reason is not None:
            self._events.append(self._finish(answer, reason, pieces))
        elif sampled:
            self._mark_boundary(answer)
            chunks = _chunks(pieces, answer.request.show_thinking) or [None]
            for chunk in chunks[:-1]:
                self._events.append(Event(answer.id, chunk))
            self._events.append(Event(answer.id, chunks[-1], tokens=self._told(answer)))

    def _take_token(self, answer: _Answer, token: int) -> tuple[FinishReason | None, list[Piece]]:
        self._generated += 1
        answer.first_token = answer.first_token or self._clock()
        answer.tokens.append(token)
        if token in answer.ends:
            return "end", []
        answer.fresh.append(token)
        pieces = answer.assembly.push(token)
        if answer.assembly.stopped:
            return "stop", pieces
        return ("length" if len(answer.tokens) >= answer.limit else None), pieces

    def _catch_up(self, answer: _Answer) -> None:
        """After several tokens at once, count what the state has really consumed."""
        assert answer.state is not None
        answer.consumed = answer.state.length
        if answer.consumed >= len(answer.tokens):
            answer.consumed = len(answer.tokens) - 1
            if self.model.info.can_trim:
                answer.state.trim(answer.consumed)

    def _finish(self, answer: _Answer, reason: FinishReason, pieces: Sequence[Piece] = ()) -> Event:
        self._forget(answer)
        pieces = [*pieces, *answer.assembly.finish()]
        now = self._clock()
        usage = Usage(
            prompt=answer.prompt_length,
            cached=answer.cached,
            generated=answer.generated,
            queued_seconds=(answer.started or now) - answer.submitted,
            first_token_seconds=(answer.first_token or now) - answer.submitted,
            seconds=now - answer.submitted,
        )
        self._retire_state(answer)
        finish = Finish(reason, answer.assembly.reply(self.model.info.vocabulary), usage)
        chunks = _chunks(pieces, answer.request.show_thinking)
        last = chunks.pop() if chunks else Chunk()
        self._events += [Event(answer.id, chunk) for chunk in chunks]
        return Event(answer.id, Chunk(last.text, last.thinking, finish), tokens=self._told(answer))

    def _fail(self, answer: _Answer, error: Exception) -> None:
        self._forget(answer)
        for state in (answer.state, answer.boundary and answer.boundary[1]):
            if state is not None:
                state.release()
        wrapped = error if isinstance(error, ChatbridgeError) else BackendError(f"{type(error).__name__}: {error}")
        self._events.append(Event(answer.id, error=wrapped))

    def _guarded(self, answer: _Answer, action: Callable[[_Answer], None]) -> None:
        try:
            action(answer)
        except Exception as error:
            self._fail(answer, error)

    def _forget(self, answer: _Answer) -> None:
        del self._answers[answer.id]
        self._scheduler.remove(answer)

    def _told(self, answer: _Answer) -> tuple[int, ...]:
        tokens = tuple(answer.fresh)
        answer.fresh.clear()
        return tokens

    # --- states that can't trim --------------------------------------------------------------------------------
    #
    # They serve only prompts that begin with all they have consumed, so copies are kept where a later request will
    # come back to: before the last token of the prompt (for a regeneration), and before what may be the beginning
    # of a stop string, which is no part of the reply.

    def _up_to_boundary(self, answer: _Answer, count: int) -> int:
        before_last = answer.prompt_length - 1
        if not self.model.info.can_trim and answer.consumed < before_last:
            return min(count, before_last - answer.consumed)
        return count

    def _keep_copy(self, answer: _Answer) -> None:
        assert answer.state is not None
        self._cache.put(answer.tokens[: answer.consumed], answer.state.fork())

    def _mark_boundary(self, answer: _Answer) -> None:
        if self.model.info.can_trim:
            return
        if not answer.assembly.holding:
            if answer.boundary is not None:
                answer.boundary[1].release()
                answer.boundary = None
        elif answer.boundary is None and answer.state is not None:
            answer.boundary = (answer.consumed, answer.state.fork())

    def _retire_state(self, answer: _Answer) -> None:
        """Keep the state of an answer that ended, or of where its reply ended."""
        state, boundary = answer.state, answer.boundary
        if boundary is not None and state is not None:
            if answer.assembly.stopped:
                state.release()
                state, answer.consumed = boundary[1], boundary[0]
            else:
                boundary[1].release()
        answer.state = answer.boundary = None
        if state is not None:
            self._cache.put(answer.tokens[: answer.consumed], state)


def _row(answer: _Answer, count: int) -> Row:
    assert answer.state is not None
    end = answer.consumed + count
    wanted = end == len(answer.tokens)
    return Row(answer.state, answer.tokens[answer.consumed : end], answer.sampler if wanted else None)


def _chunks(pieces: Sequence[Piece], show_thinking: bool) -> list[Chunk]:
    return [Chunk(piece.text, piece.thinking) for piece in pieces if show_thinking or not piece.thinking]
