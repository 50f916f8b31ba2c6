"""States are copies and never aliases; conversations side by side never see one another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_rwkv.model import RwkvModel
from chatbridge_rwkv.state import Layout

from chatbridge import BackendError, Request, Row, Sampling, Text
from chatbridge.engine.engine import Engine
from chatbridge.testing import finish_all

from .conftest import IDS, V4, V7, Load, sizes
from .weights import write_model

GREEDY = Sampling(temperature=0, max_tokens=12)


@pytest.fixture(params=[V4, V7], ids=["v4", "v7"])
def model(request: pytest.FixtureRequest, v4: RwkvModel, v7: RwkvModel) -> RwkvModel:
    return v4 if request.param == V4 else v7


def digest(saved: bytes) -> str:
    return blake2b(saved).hexdigest()


def talk(model: RwkvModel, ids: Sequence[int], steps: int = 6) -> tuple[list[int], bytes]:
    """The greedy way on from `ids`, alone, and the state after it."""
    state = model.new_state()
    sampler = model.new_sampler(GREEDY, ids, 0)
    said, pending = [], list(ids)
    for _ in range(steps):
        ((token,),) = model.step([Row(state, pending, sampler)])
        said.append(token)
        pending = [token]
    return said, state.save()


def test_a_saved_state_is_not_changed_by_later_turns(model: RwkvModel) -> None:
    state = model.new_state()
    model.step([Row(state, IDS[:5], None)])
    before = digest(state.save())
    fork = state.fork()
    beside = model.new_state()
    for token in IDS[5:]:
        model.step([Row(state, [token], None), Row(beside, [7], None)])
    assert digest(fork.save()) == before
    assert digest(state.save()) != before
    again = model.new_state(fork.save())
    model.step([Row(again, IDS[5:], None)])
    assert digest(fork.save()) == before
    assert (fork.length, again.length, state.length) == (5, len(IDS), len(IDS))


def test_a_fork_shares_no_memory(model: RwkvModel) -> None:
    one, other = model.new_state(), model.new_state()
    for states in ([one], [one, other]):
        model.step([Row(state, [3], None) for state in states])
        for state in states:
            fork = state.fork()
            for mine, copy in zip(state.tensors, fork.tensors, strict=True):
                assert mine.data_ptr() != copy.data_ptr()
                kept = mine.clone()
                copy.add_(1)
                assert torch.equal(mine, kept)


def test_interleaved_conversations_are_each_as_if_alone(model: RwkvModel) -> None:
    rng = random.Random(3)
    prompts = [[rng.randrange(1, 300) for _ in range(rng.randrange(1, 30))] for _ in range(9)]
    alone = [talk(model, ids) for ids in prompts]
    states = [model.new_state() for _ in prompts]
    samplers = [model.new_sampler(GREEDY, ids, 0) for ids in prompts]
    pending = [list(ids) for ids in prompts]
    said: list[list[int]] = [[] for _ in prompts]
    while any(len(tokens) < 6 for tokens in said):
        # Whoever happens to be there, in any order; prompts in pieces.
        here = [n for n in rng.sample(range(9), rng.randrange(1, 9)) if len(said[n]) < 6]
        if not here:
            continue
        rows, counts = [], []
        for n in here:
            count = rng.randrange(1, len(pending[n]) + 1)
            counts.append(count)
            wanted = samplers[n] if count == len(pending[n]) else None
            rows.append(Row(states[n], pending[n][:count], wanted))
        for n, count, sampled in zip(here, counts, model.step(rows), strict=True):
            pending[n] = pending[n][count:] + list(sampled)
            said[n] += sampled
    assert said == [tokens for tokens, _ in alone]


def test_many_turns_leak_nothing(model: RwkvModel) -> None:
    texts = ["hello", "tell me of the river", "why?", "a\n\nb", "the fox"]
    engine = Engine(model)
    together: dict[int, list[str]] = {0: [], 1: [], 2: []}
    alone: dict[int, list[str]] = {0: [], 1: [], 2: []}

    def requests(said: dict[int, list[str]], turn: int, who: int) -> Request:
        talked = "".join(f"\n\nBob: {texts[(who + n) % 5]}\n\nAlice:{text}" for n, text in enumerate(said[who]))
        prompt = f"Room {who}.{talked}\n\nBob: {texts[(who + turn) % 5]}\n\nAlice:"
        return Request((Text(prompt),), id=f"{who}", sampling=GREEDY.model_copy(update={"max_tokens": 4}))

    for turn in range(6):
        for who, finish in finish_all(engine, [requests(together, turn, who) for who in together]).items():
            together[int(who)].append(finish.reply.text)
    for who in alone:
        for turn in range(6):
            ended = finish_all(Engine(model, cache_bytes=0), [requests(alone, turn, who)])
            alone[who].append(ended[str(who)].reply.text)
    assert together == alone


def test_a_step_that_fails_leaves_no_half_state(model_of: Load) -> None:
    model = model_of(V4)
    states = [model.new_state() for _ in range(2)]
    model.step([Row(state, [5, 6], None) for state in states])
    arithmetic: Any = model._arithmetic
    whole = arithmetic._layers
    arithmetic._layers = [*whole[:-1], None]  # fails at the last layer
    with pytest.raises(AttributeError):
        model.step([Row(state, [7], None) for state in states])
    arithmetic._layers = whole
    assert [state.length for state in states] == [0, 0]
    model.step([Row(states[0], [5, 6, 7], None)])
    fresh = model.new_state()
    model.step([Row(fresh, [5, 6, 7], None)])
    assert states[0].save() == fresh.save()


def test_what_can_not_be_asked_is_refused_before_anything_changes(model: RwkvModel) -> None:
    state = model.new_state()
    for tokens, why in (
        ([], "at least one"),
        ([model.info.vocab_size], "outside the vocabulary"),
        ([1] * 5000, "fit the context"),
    ):
        with pytest.raises(ValueError, match=why):
            model.step([Row(state, tokens, None)])
    assert state.length == 0
    with pytest.raises(BackendError, match="can't forget"):
        state.trim(0)


def test_another_models_state_is_refused(tmp_path: Path, model_of: Load, v4: RwkvModel) -> None:
    state = v4.new_state()
    v4.step([Row(state, IDS, None)])
    saved = state.save()
    damaged = saved[:-1] + bytes([saved[-1] ^ 1])
    other = model_of(write_model(tmp_path / "other.pth", 4, layers=sizes(V4).layers, width=sizes(V4).width))
    for model, bad in (
        (v4, damaged),
        (v4, saved[:-4]),
        (v4, b""),
        (other, saved),
        (model_of(V4, batched=False), saved),
    ):
        with pytest.raises(BackendError, match="damaged or belongs to another model"):
            model.new_state(bad)
    with pytest.raises(BackendError, match="more than context_length"):
        model_of(V4, context_length=8).new_state(saved)


def test_a_layout_follows_the_devices() -> None:
    layout = Layout.of(["cpu", "cpu", "meta", "cpu"], 4, 4, 0, 0)
    assert layout.devices == ("cpu", "cpu", "meta", "meta", "cpu", "cpu")
    assert layout.shapes == ((4, 4), (6, 4), (2, 4), (3, 4), (2, 4), (3, 4))
    assert layout.places == ((0, 0), (0, 1), (1, 0), (2, 0))
    layers = layout.views(layout.empty())
    assert [str(layer[0].device) for layer in layers] == ["cpu", "cpu", "meta", "cpu"]
    assert float(layers[1][4].max()) == float(layers[3][4].min()) == pytest.approx(-1e30)
    assert Layout.of(["cpu"], 8, 8, 2, 4).shapes == ((2, 8), (1, 2, 4, 4))


def test_states_are_small_and_stay_small(model: RwkvModel) -> None:
    state = model.new_state()
    size = len(state.save())
    model.step([Row(state, IDS * 20, None)])
    assert len(state.save()) == size
    assert state.nbytes == sum(tensor.nbytes for tensor in state.tensors)
