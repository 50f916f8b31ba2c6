"""Which steps tell how fast a model reads, and how much is read in the next one by that."""

from __future__ import annotations

import pytest

from chatbridge.engine.engine import Engine
from chatbridge.engine.prefill import MIN_TOKENS, PrefillLimit
from chatbridge.prompts.segments import Special
from chatbridge.testing.toy import ToyModel

from .driving import ask, play


@pytest.mark.parametrize(("tokens", "told"), [(MIN_TOKENS, 0), (MIN_TOKENS + 1, 1)])
def test_a_step_tells_something_if_it_reads_enough_besides_the_tokens_that_are_answered(tokens: int, told: int) -> None:
    limit = PrefillLimit()
    engine = Engine(ToyModel(), prefill_limit=limit)
    play(engine, ask("x" * (tokens - 1), sampling={"max_tokens": 5}))
    assert len(limit._seconds_per_token) == told
    engine.close()


def test_what_is_read_as_a_whole_tells_nothing_of_what_is_read_in_parts() -> None:
    limit = PrefillLimit()
    engine = Engine(ToyModel(bidirectional=True), prefill_limit=limit)
    play(engine, ask("x" * 90, Special("<sop>"), sampling={"max_tokens": 5}))
    assert len(limit._seconds_per_token) == 0
    engine.close()


def test_the_faster_of_the_last_two_steps_counts() -> None:
    now = 0.0
    limit = PrefillLimit(1.0, clock=lambda: now)
    found = []
    for seconds, tokens in ((1.0, 100), (1.0, 50), (1.0, 40), (0.0, MIN_TOKENS - 1)):
        with limit.measure(tokens):
            now += seconds
        found.append(limit.max_tokens())
    assert found == [100, 100, 50, 50]


def test_a_step_that_takes_no_time_that_can_be_seen_tells_nothing() -> None:
    limit = PrefillLimit(1.0, clock=lambda: 5.0)
    with limit.measure(100):
        pass
    assert limit.max_tokens() == MIN_TOKENS
