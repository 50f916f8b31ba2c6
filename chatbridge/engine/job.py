"""One answer on its way through the engine: what was asked, what came of it so far, and what it cost.

Knows the request and the text; knows nothing of other requests, and of states only that it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chatbridge.engine.backend import LocalModel, Request, Row
from chatbridge.engine.detokenizer import Assembly, Piece, opens_thinking
from chatbridge.engine.scheduler import Job
from chatbridge.engine.states import Memory
from chatbridge.errors import InvalidRequest, PromptTooLong, TemplateError
from chatbridge.prompts.segments import Prompt, Tokenizer, encode
from chatbridge.types import FinishReason, Usage


@dataclass(slots=True, eq=False, kw_only=True)
class Generation(Job):
    """A job with everything that belongs to its answer.

    `ends`: ids that end it. `limit`: how many tokens there may be at most, with the prompt. `fresh`: ids that no event
    has told yet. `memory` is there while the request runs. Times are the engine's clock.
    """

    request: Request
    assembly: Assembly
    ends: frozenset[int]
    prompt_length: int
    limit: int
    submitted: float
    started: float | None = None
    first_token: float | None = None
    cached: int = 0
    memory: Memory | None = None
    sampler: Any = None
    fresh: list[int] = field(default_factory=list)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def ended(self) -> FinishReason | None:
        """Why nothing more may be sampled, but for an end token."""
        if self.assembly.stopped:
            return "stop"
        return "length" if len(self.tokens) >= self.limit else None

    def held(self) -> Memory:
        """The memory of a request that runs."""
        assert self.memory is not None, "a request runs that was never begun"
        return self.memory

    def row(self, count: int) -> Row:
        """The next `count` tokens for the model; with a sampler where a token is wanted after them."""
        end = self.consumed + count
        wanted = end == len(self.tokens)
        return Row(self.held().state, self.tokens[self.consumed : end], self.sampler if wanted else None)

    def take(self, sampled: Sequence[int], now: float) -> tuple[FinishReason | None, list[Piece]]:
        """Add what was sampled, up to the end of the answer; return why it ended, if it did, and what to show."""
        if sampled and self.first_token is None:
            self.first_token = now
        pieces: list[Piece] = []
        for token in sampled:
            self.tokens.append(token)
            if token in self.ends:
                return "end", pieces
            pieces += self.assembly.push(token)
            self.fresh.append(token)
            if self.ended:
                break
        return self.ended, pieces

    def usage(self, now: float) -> Usage:
        """What it cost, if it ends now."""
        return Usage(
            prompt=self.prompt_length,
            cached=self.cached,
            generated=self.generated,
            queued_seconds=(now if self.started is None else self.started) - self.submitted,
            first_token_seconds=(now if self.first_token is None else self.first_token) - self.submitted,
            seconds=now - self.submitted,
        )


def prompt_ids(prompt: Prompt, model: LocalModel) -> list[int]:
    """The ids of `prompt`. Raises TemplateError."""
    info = model.info
    return encode(prompt, model.tokenizer, bos=info.bos, eos=info.eos[0] if info.eos else None)


def prepare(request: Request, model: LocalModel, now: float) -> Generation:
    """The beginning of an answer. Raises InvalidRequest, PromptTooLong or TemplateError."""
    info, tokenizer = model.info, model.tokenizer
    if request.adapter and request.adapter not in info.adapters:
        known = f"it has {', '.join(info.adapters)}" if info.adapters else "it has none"
        raise InvalidRequest(f"the model {info.name!r} has no adapter {request.adapter!r}; {known}")
    prompt = prompt_ids(request.prompt, model)
    if not prompt:
        raise InvalidRequest("the prompt is empty: there is nothing to answer")
    for token in (*prompt, *request.resume, *request.sampling.logit_bias):
        if not 0 <= token < info.vocab_size:
            raise InvalidRequest(f"token {token} is outside the vocabulary of {info.vocab_size} ids")
    if len(prompt) >= info.context_length:
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens, and the model {info.name!r} takes {info.context_length} "
            f"with the answer; shorten it, or raise context_length"
        )
    stop = (*request.stop, *request.sampling.stop)
    thinking = opens_thinking(request.prompt, tokenizer.decode)
    answer = Generation(
        id=request.id,
        tokens=[*prompt, *request.resume],
        request=request,
        assembly=Assembly(tokenizer.decode, stop, thinking=thinking),
        ends=frozenset((*info.eos, *(_stop_token(token, tokenizer) for token in request.stop_tokens))),
        prompt_length=len(prompt),
        limit=min(len(prompt) + request.sampling.max_tokens, info.context_length),
        submitted=now,
    )
    for token in request.resume:
        answer.assembly.push(token)
    return answer


def _stop_token(text: str, tokenizer: Tokenizer) -> int:
    found = tokenizer.special(text)
    if found is None:
        raise TemplateError(f"the template ends replies at {text!r}, which this model does not have")
    return found
