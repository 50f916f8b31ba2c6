"""Drives an engine over a toy model to the end of its requests, and holds it to the order of events meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatbridge.engine.backend import Request
from chatbridge.engine.engine import Engine, Event
from chatbridge.errors import ChatbridgeError
from chatbridge.prompts.segments import Segment, Special, Text, Tokens
from chatbridge.sampling import Sampling
from chatbridge.testing.toy import ToyModel
from chatbridge.types import Chunk, Finish, Waiting

GREEDY: Mapping[str, Any] = {"temperature": 0}
SEEDED: Mapping[str, Any] = {"temperature": 1.5, "seed": 4, "top_p": 1, "min_p": 0}


@dataclass
class Output:
    """All that was told of one request."""

    text: str = ""
    thoughts: str = ""
    tokens: list[int] = field(default_factory=list)
    chunks: int = 0
    places: list[Waiting] = field(default_factory=list)
    finish: Finish | None = None
    error: ChatbridgeError | None = None

    @property
    def over(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def end(self) -> Finish:
        assert self.error is None, f"the request failed: {self.error}"
        assert self.finish is not None, "the request is under way still"
        return self.finish

    @property
    def cached(self) -> int:
        return self.end.usage.cached


class Outputs(dict[str, Output]):
    """The answers of an engine by their requests' ids."""

    def __missing__(self, key: str) -> Output:
        self[key] = Output()
        return self[key]

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            answer = self[event.request_id]
            assert not answer.over, "something came after the end"
            answer.tokens += event.tokens
            answer.error = event.error
            if event.chunk is not None and event.chunk.waiting is not None:
                assert not answer.chunks, "it waits after it has begun"
                assert event.chunk == Chunk(waiting=event.chunk.waiting)
                answer.places.append(event.chunk.waiting)
            elif event.chunk is not None:
                assert event.chunk.text or event.chunk.finish, "an empty chunk"
                answer.chunks += 1
                answer.finish = event.chunk.finish
                if event.chunk.thinking:
                    answer.thoughts += event.chunk.text
                else:
                    answer.text += event.chunk.text


def ask(*prompt: str | Segment, id: str = "r", sampling: Mapping[str, Any] = GREEDY, **rest: Any) -> Request:
    """A request whose prompt begins with BOS; strings are a person's text."""
    segments = [Text(part, "person") if isinstance(part, str) else part for part in prompt]
    return Request((Special("bos"), *segments), id=id, sampling=Sampling.model_validate(sampling), **rest)


def turn_after(request: Request, answer: Output, text: str) -> Request:
    """The request for the next turn of a conversation."""
    reply = answer.end.reply
    prompt = (*request.prompt, Tokens(reply.tokens), Text(reply.tail + "\n"), Text(text, "person"))
    return Request(prompt, sampling=request.sampling, stop=request.stop)


def drain(engine: Engine, outputs: Outputs | None = None) -> Outputs:
    """Step until nothing is left to do."""
    outputs = Outputs() if outputs is None else outputs
    for _ in range(100_000):
        if engine.idle:
            return outputs
        outputs.add(engine.step())
    raise AssertionError("the engine comes to no end")


def play(engine: Engine, *requests: Request) -> Outputs:
    for request in requests:
        engine.submit(request)
    return drain(engine)


def answer_to(engine: Engine, request: Request) -> Output:
    return play(engine, request)[request.id]


def alone(request: Request, **toy: Any) -> Output:
    """The answer of an engine that does nothing else and keeps nothing."""
    engine = Engine(ToyModel(**toy), cache_bytes=0)
    answer = answer_to(engine, request)
    engine.close()
    return answer
