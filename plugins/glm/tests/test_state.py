"""States are copies and never aliases; long prompts hold up nobody; caches are as large as their conversations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from chatbridge_glm.local_model import ALIVE_SECONDS, SLICE_SECONDS, GlmModel
from chatbridge_glm.state import GlmState

from chatbridge import BackendError, Row, Sampling
from chatbridge.testing import conversations, engine_on, finish_all, finish_step, prompt_ending, requests_for

from .conftest import Load, folder_of
from .made_up import write_chatglm

GREEDY = Sampling(temperature=0, max_tokens=12)


def prompt(model: GlmModel, count: int, seed: int = 1) -> list[int]:
    """So many ids of text with what an answer begins behind."""
    ids = [random.Random(seed).randrange(5, 300) for _ in range(count - 2)]
    return [*ids, model.tokenizer.special("[gMASK]") or 0, model.info.bidirectional_until or 0]


def read(model: GlmModel, ids: Sequence[int]) -> GlmState:
    state = model.new_state()
    while not state.length:
        model.step([Row(state, ids, None)])
    return state


@dataclass
class SteppingClock:
    """Each look at it takes so many seconds."""

    seconds: float
    now: float = 0.0
    looks: int = 0

    def __call__(self) -> float:
        self.now += self.seconds
        self.looks += 1
        return self.now


def test_a_long_prompt_goes_through_by_slices_while_others_answer(
    made_up: GlmModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(made_up, 900)
    expected = made_up.logits(made_up.new_state(), ids)[-1]
    answering, long = read(made_up, prompt(made_up, 9)), made_up.new_state()
    monkeypatch.setattr(made_up, "_clock", SteppingClock(SLICE_SECONDS / 4))
    sampler = made_up.new_sampler(GREEDY, ids, 0)
    steps, token = 0, 7
    sampled: list[list[int]] = [[], []]
    while not sampled[1]:
        before = answering.length
        sampled = made_up.step([Row(answering, [token], sampler), Row(long, ids, made_up.new_sampler(GREEDY, ids, 0))])
        (token,) = sampled[0]
        assert answering.length == before + 1
        assert long.length in (0, len(ids))
        steps += 1
    assert steps > 10
    assert sampled[1] == [int(expected.argmax())]
    found = made_up.logits(long, sampled[1])
    whole = made_up.new_state()
    made_up.logits(whole, ids)
    np.testing.assert_allclose(found, made_up.logits(whole, sampled[1]), atol=1e-3)


def test_a_prompt_goes_on_by_a_piece_at_least(made_up: GlmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "_clock", SteppingClock(10 * SLICE_SECONDS))
    ids, state, steps = prompt(made_up, 70), made_up.new_state(), 0
    while not state.length:
        made_up.step([Row(state, ids, None)])
        steps += 1
    assert steps == 2 * 2 * 2 + 1  # two pieces, two layers, twice each, and the end


def test_a_step_of_a_slow_model_is_left_for_the_next_one(made_up: GlmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = read(made_up, prompt(made_up, 9)), read(made_up, prompt(made_up, 12))
    expected = [made_up.logits(state.fork(), [7])[-1] for state in (one, other)]
    monkeypatch.setattr(made_up, "_clock", SteppingClock(ALIVE_SECONDS))
    samplers = [made_up.new_sampler(GREEDY, [], 0) for _ in range(2)]
    rows = [Row(state, [7], sampler) for state, sampler in zip((one, other), samplers, strict=True)]
    steps = 1
    while not any(sampled := made_up.step(rows)):
        assert (one.length, other.length) == (9, 12)
        steps += 1
    assert steps == 2 * 2 + 1  # two layers, twice each, and the end
    assert sampled == [[int(logits.argmax())] for logits in expected]
    assert (one.length, other.length) == (10, 13)


def test_where_answering_is_slow_reading_may_take_as_long(made_up: GlmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps_beside(slow: bool) -> int:
        answering, long = read(made_up, prompt(made_up, 9)), made_up.new_state()
        clock = SteppingClock(SLICE_SECONDS / 4)
        monkeypatch.setattr(made_up, "_clock", clock)
        ids, steps = prompt(made_up, 500), 0
        while not long.length:
            clock.seconds = 8 * SLICE_SECONDS / 4 if slow else SLICE_SECONDS / 4
            made_up.step([Row(answering, [7], None), Row(long, ids, None)])
            steps += 1
        return steps

    assert steps_beside(slow=True) <= 2 * steps_beside(slow=False)


def test_prompts_come_in_the_order_in_which_they_came(made_up: GlmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "_clock", SteppingClock(SLICE_SECONDS / 4))
    rows = [Row(made_up.new_state(), prompt(made_up, 400 + n, n), None) for n in range(3)]
    done: list[int] = []
    while len(done) < 3:
        made_up.step([rows[n] for n in range(3) if n not in done])
        done += [n for n in range(3) if rows[n].state.length and n not in done]
    assert done == [0, 1, 2]


def test_a_prompt_that_is_given_up_half_read_hinders_nobody(made_up: GlmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "_clock", SteppingClock(SLICE_SECONDS))
    engine = engine_on(made_up)
    first, second, third = requests_for(conversations(3, 5, prompt_ending(made_up.info)), 6)
    alone = finish_all(engine_on(made_up, cache_bytes=0), [second, third])
    for request in (first, second, third):  # short ones, which share a pass
        engine.submit(request)
    finish_step(engine)
    engine.cancel(first.id)
    ended = finish_all(engine)
    assert {name: ended[name].reply for name in alone} == {name: finish.reply for name, finish in alone.items()}
    engine.close()


def test_a_step_that_fails_leaves_no_half_state(model_of: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(folder_of())
    ids = prompt(model, 12)
    state = read(model, ids)
    expected = model.logits(state.fork(), [7])
    glm = model._model
    assert glm is not None
    fresh = model.new_state()
    monkeypatch.setattr(model, "_model", None)
    with pytest.raises(ValueError, match="closed"):
        model.step([Row(state, [7], None), Row(fresh, ids, None)])
    monkeypatch.setattr(model, "_model", glm)
    assert (state.length, fresh.length, fresh.reading) == (len(ids), 0, None)
    np.testing.assert_allclose(model.logits(state, [7]), expected, atol=1e-4)


def test_a_fork_shares_no_memory(made_up: GlmModel) -> None:
    state = read(made_up, prompt(made_up, 30))
    fork = state.fork()
    for mine, copy in zip((*state.keys, *state.values), (*fork.keys, *fork.values), strict=True):
        kept = mine[:, :30].clone()
        copy.add_(1)
        assert torch.equal(mine[:, :30], kept)
    assert fork.nbytes <= state.nbytes


def test_what_was_read_in_both_directions_is_never_cut(made_up: GlmModel) -> None:
    ids = prompt(made_up, 20)
    state = read(made_up, ids)
    made_up.logits(state, [5, 6, 7])
    with pytest.raises(BackendError, match="19 of them read in both directions"):
        state.trim(10)
    state.trim(19)
    again = made_up.logits(state, ids[19:])
    np.testing.assert_allclose(again[-1], made_up.logits(made_up.new_state(), ids)[-1], atol=1e-3)
    state.trim(0)
    assert (state.length, state.keys, state.nbytes) == (0, [], 1)


def test_a_cache_grows_with_its_conversation_and_never_beyond_the_context(made_up: GlmModel) -> None:
    state = read(made_up, prompt(made_up, 10))
    sizes = [state.nbytes]
    token_bytes = state.layout.token_bytes
    for _ in range(3):
        made_up.logits(state, [5] * 300)
        sizes.append(state.nbytes)
        assert state.nbytes < 1.5 * (state.length + 64) * token_bytes
    assert sizes == sorted(sizes)
    made_up.logits(state, [5] * (made_up.info.context_length - state.length))
    assert state.nbytes <= made_up.info.context_length * token_bytes
    state.trim(10)
    assert state.nbytes < 100 * token_bytes


def test_another_models_state_is_refused(tmp_path: Path, made_up: GlmModel, model_of: Load) -> None:
    state = read(made_up, prompt(made_up, 30))
    saved = state.save()
    again = made_up.new_state(saved)
    assert again.save() == saved
    np.testing.assert_allclose(made_up.logits(again, [7]), made_up.logits(state, [7]), atol=1e-4)
    other = model_of(write_chatglm(tmp_path / "other", layers=3))
    for model, bad in (
        (made_up, saved[:-1] + bytes([saved[-1] ^ 1])),
        (made_up, saved[:-4]),
        (made_up, b""),
        (other, saved),
    ):
        with pytest.raises(BackendError, match="damaged or belongs to another model"):
            model.new_state(bad)


def test_what_can_not_be_asked_is_refused_before_anything_changes(made_up: GlmModel) -> None:
    state = made_up.new_state()
    for tokens, why in (
        ([], "at least one"),
        ([made_up.info.vocab_size], "outside the vocabulary"),
        ([1] * 5000, "fit the context"),
        ([5, 6], "the first row of a state has the token"),
    ):
        with pytest.raises(ValueError, match=why):
            made_up.step([Row(state, tokens, None)])
    assert state.length == 0


def test_conversations_with_caches_in_half_precision_are_near(
    made_up: GlmModel, tmp_path: Path, model_of: Load
) -> None:
    model = model_of(write_chatglm(tmp_path / "half", max_sequence_length=1024), cache_dtype="fp16")
    ids = prompt(model, 40)
    found, expected = (one.logits(one.new_state(), ids)[-1] for one in (model, made_up))
    assert 0 < float(np.abs(found - expected).max()) < 0.1
    half, whole = read(model, ids).nbytes, read(made_up, ids).nbytes
    assert 2 * half == whole
