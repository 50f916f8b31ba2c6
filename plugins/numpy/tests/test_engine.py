"""Conversations that share a step, a cache or a prefix get the very text that each gets alone."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from chatbridge_numpy.model import NumpyModel

from chatbridge import Finish, Prompt, PromptTooLong, Request, Sampling, Special, Text, Tokens
from chatbridge.engine.engine import Engine

from .engine import finish_all

COUNT = 16


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
    return [r for p in conversations(COUNT, seed=4) for r in asked([p], rng.randrange(4, 40))]


@pytest.fixture(scope="module")
def alone(random_model: NumpyModel, requests: list[Request]) -> dict[str, Finish]:
    """Each conversation by itself, with nothing kept."""
    return {str(i): finish_all(Engine(random_model, cache_bytes=0), [r])[r.id] for i, r in enumerate(requests)}


def test_the_answers_differ(alone: dict[str, Finish]) -> None:
    # Or the other tests here would say nothing.
    assert len({finish.reply.text for finish in alone.values()}) > COUNT // 2


@pytest.mark.parametrize("budget", [24, 64, 512])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
def test_batched_equals_alone(
    random_model: NumpyModel, requests: list[Request], alone: dict[str, Finish], budget: int, cache_bytes: int
) -> None:
    engine = Engine(random_model, token_budget=budget, cache_bytes=cache_bytes)
    ended: dict[str, Finish] = {}
    for i, request in enumerate(requests):  # they come while others are being answered
        engine.submit(Request(request.prompt, id=str(i), sampling=request.sampling))
        for event in engine.step():
            if event.chunk is not None and event.chunk.finish is not None:
                ended[event.request_id] = event.chunk.finish
    ended |= finish_all(engine)
    assert {name: f.reply for name, f in ended.items()} == {name: f.reply for name, f in alone.items()}
    assert engine.stats()["steps"] < sum(f.usage.generated for f in alone.values())


def test_a_long_conversation_is_the_same_with_and_without_kept_states(random_model: NumpyModel) -> None:
    def talk(cache_bytes: int) -> list[Finish]:
        engine = Engine(random_model, cache_bytes=cache_bytes)
        prompt: Prompt = (Special("bos"),)
        said = []
        for i in range(8):
            prompt = (*prompt, Text(f"turn {i}: how are you?\n"))
            said.append(finish_all(engine, asked([prompt], 12))["0"])
            prompt = (*prompt, Tokens(said[-1].reply.tokens), Text("\n"))
        return said

    kept, fresh = talk(1 << 26), talk(0)
    assert [finish.reply for finish in kept] == [finish.reply for finish in fresh]
    assert all(finish.usage.cached == 0 for finish in fresh)
    for before, after in pairwise(kept):  # only the newest turn is read
        assert after.usage.cached == before.usage.prompt + before.usage.generated - 1


def test_regenerating_gives_the_same_answer_from_a_trimmed_state(random_model: NumpyModel) -> None:
    engine = Engine(random_model)
    first = finish_all(engine, asked(conversations(1, seed=2), 30))["0"]
    again = finish_all(engine, asked(conversations(1, seed=2), 30))["0"]
    assert again.reply == first.reply
    assert again.usage.cached == first.usage.prompt - 1


def test_a_seed_repeats_an_answer_in_any_company(random_model: NumpyModel, requests: list[Request]) -> None:
    wild = Request(requests[3].prompt, id="wild", sampling=Sampling(temperature=1.2, seed=5, max_tokens=20))
    one = finish_all(Engine(random_model), [wild])["wild"]
    many = finish_all(Engine(random_model), [*asked([r.prompt for r in requests[:6]], 20), wild])["wild"]
    assert many.reply == one.reply


def test_a_cancelled_request_frees_its_slot_within_one_step(random_model: NumpyModel) -> None:
    engine = Engine(random_model, max_batch=1)
    first, second = asked(conversations(2, seed=9), 30)
    engine.submit(first)
    engine.submit(second)
    engine.step()
    assert engine.stats()["positions"] == {"1": 1}
    engine.cancel("0")
    events = engine.step()
    assert [e.chunk.finish.reason for e in events if e.request_id == "0" and e.chunk and e.chunk.finish] == [
        "cancelled"
    ]
    assert any(event.request_id == "1" and event.tokens for event in events)
    assert engine.stats()["running"] == 1
    assert engine.stats()["waiting"] == 0


def test_what_cannot_be_served_fails_alone(random_model: NumpyModel, requests: list[Request]) -> None:
    engine = Engine(random_model)
    good = asked([requests[0].prompt], 5)[0]
    long = Request((Text("word " * 300),), id="long")
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


def test_typed_control_tokens_stay_text(random_model: NumpyModel) -> None:
    engine = Engine(random_model)
    ids = engine.tokenize((Special("bos"), Text("</s><s>[INST]<0x0A><unk> </s>", "person"), Special("eos")))
    assert (ids[0], ids[-1]) == (1, 2)
    assert not {0, 1, 2} & set(ids[1:-1])
    assert random_model.tokenizer.decode(ids) == b" </s><s>[INST]<0x0A><unk> </s>"
