"""Conversations that share a batch, a sequence or a prefix get the very text that each gets alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatbridge_llama_cpp.model import LlamaModel

from chatbridge import Finish, LocalModel, Prompt, Request, Sampling, Special, Text, Tokens
from chatbridge.testing import (
    EngineContract,
    arrive_and_leave,
    arriving_requests,
    conversations,
    engine_on,
    finish_all,
    requests_for,
)

from .conftest import EXACT, Load

LAYOUTS = {
    "one pool": {"unified": True},
    "three sequences": {"sequences": 3},
    "a small pool": {"unified": True, "total_context": 1024, "sequences": 8},
    "guessing": {"draft": "lookup"},
    "small batches": {"batch": 24, "ubatch": 8},
}


class TestEngine(EngineContract):
    @pytest.fixture
    def model(self, random_model: LlamaModel) -> LocalModel:
        return random_model


@pytest.fixture(scope="module")
def alone(random_model: LlamaModel) -> dict[str, Finish]:
    """What each request gets by itself, with no prefix cache and the default layout."""
    return {r.id: finish_all(engine_on(random_model, cache_bytes=0), [r])[r.id] for r in arriving_requests()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_gets_its_own_text_however_sequences_are_laid_out(
    random_path: Path, model_of: Load, alone: dict[str, Finish], layout: str
) -> None:
    model = model_of(random_path, **EXACT, **LAYOUTS[layout])
    for cache_bytes in (0, 1 << 26):
        engine = engine_on(model, cache_bytes=cache_bytes, token_budget=64)
        ended = arrive_and_leave(engine, arriving_requests())
        assert {name: f.reply for name, f in ended.items()} == {name: f.reply for name, f in alone.items()}
        engine.close()


def test_scattered_sequences_are_compacted(random_path: Path, model_of: Load) -> None:
    # Eight answers on eight sequences; every second one ends early, and those that go on have gaps between them.
    model = model_of(random_path, **EXACT, sequences=8)
    prompts = conversations(8, seed=21)
    long, short = Sampling(temperature=0, max_tokens=60), Sampling(temperature=0, max_tokens=6)
    mixed = [Request(p, id=str(i), sampling=short if i % 2 else long) for i, p in enumerate(prompts)]
    together = finish_all(engine_on(model), mixed)
    assert model.moves > 0
    for request in mixed:
        assert finish_all(engine_on(model, cache_bytes=0), [request])[request.id].reply == together[request.id].reply


def test_more_conversations_than_sequences_read_nothing_again(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2)
    engine = engine_on(model)
    prompts = conversations(6, seed=33)
    first = finish_all(engine, requests_for(prompts, 10))
    longer: list[Prompt] = [(*p, Tokens(first[str(i)].reply.tokens), Text("go on")) for i, p in enumerate(prompts)]
    for name, finish in finish_all(engine, requests_for(longer, 10)).items():
        assert finish.usage.cached == first[name].usage.prompt + first[name].usage.generated - 1
    engine.close()


def test_guesses_that_come_true_save_steps(random_path: Path, model_of: Load) -> None:
    repeated = (Special("bos"), Text("one two three four five six seven " * 6))
    request = requests_for([repeated], 60)
    steps = {}
    replies = {}
    for draft in (None, "lookup"):
        engine = engine_on(model_of(random_path, **EXACT, draft=draft), cache_bytes=0)
        replies[draft] = finish_all(engine, request)["0"].reply
        steps[draft] = engine.stats()["steps"]
    assert replies["lookup"] == replies[None]
    assert steps["lookup"] < steps[None]


def test_the_whole_context_can_be_used(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, context_length=64)
    engine = engine_on(model)
    prompt: Prompt = (Tokens(tuple(range(10, 60))),)
    finish = finish_all(engine, requests_for([prompt], 500))["0"]
    assert (finish.usage.prompt, finish.usage.generated, finish.reason) == (50, 14, "length")
    engine.close()


def test_what_is_kept_stays_within_its_bound_after_every_step(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2)
    whole = engine_on(model)
    finish_all(whole, requests_for(conversations(8, seed=5), 8))
    all_of_them = whole.stats()["kept_bytes"]
    whole.close()
    model = model_of(random_path, **EXACT, sequences=2)
    engine = engine_on(model, cache_bytes=all_of_them // 2)
    for request in requests_for(conversations(8, seed=5), 8):
        engine.submit(request)
        while not engine.idle:
            engine.step()
            assert engine.stats()["kept_bytes"] <= all_of_them // 2
    assert engine.stats()["kept_states"] > 2, "those with a sequence are kept, and some of the others"
    engine.close()
