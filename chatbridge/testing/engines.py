"""Runs requests through the engine without a worker, for tests. Knows any `LocalModel`; compares nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from chatbridge.engine.backend import LocalModel, Request
from chatbridge.engine.engine import Engine
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens
from chatbridge.sampling import Sampling
from chatbridge.types import Finish, ModelInfo


class KeptOpen:
    """A model whose `close` does nothing, so that several engines may use it one after another."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def close(self) -> None:
        """The model's owner closes it."""


def engine_on(model: LocalModel, **options: Any) -> Engine:
    """An engine that leaves the model open when it is closed. `options`: those of `Engine`."""
    return Engine(KeptOpen(model), **options)


def finish_all(engine: Engine, requests: Iterable[Request] = ()) -> dict[str, Finish]:
    """How each request ended, by id, once nothing is left to do. A request that fails raises its error."""
    for request in requests:
        engine.submit(request)
    ended: dict[str, Finish] = {}
    while not engine.idle:
        ended |= finish_step(engine)
    return ended


def finish_step(engine: Engine) -> dict[str, Finish]:
    """One step, and the requests that ended in it."""
    ended: dict[str, Finish] = {}
    for event in engine.step():
        if event.error is not None:
            raise event.error
        if event.chunk is not None and event.chunk.finish is not None:
            ended[event.request_id] = event.chunk.finish
    return ended


def greedy_request(
    ids: Sequence[int], *, max_tokens: int, name: str, bos: int | None = None, **sampling: Any
) -> Request:
    """A request for the likeliest ids after these. `bos`: the model's, which an engine takes from templates alone."""
    begins = bos is not None and list(ids[:1]) == [bos]
    prompt: Prompt = (Special("bos"), Tokens(tuple(ids[1:]))) if begins else (Tokens(tuple(ids)),)
    options = Sampling.model_validate({"temperature": 0, "max_tokens": max_tokens, **sampling})
    return Request(prompt, id=name, sampling=options)


def greedy_ids(
    model: LocalModel, prompts: Sequence[Sequence[int]], *, max_tokens: int, **sampling: Any
) -> list[list[int]]:
    """The likeliest ids after each prompt, all prompts together."""
    given = {"max_tokens": max_tokens, "bos": model.info.added_bos, **sampling}
    asked = [greedy_request(ids, name=str(i), **given) for i, ids in enumerate(prompts)]
    ended = finish_all(Engine(model), asked)
    return [list(ended[request.id].reply.tokens) for request in asked]


def prompt_ending(info: ModelInfo) -> Prompt:
    """What every prompt for this model has to end with, whatever is in it: often nothing."""
    until = info.bidirectional_until
    return tuple(Special(name) for name, token in info.specials.items() if token == until)[:1]


def conversations(count: int, seed: int, ending: Prompt = ()) -> list[Prompt]:
    """Prompts of random letters, the same for the same seed; some begin alike. `ending`: see `prompt_ending`."""
    rng = random.Random(seed)
    beginning = "".join(rng.choices("abcdefgh ", k=40))
    prompts: list[Prompt] = []
    for _ in range(count):
        own = "".join(rng.choices("The quick brown foxes,ütz 你好\n", k=rng.randrange(1, 90)))
        prompts.append((Special("bos"), Text(rng.choice(["", beginning]) + own), *ending))
    return prompts


def requests_for(prompts: Sequence[Prompt], max_tokens: int) -> list[Request]:
    """A greedy request for each prompt; its id is its number."""
    sampling = Sampling(temperature=0, max_tokens=max_tokens)
    return [Request(prompt, id=str(i), sampling=sampling) for i, prompt in enumerate(prompts)]


def arriving_requests(count: int = 16, seed: int = 4, ending: Prompt = ()) -> list[Request]:
    """Requests of many lengths. `ending`: see `prompt_ending`."""
    rng = random.Random(seed)
    asked = requests_for(conversations(count, seed, ending), 40)
    lengths = [Sampling(temperature=0, max_tokens=rng.randrange(4, 40)) for _ in asked]
    return [Request(r.prompt, id=r.id, sampling=length) for r, length in zip(asked, lengths, strict=True)]


def arrive_and_leave(engine: Engine, requests: Sequence[Request]) -> dict[str, Finish]:
    """Ask while others are being answered; every third one breaks off and asks again. How each ended, by id."""
    ended: dict[str, Finish] = {}
    for i, request in enumerate(requests):
        engine.submit(request)
        ended |= finish_step(engine)
        if i % 3 == 2 and request.id not in ended:
            engine.cancel(request.id)
            came = finish_step(engine)
            assert came.pop(request.id).reason == "cancelled"
            ended |= came
            engine.submit(request)
    return ended | finish_all(engine)
