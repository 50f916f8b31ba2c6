"""Conversations that share a batch, a sequence or a prefix get the very text that each gets alone."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from chatbridge_llama_cpp.model import LlamaModel

from chatbridge import Finish, Prompt, PromptTooLong, Request, Sampling, Special, Text, Tokens
from chatbridge.engine.engine import Engine

from .conftest import EXACT, Load
from .engine import finish_all, step

COUNT = 16
LAYOUTS = {
    "apart": {},
    "one pool": {"unified": True},
    "three sequences": {"sequences": 3},
    "a small pool": {"unified": True, "total_context": 1024, "sequences": 8},
    "guessing": {"draft": "lookup"},
    "small batches": {"batch": 24, "ubatch": 8},
}


def conversations(count: int, seed: int) -> list[Prompt]:
    """Prompts of random letters, 1 to about 120 tokens long; some begin alike."""
    rng = random.Random(seed)
    beginning = "".join(rng.choices("abcdefgh ", k=40))
    prompts: list[Prompt] = []
    for _ in range(count):
        own = "".join(rng.choices("The quick brown foxes,ütz 你好\n", k=rng.randrange(1, 90)))
        prompts.append((Special("bos"), Text(rng.choice(["", beginning]) + own)))
    return prompts


def asked(prompts: list[Prompt], max_tokens: int) -> list[Request]:
    sampling = Sampling(temperature=0, max_tokens=max_tokens)
    return [Request(prompt, id=str(i), sampling=sampling) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    rng = random.Random(11)
    prompts = conversations(COUNT, seed=4)
    return [
        Request(p, id=str(i), sampling=Sampling(temperature=0, max_tokens=rng.randrange(4, 40)))
        for i, p in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def alone(random_model: LlamaModel, requests: list[Request]) -> dict[str, Finish]:
    """Each conversation by itself, with nothing kept."""
    return {r.id: finish_all(engine_on(random_model, cache_bytes=0), [r])[r.id] for r in requests}


class Lent:
    """A model that several engines use in turn: none of them closes it."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def close(self) -> None:
        """The fixture closes it."""


def engine_on(model: LlamaModel, **options: int) -> Engine:
    return Engine(Lent(model), **options)  # type: ignore[arg-type]


def test_the_answers_differ(alone: dict[str, Finish]) -> None:
    # Or the other tests here would say nothing.
    assert len({finish.reply.text for finish in alone.values()}) > COUNT // 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
def test_batched_equals_alone(
    random_path: Path, model_of: Load, requests: list[Request], alone: dict[str, Finish], layout: str, cache_bytes: int
) -> None:
    """Conversations come while others are being answered; every third one is broken off and asked again."""
    model = model_of(random_path, **EXACT, **LAYOUTS[layout])
    engine = engine_on(model, cache_bytes=cache_bytes, token_budget=64)
    ended: dict[str, Finish] = {}
    for i, request in enumerate(requests):
        engine.submit(request)
        ended |= step(engine)
        if i % 3 == 2 and request.id not in ended:
            engine.cancel(request.id)
            came = step(engine)
            assert came.pop(request.id).reason == "cancelled"
            ended |= came
            engine.submit(request)
    ended |= finish_all(engine)
    assert {name: f.reply for name, f in ended.items()} == {name: f.reply for name, f in alone.items()}
    assert engine.stats()["steps"] < sum(f.usage.generated for f in alone.values())
    engine.close()


def test_scattered_sequences_are_brought_together(random_path: Path, model_of: Load) -> None:
    # Eight answers on eight sequences; every second one ends early, and those that go on have gaps between them.
    model = model_of(random_path, **EXACT, sequences=8)
    prompts = conversations(8, seed=21)
    long, short = Sampling(temperature=0, max_tokens=60), Sampling(temperature=0, max_tokens=6)
    mixed = [Request(p, id=str(i), sampling=short if i % 2 else long) for i, p in enumerate(prompts)]
    together = finish_all(engine_on(model), mixed)
    assert model.moves > 0
    for request in mixed:
        assert finish_all(engine_on(model, cache_bytes=0), [request])[request.id].reply == together[request.id].reply


