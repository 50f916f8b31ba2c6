"""Whatever is done to a KV cache, it goes on as one that has read the same tokens from the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chatbridge_numpy.model import NumpyModel, load_model
from chatbridge_numpy.state import KVCache
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import BackendError

IDS = st.integers(0, 479)
WORK = st.one_of(
    st.tuples(st.just("read"), st.lists(IDS, min_size=1, max_size=90)),
    st.tuples(st.just("trim"), st.integers(0, 120)),
    st.tuples(st.just("fork"), st.lists(IDS, min_size=1, max_size=5)),
    st.tuples(st.just("save"), st.none()),
)


def read(model: NumpyModel, ids: list[int]) -> KVCache:
    state = model.new_state()
    model.logits(state, ids)
    return state


def next_logits(model: NumpyModel, state: KVCache) -> np.ndarray:
    return model.logits(state, [300])[0]


@given(work=st.lists(WORK, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_history_ends_where_the_plain_way_ends(random_model: NumpyModel, work: list) -> None:
    state, ids = random_model.new_state(), []
    for what, value in work:
        if what == "read" and len(ids) + len(value) < 250:
            random_model.logits(state, value)
            ids = ids + value
        elif what == "trim":
            ids = ids[:value]
            state.trim(len(ids))
        elif what == "fork":
            other, state = state, state.fork()
            random_model.logits(other, value)  # what becomes of the one must not touch the other
            other.release()
        elif what == "save":
            state = random_model.new_state(state.save())
    assert state.length == len(ids)
    expected = next_logits(random_model, read(random_model, ids) if ids else random_model.new_state())
    scores = next_logits(random_model, state)
    np.testing.assert_allclose(scores, expected, atol=2e-4 * expected.std())


def test_a_fork_and_its_origin_go_on_independently(random_model: NumpyModel) -> None:
    origin = read(random_model, [1, 5, 9])
    fork = origin.fork()
    random_model.logits(fork, [7] * 100)
    random_model.logits(origin, [8])
    assert (origin.length, fork.length) == (4, 103)
    for state, ids in ((origin, [1, 5, 9, 8]), (fork, [1, 5, 9] + [7] * 100)):
        expected = next_logits(random_model, read(random_model, ids))
        np.testing.assert_allclose(next_logits(random_model, state), expected, atol=2e-4 * expected.std())


def test_a_cache_counts_its_bytes(random_model: NumpyModel) -> None:
    state = random_model.new_state()
    before = state.nbytes
    random_model.logits(state, [1] * 200)
    assert state.nbytes == state.kv.nbytes > before
    assert state.kv.shape[3] <= random_model.info.context_length
    state.release()
    assert state.nbytes == 0


def test_a_state_can_fill_the_whole_context_and_no_more(random_model: NumpyModel) -> None:
    limit = random_model.info.context_length
    state = read(random_model, [3] * limit)
    assert state.fork().length == limit
    with pytest.raises(ValueError, match="context of 256"):
        random_model.logits(state, [3])
    with pytest.raises(ValueError, match="can't be trimmed to 257"):
        state.trim(limit + 1)


def test_a_saved_state_comes_back_to_the_bit(random_model: NumpyModel, random_path: Path) -> None:
    state = read(random_model, [1, 300, 17] * 30)
    back = load_model(random_path).new_state(state.save())
    assert back.length == 90
    assert (back.kv[:, :, :, :90] == state.kv[:, :, :, :90]).all()
    assert random_model.new_state(random_model.new_state().save()).length == 0


@given(at=st.integers(0, 2**16), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_state_with_one_wrong_bit_is_refused(random_model: NumpyModel, at: int, bit: int) -> None:
    saved = bytearray(read(random_model, [1, 2, 3]).save())
    saved[at % len(saved)] ^= 1 << bit
    with pytest.raises(BackendError, match=r"damaged or belongs to another model: leave it out"):
        random_model.new_state(bytes(saved))


@pytest.mark.parametrize("cut", [0, 1, 22, 30, 38, 100, -1])
def test_a_state_that_was_cut_short_is_refused(random_model: NumpyModel, cut: int) -> None:
    with pytest.raises(BackendError, match="damaged"):
        random_model.new_state(read(random_model, [1, 2, 3]).save()[:cut])


def test_a_state_of_another_model_is_refused(random_model: NumpyModel, meta_model: NumpyModel) -> None:
    with pytest.raises(BackendError, match="another model"):
        meta_model.new_state(read(random_model, [1, 2, 3]).save())


def test_a_state_of_the_same_shape_and_other_weights_is_refused(random_model: NumpyModel) -> None:
    state = read(random_model, [1, 2, 3])
    shape = (*state.kv.shape[:3], state.kv.shape[4])
    other = KVCache(shape, state.limit, "numpy-of-other-weights")
    with pytest.raises(BackendError, match="another model"):
        other.load(state.save())


def test_a_state_longer_than_this_context_is_refused(random_model: NumpyModel, random_path: Path) -> None:
    short = load_model(random_path, context_length=16)
    assert short.new_state(read(random_model, [1] * 16).save()).length == 16
    with pytest.raises(BackendError, match=r"17 tokens, more than context_length: 16; raise it"):
        short.new_state(read(random_model, [1] * 17).save())
