"""Runs requests through chatbridge's engine without a worker process, so that answers can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chatbridge import Finish, LocalModel, Request, Sampling, Tokens
from chatbridge.engine.engine import Engine


def finish_all(engine: Engine, requests: Iterable[Request] = ()) -> dict[str, Finish]:
    """How each request ended, by id, once nothing is left to do."""
    for request in requests:
        engine.submit(request)
    ended: dict[str, Finish] = {}
    while not engine.idle:
        ended |= step(engine)
    return ended


def step(engine: Engine) -> dict[str, Finish]:
    """One step, and the requests that ended in it."""
    ended: dict[str, Finish] = {}
    for event in engine.step():
        assert event.error is None, event.error
        if event.chunk is not None and event.chunk.finish is not None:
            ended[event.request_id] = event.chunk.finish
    return ended


def request(ids: Sequence[int], *, max_tokens: int, name: str) -> Request:
    return Request((Tokens(tuple(ids)),), id=name, sampling=Sampling(temperature=0, max_tokens=max_tokens))


def greedy(model: LocalModel, prompts: Sequence[Sequence[int]], *, max_tokens: int) -> list[list[int]]:
    """The likeliest ids after each prompt, all prompts together."""
    names = [str(i) for i in range(len(prompts))]
    asked = [request(ids, max_tokens=max_tokens, name=name) for ids, name in zip(prompts, names, strict=True)]
    ended = finish_all(Engine(model), asked)
    return [list(ended[name].reply.tokens) for name in names]
