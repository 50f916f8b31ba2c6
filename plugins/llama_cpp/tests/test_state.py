"""Sequences: forked, trimmed, swapped out, saved, damaged; nothing of it changes what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.state import LlamaState, Sequences

from chatbridge import BackendError, Row

from .conftest import EXACT, Load

IDS = [1, 40, 90, 41, 200, 91, 42, 300, 17, 60]


def read(model: LlamaModel, ids: list[int]) -> LlamaState:
    state = model.new_state()
    model.step([Row(state, ids, None)])
    return state


def after(model: LlamaModel, state: LlamaState, ids: list[int]) -> np.ndarray:
    """The logits after each of `ids`; the state is used up."""
    try:
        return model.logits(state, ids)
    finally:
        state.release()


@pytest.fixture(params=[{}, {"unified": True}, {"sequences": 1}], ids=["apart", "one pool", "one sequence"])
def model(request: pytest.FixtureRequest, random_path: Path, model_of: Load) -> LlamaModel:
    options: dict[str, Any] = request.param
    return model_of(random_path, **EXACT, **options)


def test_forks_trims_and_saves_change_no_number(model: LlamaModel) -> None:
    expected = after(model, read(model, IDS[:6]), IDS[6:])
    state = read(model, IDS)
    fork = state.fork()
    fork.trim(6)
    saved = model.new_state(fork.save())
    longer = state.fork()
    longer.trim(8)
    longer.trim(6)
    for one in (saved, fork, longer):
        # In one pool sums are taken over other cells' zeros as well, in another order.
        np.testing.assert_allclose(after(model, one, IDS[6:]), expected, atol=1e-4)
    assert state.length == len(IDS)


def test_what_was_swapped_out_comes_back_as_it_was(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2)
    expected = [after(model, read(model, IDS[:n]), IDS[n:]) for n in range(1, 8)]
    states = [read(model, IDS[:n]) for n in range(1, 8)]
    assert sum(state.seq_id is not None for state in states) == 2
    assert all(state.nbytes > 64 for state in states if state.seq_id is None)
    states[0].release()
    for state, wanted in list(zip(states, expected, strict=True))[1:]:
        np.testing.assert_array_equal(after(model, state, IDS[state.length :]), wanted)


def test_a_state_that_was_swapped_out_can_be_trimmed_and_forked(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=1)
    expected = after(model, read(model, IDS[:4]), IDS[4:])
    idle = read(model, IDS)
    read(model, [7])
    assert idle.seq_id is None
    idle.trim(6)
    fork = idle.fork()
    fork.trim(4)
    restored = model.new_state(fork.save())
    for one in (fork, restored):
        np.testing.assert_array_equal(after(model, one, IDS[4:]), expected)
    assert idle.length == 6


class Counting(Sequences):
    """Sequences that count what is copied out of the context, and into it."""

    reads = writes = 0

    def read(self, seq_id: int) -> Any:
        Counting.reads += 1
        return super().read(seq_id)

    def _write(self, seq_id: int, data: Any) -> bool:
        Counting.writes += 1
        return super()._write(seq_id, data)


@pytest.fixture
def counting() -> type[Counting]:
    Counting.reads = Counting.writes = 0
    return Counting


def counted(model: LlamaModel) -> LlamaModel:
    model._decoder.sequences.__class__ = Counting
    return model


def test_a_fork_is_copied_when_it_goes_on_and_its_source_too(
    random_path: Path, model_of: Load, counting: type[Counting]
) -> None:
    model = counted(model_of(random_path, **EXACT, sequences=4))
    expected = after(model, read(model, IDS[:6]), IDS[6:])
    source = read(model, IDS)
    forks = [source.fork() for _ in range(3)]
    for fork in forks:
        fork.trim(6)
    model.step([Row(source, [5, 6, 7], None)])
    assert (counting.reads, counting.writes) == (0, 0), "more was read behind it, which changes nothing before"
    np.testing.assert_array_equal(after(model, forks[0], IDS[6:]), expected)
    assert (counting.reads, counting.writes) == (1, 1)
    source.trim(8)
    assert counting.reads == 1, "what the others have is still there"
    source.trim(4)
    assert counting.reads == 2
    for fork in forks[1:]:
        np.testing.assert_array_equal(after(model, fork, IDS[6:]), expected)
    assert source.forks == []


def test_what_is_released_leaves_its_sequence_to_its_longest_fork(
    random_path: Path, model_of: Load, counting: type[Counting]
) -> None:
    model = counted(model_of(random_path, **EXACT, sequences=2))
    expected = {n: after(model, read(model, IDS[:n]), IDS[n:]) for n in (3, 6, 8)}
    source = read(model, IDS)
    forks = []
    for length in (6, 8, 3):
        forks.append(source.fork())
        forks[-1].trim(length)
    source.release()
    assert [fork.seq_id is not None for fork in forks] == [False, True, False]
    assert counting.reads == 0
    for fork in reversed(forks):
        length = fork.length
        np.testing.assert_array_equal(after(model, fork, IDS[length:]), expected[length])


def test_where_no_sequence_is_free_a_fork_takes_that_of_its_source(
    random_path: Path, model_of: Load, counting: type[Counting]
) -> None:
    model = counted(model_of(random_path, **EXACT, sequences=2))
    expected = [after(model, read(model, IDS[:n]), IDS[n:]) for n in (6, len(IDS) - 1)]
    source, other = read(model, IDS), read(model, IDS[:4])
    longer, fork = source.fork(), source.fork()
    fork.trim(6)
    np.testing.assert_array_equal(after(model, fork, IDS[6:]), expected[0])
    assert (counting.reads, counting.writes) == (1, 0), "nobody else had to make room"
    assert other.seq_id is not None
    longer.trim(len(IDS) - 1)
    source.trim(len(IDS) - 1)
    for one in (longer, source):
        np.testing.assert_array_equal(after(model, one, IDS[-1:]), expected[1])


def test_the_least_recently_used_is_swapped_out_first(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2, unified=True)
    first, second = read(model, IDS[:3]), read(model, IDS[:3])
    model.step([Row(first, [5], None)])
    third = read(model, IDS[:3])
    assert (first.seq_id is None, second.seq_id is None, third.seq_id is None) == (False, True, False)


def test_more_rows_than_sequences_are_refused(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2)
    with pytest.raises(BackendError, match="3 conversations in one step, and the context has 2"):
        model.step([Row(model.new_state(), [1], None) for _ in range(3)])


def test_a_full_pool_fails_the_step_and_leaves_the_states_whole(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=2, unified=True, total_context=512, context_length=400)
    states = [read(model, IDS * 25), read(model, IDS * 25)]
    with pytest.raises(BackendError, match="raise total_context"):
        model.step([Row(state, IDS * 2, None) for state in states])
    assert [state.length for state in states] == [250, 250]
    states[1].release()
    np.testing.assert_allclose(after(model, states[0], IDS), after(model, read(model, IDS * 25), IDS), atol=1e-4)


@pytest.mark.parametrize("at", [0, 5, 30, 60, 200, -1])
def test_a_damaged_state_is_refused(random_model: LlamaModel, at: int) -> None:
    saved = bytearray(read(random_model, IDS).save())
    saved[at] ^= 1
    with pytest.raises(BackendError, match="damaged or belongs to another model"):
        random_model.new_state(bytes(saved))


@pytest.mark.parametrize("cut", [0, 1, 23, 30, 40, 100, -1])
def test_a_state_that_was_cut_short_is_refused(random_model: LlamaModel, cut: int) -> None:
    with pytest.raises(BackendError, match="damaged"):
        random_model.new_state(read(random_model, IDS).save()[:cut])


def test_a_state_of_another_model_is_refused(random_model: LlamaModel, meta_path: Path, model_of: Load) -> None:
    with pytest.raises(BackendError, match="another model"):
        model_of(meta_path, **EXACT).new_state(read(random_model, IDS).save())


def test_a_state_longer_than_this_context_is_refused(
    random_model: LlamaModel, random_path: Path, model_of: Load
) -> None:
    short = model_of(random_path, **EXACT, context_length=16)
    assert short.new_state(read(random_model, [1] * 16).save()).length == 16
    with pytest.raises(BackendError, match="17 tokens, more than context_length: 16"):
        short.new_state(read(random_model, [1] * 17).save())


def test_a_state_goes_into_another_context_of_the_same_kind_only(random_path: Path, model_of: Load) -> None:
    first, second = (model_of(random_path, **EXACT, sequences=2) for _ in range(2))
    saved = read(first, IDS[:5]).save()
    moved = second.new_state(saved)
    np.testing.assert_array_equal(after(second, moved, IDS[5:]), after(first, read(first, IDS[:5]), IDS[5:]))
    with pytest.raises(BackendError, match="another model"):
        model_of(random_path, **EXACT, sequences=5).new_state(saved)


class Unwritable(Sequences):
    """Sequences into which nothing can be written, as where the context is too small."""

    def _write(self, seq_id: int, data: Any) -> bool:
        return False


def test_a_state_that_cannot_be_moved_is_an_error(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, sequences=6)
    states = [read(model, IDS[:5]) for _ in range(6)]
    model._decoder.sequences.__class__ = Unwritable
    first, last = (next(state for state in states if state.seq_id == number) for number in (0, 5))

    def go_on() -> None:
        for token in IDS * 20:  # until the gap between the two has cost as much as moving one of them
            model.step([Row(first, [token], None), Row(last, [token], None)])

    with pytest.raises(BackendError, match="a conversation's state could not be moved"):
        go_on()