def test_a_long_conversation_is_the_same_with_and_without_kept_states(random_model: LlamaModel) -> None:
    def talk(cache_bytes: int) -> list[Finish]:
        engine = engine_on(random_model, cache_bytes=cache_bytes)
        prompt: Prompt = (Special("bos"),)
        said = []
        for i in range(8):
            prompt = (*prompt, Text(f"turn {i}: how are you?\n"))
            said.append(finish_all(engine, asked([prompt], 12))["0"])
            prompt = (*prompt, Tokens(said[-1].reply.tokens), Text("\n"))
        engine.close()
        return said

    kept, fresh = talk(1 << 26), talk(0)
    assert [finish.reply for finish in kept] == [finish.reply for finish in fresh]
    assert all(finish.usage.cached == 0 for finish in fresh)
    for before, after in pairwise(kept):  # only the newest turn is read
        assert after.usage.cached == before.usage.prompt + before.usage.generated - 1


def test_more_rooms_than_sequences_read_nothing_again(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2)
    engine = engine_on(model)
    prompts = conversations(6, seed=33)
    first = finish_all(engine, asked(prompts, 10))
    longer: list[Prompt] = [(*p, Tokens(first[str(i)].reply.tokens), Text("go on")) for i, p in enumerate(prompts)]
    for name, finish in finish_all(engine, asked(longer, 10)).items():
        assert finish.usage.cached == first[name].usage.prompt + first[name].usage.generated - 1
    engine.close()


def test_regenerating_gives_the_same_answer_from_a_trimmed_state(random_model: LlamaModel) -> None:
    engine = engine_on(random_model)
    first = finish_all(engine, asked(conversations(1, seed=2), 30))["0"]
    again = finish_all(engine, asked(conversations(1, seed=2), 30))["0"]
    assert again.reply == first.reply
    assert again.usage.cached == first.usage.prompt - 1
    engine.close()


def test_a_seed_repeats_an_answer_in_any_company(random_model: LlamaModel, requests: list[Request]) -> None:
    wild = Request(requests[3].prompt, id="wild", sampling=Sampling(temperature=1.2, seed=5, max_tokens=20))
    one = finish_all(engine_on(random_model, cache_bytes=0), [wild])["wild"]
    company = asked([r.prompt for r in requests[:6]], 20)
    many = finish_all(engine_on(random_model, cache_bytes=0), [*company, wild])["wild"]
    assert many.reply == one.reply


def test_an_answer_that_a_new_worker_takes_over_goes_on_as_it_would_have(random_model: LlamaModel) -> None:
    prompt = conversations(1, seed=8)[0]
    options = {"temperature": 1.1, "seed": 9, "repeat_penalty": 1.2, "frequency_penalty": 0.1, "max_tokens": 24}
    whole = Request(prompt, id="0", sampling=Sampling.model_validate(options))
    reply = finish_all(engine_on(random_model, cache_bytes=0), [whole])["0"].reply
    resumed = Request(prompt, id="0", sampling=whole.sampling, resume=reply.tokens[:9])
    assert finish_all(engine_on(random_model, cache_bytes=0), [resumed])["0"].reply.tokens == reply.tokens


def test_guesses_that_come_true_save_steps(random_path: Path, model_of: Load) -> None:
    repeated = (Special("bos"), Text("one two three four five six seven " * 6))
    request = asked([repeated], 60)
    steps = {}
    replies = {}
    for draft in (None, "lookup"):
        engine = engine_on(model_of(random_path, **EXACT, draft=draft), cache_bytes=0)
        replies[draft] = finish_all(engine, request)["0"].reply
        steps[draft] = engine.stats()["steps"]
    assert replies["lookup"] == replies[None]
    assert steps["lookup"] < steps[None]


def test_what_cannot_be_served_fails_alone(random_model: LlamaModel, requests: list[Request]) -> None:
    engine = engine_on(random_model)
    good = asked([requests[0].prompt], 5)[0]
    long = Request((Text("word " * 600),), id="long")
    biased = Request(good.prompt, id="biased", sampling=Sampling(logit_bias={480: 5.0}))
    for request in (long, good, biased):
        engine.submit(request)
    errors, ended = {}, {}
    while not engine.idle:
        for event in engine.step():
            if event.error is not None:
                errors[event.request_id] = event.error
            elif event.chunk is not None and event.chunk.finish is not None:
                ended[event.request_id] = event.chunk.finish
    assert isinstance(errors["long"], PromptTooLong)
    assert "480" in str(errors["biased"])
    assert set(errors) == {"long", "biased"}
    assert ended["0"].usage.generated == 5
    engine.close()


def test_the_whole_context_can_be_used(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, context_length=64)
    engine = engine_on(model)
    prompt: Prompt = (Tokens(tuple(range(10, 60))),)
    finish = finish_all(engine, asked([prompt], 500))["0"]
    assert (finish.usage.prompt, finish.usage.generated, finish.reason) == (50, 14, "length")
    engine.close()
