"""One answer on its way through the engine: what was asked, what came of it so far, and what it cost.

Knows the request and the text; knows nothing of other requests, and of states only that it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from chatbridge.engine.answer_splitter import TextDelta
from chatbridge.engine.backend import LocalModel, Request, Row
from chatbridge.engine.detokenizer import StreamingDetokenizer, opens_thinking
from chatbridge.engine.prefix_cache import common_prefix
from chatbridge.engine.scheduler import TokenSequence
from chatbridge.engine.state_pool import RequestState
from chatbridge.errors import InvalidRequest, PromptTooLong, TemplateError
from chatbridge.prompts.segments import Prompt, Text, Tokenizer, Tokens, encode
from chatbridge.sampling import forging_biases
from chatbridge.types import FinishReason, ModelInfo, Usage


@dataclass(slots=True, eq=False, kw_only=True)
class Generation(TokenSequence):
    """The sequence of a request, with all that belongs to its answer.

    `end_tokens`: ids that end it; `closing_tokens`: those that only end a thought while there is one. `max_length`:
    tokens that prompt and answer may have together. `unreported`: sampled ids that no event has told yet. `state` and
    `sampler` are there while the request runs. `submitted`, `started` and `first_token` are seconds of the engine's
    clock. `cached`: tokens of the prompt that a state had read before; `settled`: those that any later prompt has, too,
    where states can't be trimmed to them, else 0.
    """

    request: Request
    detokenizer: StreamingDetokenizer
    end_tokens: frozenset[int]
    prompt_length: int
    max_length: int
    submitted: float
    started: float | None = None
    first_token: float | None = None
    closing_tokens: frozenset[int] = frozenset()
    cached: int = 0
    settled: int = 0
    state: RequestState | None = None
    sampler: Any = None
    unreported: list[int] = field(default_factory=list)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def exhausted(self) -> FinishReason | None:
        """Why nothing more may be sampled, if so; an end token is not seen here."""
        if self.detokenizer.stopped:
            return "stop"
        return "length" if len(self.tokens) >= self.max_length else None

    def running_state(self) -> RequestState:
        """The state of a request that runs."""
        assert self.state is not None, "a request runs that was never started"
        return self.state

    def row(self, count: int) -> Row:
        """The next `count` tokens for the model; with a sampler where a token is wanted after them."""
        end = self.consumed + count
        wanted = end == len(self.tokens)
        state = self.running_state().model_state
        return Row(state, self.tokens[self.consumed : end], self.sampler if wanted else None)

    def append(self, sampled: Sequence[int], now: float) -> tuple[FinishReason | None, list[TextDelta]]:
        """Add what was sampled, up to the end of the answer; return why it ended, if it did, and what to show."""
        if sampled and self.first_token is None:
            self.first_token = now
        deltas: list[TextDelta] = []
        for token in sampled:
            self.tokens.append(token)
            if token in self.end_tokens and not (token in self.closing_tokens and self.detokenizer.thinking):
                return "end", deltas
            deltas += self.detokenizer.push(token)
            self.unreported.append(token)
            if self.exhausted:
                break
        return self.exhausted, deltas

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
    """The ids of `prompt`. Raises TemplateError, and InvalidRequest for a control token that is no `Special`.

    Prompts that chatbridge renders have none: this is the last door.
    """
    info = model.info
    kept = [segment.ids for segment in prompt if isinstance(segment, Tokens)]
    if kept and (found := info.control_ids.intersection(chain.from_iterable(kept))):
        raise InvalidRequest(f"an answer's ids hold the control token {min(found)}, which only a template may write")
    eos = info.eos[0] if info.eos else None
    return encode(prompt, model.tokenizer, bos=info.bos, eos=eos, lstrip=info.lstrip, rstrip=info.rstrip)


def settled(prompt: Prompt, tokens: Sequence[int], tokenizer: Tokenizer, info: ModelInfo) -> int:
    """How many of a prompt's `tokens` any later one of the conversation begins with, however its answer is written.

    Those up to the end of what a person has said last: what follows may be the generation prompt's alone.
    """
    last = max((at for at, part in enumerate(prompt) if isinstance(part, Text) and part.origin == "person"), default=-1)
    if last < 0:
        return 0
    begun = encode(prompt[: last + 1], tokenizer, bos=info.bos, eos=info.eos[0] if info.eos else None)
    return common_prefix(begun, tokens)  # the last characters may become other tokens together with what follows


def prepare(request: Request, model: LocalModel, now: float, prompt: Sequence[int]) -> Generation:
    """The answer to `request` as it is before its first step; `prompt`: the ids of its prompt.

    Raises: InvalidRequest, PromptTooLong, TemplateError.
    """
    info, tokenizer = model.info, model.tokenizer
    if request.adapter and request.adapter not in info.adapters:
        known = f"it has {', '.join(info.adapters)}" if info.adapters else "it has none"
        raise InvalidRequest(f"the model {info.name!r} has no adapter {request.adapter!r}; {known}")
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
    whole = _whole(prompt, info)
    end_tokens = frozenset((*info.eos, *(_stop_token(token, tokenizer) for token in request.stop_tokens)))
    if forging := forging_biases(request.sampling.logit_bias, info.control_ids - end_tokens):
        raise InvalidRequest(
            f"logit_bias makes the control token {forging[0]} likelier, with which an answer could pass for somebody "
            "else's turn; only tokens that end answers may be made likelier, and any less likely"
        )
    stop = (*request.stop, *request.sampling.stop)
    answer = request.answer
    opened = opens_thinking(request.prompt, tokenizer.decode, answer)
    if opened is not None:  # first, and so the one that is known to be open
        answer = replace(answer, thinking=(opened, *(marks for marks in answer.thinking if marks != opened)))
    marks = {id: name for name in answer.controls(info.specials) if (id := tokenizer.special(name)) is not None}
    closings = {marks.closing for marks in answer.thinking}
    generation = Generation(
        id=request.id,
        tokens=[*prompt, *request.resume],
        whole=whole,
        request=request,
        detokenizer=StreamingDetokenizer(
            tokenizer.decode,
            stop,
            thinking=True if opened is not None else None if answer.unsure else False,
            answer=answer,
            marks=marks,
            speakers=request.speakers,
        ),
        end_tokens=end_tokens,
        closing_tokens=frozenset(id for id, name in marks.items() if name in closings),
        prompt_length=len(prompt),
        max_length=min(len(prompt) + request.sampling.max_tokens, info.context_length),
        submitted=now,
        settled=0 if info.can_trim else settled(request.prompt, prompt, tokenizer, info),
    )
    for token in request.resume:
        generation.detokenizer.push(token)
    return generation


def _whole(prompt: Sequence[int], info: ModelInfo) -> int:
    """How many of the first tokens have to be read together. Raises TemplateError."""
    until = info.bidirectional_until
    if until is None:
        return 0
    if until not in prompt:
        name = next((name for name, id in info.specials.items() if id == until), str(until))
        raise TemplateError(
            f"the prompt has no {name!r}, and the model {info.name!r} answers only behind it: the template doesn't fit"
        )
    return prompt.index(until) + 1


def _stop_token(text: str, tokenizer: Tokenizer) -> int:
    token = tokenizer.special(text)
    if token is None:
        raise TemplateError(f"the template ends replies at {text!r}, which this model does not have")
    return token
