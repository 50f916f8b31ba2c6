"""Runs requests through the engine without a worker, and holds a model to what the engine promises for it.

Many conversations arrive and leave while others are being answered, and each gets the text that it gets alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from chatbridge.engine.backend import LocalModel, Request
from chatbridge.engine.engine import Engine
from chatbridge.errors import InvalidRequest, PromptTooLong
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens
from chatbridge.sampling import Sampling
from chatbridge.types import Finish

_ALONE = pytest.StashKey[dict[str, dict[str, Finish]]]()


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


def greedy_request(ids: Sequence[int], *, max_tokens: int, name: str, **sampling: Any) -> Request:
    """A request for the likeliest ids after these."""
    options = Sampling.model_validate({"temperature": 0, "max_tokens": max_tokens, **sampling})
    return Request((Tokens(tuple(ids)),), id=name, sampling=options)


def greedy_ids(
    model: LocalModel, prompts: Sequence[Sequence[int]], *, max_tokens: int, **sampling: Any
) -> list[list[int]]:
    """The likeliest ids after each prompt, all prompts together."""
    asked = [greedy_request(ids, max_tokens=max_tokens, name=str(i), **sampling) for i, ids in enumerate(prompts)]
    ended = finish_all(Engine(model), asked)
    return [list(ended[request.id].reply.tokens) for request in asked]


def conversations(count: int, seed: int) -> list[Prompt]:
    """Prompts of random letters, the same for the same seed; some begin alike."""
    rng = random.Random(seed)
    beginning = "".join(rng.choices("abcdefgh ", k=40))
    prompts: list[Prompt] = []
    for _ in range(count):
        own = "".join(rng.choices("The quick brown foxes,ütz 你好\n", k=rng.randrange(1, 90)))
        prompts.append((Special("bos"), Text(rng.choice(["", beginning]) + own)))
    return prompts


def requests_for(prompts: Sequence[Prompt], max_tokens: int) -> list[Request]:
    """A greedy request for each prompt; its id is its number."""
    sampling = Sampling(temperature=0, max_tokens=max_tokens)
    return [Request(prompt, id=str(i), sampling=sampling) for i, prompt in enumerate(prompts)]


def arriving_requests(count: int = 16, seed: int = 4) -> list[Request]:
    """Requests of many lengths."""
    rng = random.Random(seed)
    asked = requests_for(conversations(count, seed), 40)
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


class EngineContract:
    """Subclass it and define the fixture `model`, which gives all tests one `LocalModel` that another fixture closes.

    No test leaves a state behind. Rounding must not depend on which rows are computed
    together, or greedy texts differ: where that can be chosen, choose float32. A model that can't honour one of these
    may override that test with `pytest.mark.xfail(reason=...)` only.
    """

    @pytest.fixture
    def model(self) -> LocalModel:
        raise NotImplementedError("define a fixture `model` that yields your LocalModel")

    @pytest.fixture
    def alone(self, model: LocalModel, request: pytest.FixtureRequest) -> dict[str, Finish]:
        """What each of the requests gets by itself, with nothing kept; computed once for each model."""
        known = request.config.stash.setdefault(_ALONE, {})
        if model.info.fingerprint not in known:
            asked = arriving_requests()
            known[model.info.fingerprint] = {
                r.id: finish_all(engine_on(model, cache_bytes=0), [r])[r.id] for r in asked
            }
        return known[model.info.fingerprint]

    def test_the_answers_differ(self, alone: dict[str, Finish]) -> None:
        """Fails where the model says the same whatever it is asked: then the other tests here say nothing."""
        assert len({finish.reply.text for finish in alone.values()}) > len(alone) // 2

    @pytest.mark.parametrize("token_budget", [24, 512])
    @pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
    def test_many_arrive_and_leave_and_each_gets_its_own_text(
        self, model: LocalModel, alone: dict[str, Finish], token_budget: int, cache_bytes: int
    ) -> None:
        """Fails where conversations in one batch see one another, or a kept state is not what it is taken for."""
        engine = engine_on(model, token_budget=token_budget, cache_bytes=cache_bytes)
        ended = arrive_and_leave(engine, arriving_requests())
        assert {name: f.reply for name, f in ended.items()} == {name: f.reply for name, f in alone.items()}
        assert engine.stats()["steps"] < sum(f.usage.generated for f in alone.values())
        engine.close()

    def test_a_long_conversation_is_the_same_with_and_without_kept_states(self, model: LocalModel) -> None:
        """Fails where a kept state is not the one that reading everything again would give, or is not used."""

        def talk(cache_bytes: int) -> list[Finish]:
            engine = engine_on(model, cache_bytes=cache_bytes)
            prompt: Prompt = (Special("bos"),)
            said: list[Finish] = []
            for i in range(8):
                prompt = (*prompt, Text(f"turn {i}: how are you?\n"))
                said.append(finish_all(engine, requests_for([prompt], 12))["0"])
                prompt = (*prompt, Tokens(said[-1].reply.tokens), Text("\n"))
            engine.close()
            return said

        kept, fresh = talk(1 << 26), talk(0)
        assert [finish.reply for finish in kept] == [finish.reply for finish in fresh]
        assert all(finish.usage.cached == 0 for finish in fresh)
        for before, after in pairwise(kept):  # only the newest turn is read
            assert after.usage.cached >= before.usage.prompt

    def test_regenerating_gives_the_same_answer(self, model: LocalModel) -> None:
        """Fails where a state that was trimmed or forked goes on otherwise than a fresh one."""
        engine = engine_on(model)
        first = finish_all(engine, requests_for(conversations(1, seed=2), 30))["0"]
        again = finish_all(engine, requests_for(conversations(1, seed=2), 30))["0"]
        assert again.reply == first.reply
        if model.info.can_trim:
            assert again.usage.cached == first.usage.prompt - 1
        engine.close()

    def test_a_seed_repeats_an_answer_in_any_company(self, model: LocalModel) -> None:
        """Fails where a sampler's chance depends on the batch."""
        asked = arriving_requests()
        wild = Request(asked[3].prompt, id="wild", sampling=Sampling(temperature=1.2, seed=5, max_tokens=20))
        one = finish_all(engine_on(model, cache_bytes=0), [wild])["wild"]
        company = requests_for([r.prompt for r in asked[:6]], 20)
        many = finish_all(engine_on(model, cache_bytes=0), [*company, wild])["wild"]
        assert many.reply == one.reply

    def test_an_answer_that_a_new_worker_takes_over_goes_on_as_it_would_have(self, model: LocalModel) -> None:
        """Fails where `new_sampler` forgets what was generated already: penalties, and draws from the seed."""
        options = {"temperature": 1.1, "seed": 9, "repeat_penalty": 1.2, "frequency_penalty": 0.1, "max_tokens": 24}
        whole = Request(conversations(1, seed=8)[0], id="0", sampling=Sampling.model_validate(options))
        reply = finish_all(engine_on(model, cache_bytes=0), [whole])["0"].reply
        resumed = Request(whole.prompt, id="0", sampling=whole.sampling, resume=reply.tokens[:9])
        assert finish_all(engine_on(model, cache_bytes=0), [resumed])["0"].reply.tokens == reply.tokens

    def test_what_cannot_be_served_fails_alone(self, model: LocalModel) -> None:
        """Fails where one person's mistake ends the answers of others."""
        engine, info = engine_on(model), model.info
        good = requests_for(conversations(1, seed=4), 5)[0]
        long = Request((Tokens((min(info.vocab_size - 1, 70),) * info.context_length),), id="long")
        biased = Request(good.prompt, id="biased", sampling=Sampling(logit_bias={info.vocab_size: 5.0}))
        for request in (long, good, biased):
            engine.submit(request)
        errors, ended = {}, {}
        while not engine.idle:
            for event in engine.step():
                if event.error is not None:
                    errors[event.request_id] = event.error
                elif event.chunk is not None and event.chunk.finish is not None:
                    ended[event.request_id] = event.chunk.finish
        assert isinstance(errors.pop("long"), PromptTooLong)
        assert isinstance(errors.pop("biased"), InvalidRequest)
        assert not errors
        assert ended["0"].usage.generated in range(1, 6)
        engine.close()
