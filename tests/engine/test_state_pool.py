"""Who holds which state: copies are made where they are wanted and nowhere else, and never are there too many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from chatbridge.engine.backend import Row
from chatbridge.engine.disk_cache import MIN_TOKENS, DiskCache, StoredState
from chatbridge.engine.engine import Engine
from chatbridge.engine.state_pool import RequestState, StatePool
from chatbridge.testing.toy import ToyModel, ToyState

from .driving import GREEDY, Outputs, answer_to, ask, drain, play

LETTERS = [*b"abcdefghijklmnopqrstuvwxyz"]


def read(model: ToyModel, request: RequestState, until: int) -> None:
    state = request.model_state
    model.step([Row(state, request.tokens[state.length : until], None)])


def answered(pool: StatePool, model: ToyModel, tokens: Sequence[int]) -> None:
    """A request that comes, is read and has ended."""
    request = pool.acquire([*tokens], len(tokens))
    read(model, request, len(tokens))
    pool.keep(request, len(tokens))


@pytest.mark.parametrize("can_trim", [True, False])
def test_there_may_be_just_as_many_states_as_the_model_allows(can_trim: bool) -> None:
    model = ToyModel(can_trim=can_trim, max_states=5)
    pool = StatePool(model, 2, 1 << 20)
    for letter in LETTERS[:7]:
        answered(pool, model, [letter] * 3)
    assert (len(pool.cache), model.live) == (5, 5)
    running = [pool.acquire([letter, 1, 2], 3) for letter in LETTERS[10:12]]
    assert (len(pool.cache), model.live) == (3, 5)
    for request in running:
        read(model, request, 2)
        pool.checkpoint(request, in_partial_stop=True)
    # Of a model that can't trim, each has left a copy for a regeneration, and one from before the stop string.
    assert [request.before_stop is not None for request in running] == [not can_trim] * 2
    assert model.live == 5
    for request in running:
        pool.discard(request)
    pool.close()
    model.close()


@pytest.mark.parametrize(("room", "copies"), [(2, 0), (3, 1), (4, 2), (5, 2)])
def test_copies_before_stop_strings_are_made_only_of_what_no_request_needs(room: int, copies: int) -> None:
    model = ToyModel(can_trim=False, max_states=room)
    pool = StatePool(model, 2, 1 << 20)
    running = [pool.acquire([letter, 1, 2], 3) for letter in LETTERS[:2]]
    for request in running:
        read(model, request, 1)
        for _ in range(2):
            pool.checkpoint(request, in_partial_stop=True)
    assert sum(request.before_stop is not None for request in running) == copies
    for request in running:
        pool.checkpoint(request, in_partial_stop=False)
        assert request.before_stop is None
        pool.discard(request)
    assert model.live == 0


def test_a_checkpoint_is_a_copy_with_which_its_conversation_does_not_go_on() -> None:
    model = ToyModel(can_trim=False)
    pool = StatePool(model, 2, 1 << 20)
    request = pool.acquire(LETTERS[:4], 4)
    assert request.checkpoints == (3,)
    for length in (2, 3):
        read(model, request, length)
        pool.checkpoint(request, in_partial_stop=False)
        assert [len(entry.tokens) for entry in pool.cache.newest()] == [3][: length - 2]
    (entry,) = pool.cache.newest()
    assert entry.use.seldom
    pool.discard(request)
    pool.close()


def test_what_shares_nothing_with_those_who_run_begins_with_an_empty_state() -> None:
    class Counting(ToyState):
        __slots__ = ()
        forks = 0

        def fork(self) -> ToyState:
            Counting.forks += 1
            return ToyState.fork(self)

    model = ToyModel()
    pool = StatePool(model, 4, 1 << 20)
    first = pool.acquire(LETTERS[:4], 4)
    first.model_state.__class__ = Counting
    read(model, first, 4)
    other = pool.acquire([1, 2, 3], 3)
    assert (other.model_state.length, Counting.forks) == (0, 0)
    same = pool.acquire([*LETTERS[:2], 1], 3)
    assert (same.model_state.length, Counting.forks) == (2, 1)
    for request in (first, other, same):
        pool.discard(request)


@pytest.mark.parametrize(("more", "reads"), [(-1, 0), (0, 0), (1, 1)])
def test_a_state_is_read_from_disk_only_where_it_has_more_than_any_other(tmp_path: Path, more: int, reads: int) -> None:
    found: list[StoredState] = []

    class Watched(DiskCache):
        def read(self, stored: StoredState) -> bytes | None:
            found.append(stored)
            return DiskCache.read(self, stored)

    model, half = ToyModel(), 2 * MIN_TOKENS
    story = LETTERS * 9
    disk = Watched(tmp_path, "toy", 1 << 30)
    pool = StatePool(model, 4, 1 << 20, disk)
    running = pool.acquire(story[:half], half)
    read(model, running, half)
    state = model.new_state()
    state.consume(story[: half + more])
    disk.put(story[: half + more], state)
    request = pool.acquire(story, len(story))
    assert (request.model_state.length, len(found)) == (half + max(more, 0), reads)
    for one in (running, request):
        pool.discard(one)
    state.release()
    assert model.live == 0


def test_one_token_that_two_prompts_begin_with_is_shared() -> None:
    engine = Engine(ToyModel())
    outputs = play(engine, ask("hi", id="a"), ask("who", id="b"))
    assert answer_to(engine, ask("x", id="c")).cached == 1, "the token that begins every prompt"
    assert outputs["a"].end
    engine.close()


def test_a_model_without_adapters_need_not_know_of_them() -> None:
    class Plain(ToyModel):
        def new_state(self, saved: bytes | None = None) -> ToyState:  # type: ignore[override]
            return super().new_state(saved)

    engine = Engine(Plain())
    assert answer_to(engine, ask("hi")).end
    engine.close()


def test_those_who_run_the_engine_are_told_what_the_model_is_about_to_do() -> None:
    told: list[tuple[tuple[str, ...], int]] = []
    model = ToyModel(eos_every=10**9, max_batch=2)
    engine = Engine(model, on_step=lambda ids, tokens: told.append((ids, tokens)), token_budget=8)
    for id in ("a", "b"):
        engine.submit(ask("hello you", id=id, sampling={**GREEDY, "max_tokens": 2}))
    drain(engine, Outputs())
    # Each is begun; ten tokens of each prompt are read by halves of the budget; then each reads its first letter.
    assert told == [
        (("a",), 0),
        (("b",), 0),
        (("a", "b"), 8),
        (("a", "b"), 8),
        (("a", "b"), 4),
        (("a", "b"), 2),
    ]
    engine.close()


def test_whoever_tries_a_request_alone_says_so() -> None:
    told: list[tuple[tuple[str, ...], int]] = []
    engine = Engine(ToyModel(fail_on=ord("#")), on_step=lambda ids, tokens: told.append((ids, tokens)))
    outputs = play(engine, ask("abc", id="a"), ask("d#", id="b"))
    assert outputs["b"].error
    assert told[2:5] == [(("a", "b"), 7), (("a",), 4), (("b",), 3)]
    engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
def test_to_go_back_a_state_is_trimmed_or_another_one_taken(can_trim: bool) -> None:
    model = ToyModel(can_trim=can_trim)
    pool = StatePool(model, 2, 1 << 20)
    answered(pool, model, LETTERS[:2])
    request = pool.acquire(LETTERS[:9], 9)
    read(model, request, 6)
    assert pool.rewind(request, 6) is request
    back = pool.rewind(request, 4)
    assert (back is request, back.model_state.length) == ((True, 4) if can_trim else (False, 2))
    assert back.checkpoints == (() if can_trim else (8,))
    pool.discard(back)
    pool.close()
    assert model.live == 0
