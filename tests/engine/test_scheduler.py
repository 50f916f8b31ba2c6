"""The scheduler against its promises: everybody moves on in every step, first come first served, within the budget."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chatbridge.engine.scheduler import EVEN_FROM, Scheduler, TokenSequence


def sequence(name: str, pending: int) -> TokenSequence:
    return TokenSequence(name, list(range(pending)))


def admit_all(scheduler: Scheduler[TokenSequence]) -> list[str]:
    admitted = []
    while (one := scheduler.admit()) is not None:
        admitted.append(one.id)
    return admitted


def shares(scheduler: Scheduler[TokenSequence]) -> dict[str, int]:
    return {one.id: count for one, count in scheduler.schedule()}


def step(scheduler: Scheduler[TokenSequence]) -> dict[str, int]:
    """A step as an engine does it: who has nothing pending any more gets a token."""
    told = scheduler.schedule()
    for one, count in told:
        one.consumed += count
        if not one.pending:
            one.tokens.append(0)
    return {one.id: count for one, count in told}


def test_an_answering_job_gets_its_token_whatever_long_prompts_do() -> None:
    scheduler = Scheduler[TokenSequence](4, 8)
    for one in (sequence("long", 100_000), sequence("answering", 1), sequence("longer", 200_000)):
        scheduler.add(one)
    admit_all(scheduler)
    for _ in range(50):
        assert step(scheduler) == {"long": 3, "answering": 1, "longer": 4}


def test_what_short_ones_leave_goes_to_the_long_ones() -> None:
    scheduler = Scheduler[TokenSequence](4, 100)
    for one in (sequence("a", 90), sequence("b", 5), sequence("c", 1), sequence("d", 60)):
        scheduler.add(one)
    admit_all(scheduler)
    assert shares(scheduler) == {"a": 47, "b": 5, "c": 1, "d": 47}


def test_prompts_that_are_read_on_get_equally_many_tokens() -> None:
    scheduler = Scheduler[TokenSequence](4, 1 + 3 * EVEN_FROM + 2)
    for one in (sequence("a", 50), sequence("answering", 1), sequence("b", 60), sequence("c", 70)):
        scheduler.add(one)
    admit_all(scheduler)
    assert shares(scheduler) == {"a": EVEN_FROM, "answering": 1, "b": EVEN_FROM, "c": EVEN_FROM}


def test_few_tokens_go_to_the_last_one() -> None:
    scheduler = Scheduler[TokenSequence](3, 3 * EVEN_FROM - 1)
    for name in "abc":
        scheduler.add(sequence(name, 50))
    admit_all(scheduler)
    assert shares(scheduler) == {"a": EVEN_FROM - 1, "b": EVEN_FROM, "c": EVEN_FROM}


def test_a_budget_below_the_batch_still_moves_everybody() -> None:
    scheduler = Scheduler[TokenSequence](3, 1)
    for name in "abc":
        scheduler.add(sequence(name, 10))
    admit_all(scheduler)
    assert shares(scheduler) == {"a": 1, "b": 1, "c": 1}


def test_places_and_the_queue() -> None:
    scheduler = Scheduler[TokenSequence](2, 8)
    sequences = [sequence(name, 3) for name in "abcde"]
    for one in sequences:
        scheduler.add(one)
    assert admit_all(scheduler) == ["a", "b"]
    assert [scheduler.position(one) for one in sequences] == [0, 0, 1, 2, 3]
    scheduler.remove(sequences[3])
    scheduler.remove(sequences[1])
    assert [scheduler.position(one) for one in (sequences[0], sequences[2], sequences[4])] == [0, 1, 2]
    assert admit_all(scheduler) == ["c"]
    assert scheduler.admit() is None
    assert set(shares(scheduler)) == {"a", "c"}


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="max_batch must be at least 1, not 0"):
        Scheduler[TokenSequence](0, 8)


class Machine(RuleBasedStateMachine):
    """Jobs that come, run and leave at random; `order` is what is left of the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[TokenSequence](3, 7)
        self.order: list[TokenSequence] = []
        self.came = 0

    @rule(pending=st.integers(1, 40))
    def add(self, pending: int) -> None:
        self.came += 1
        self.order.append(sequence(str(self.came), pending))
        self.scheduler.add(self.order[-1])

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = self.order.pop(data.draw(st.integers(0, len(self.order) - 1)))
        self.scheduler.remove(gone)

    @rule()
    def step(self) -> None:
        admit_all(self.scheduler)
        # First come, first served: those who run are those who came first, and no place is left free.
        assert {one.id for one in self.scheduler.running} == {one.id for one in self.order[:3]}
        pending = {one.id: one.pending for one in self.scheduler.running}
        got = step(self.scheduler)
        assert got.keys() == pending.keys()
        assert all(1 <= got[name] <= pending[name] for name in got)
        assert sum(got.values()) == min(7, sum(pending.values()))
        # Who had to wait for the rest of its prompt had no less than anybody else, but for the odd token.
        short = [got[name] for name in got if got[name] < pending[name]]
        assert not short or max(got.values()) <= min(short) + 1

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        held = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(int(one.id) for one in held) == [int(one.id) for one in self.order]
        assert len(self.scheduler.running) <= 3


def test_random_comings_and_goings(scale: int) -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40 * scale, stateful_step_count=30, deadline=None)
    )
