"""What fails again and again is tried more and more seldom, and at once again when it has gone well."""

from __future__ import annotations

from chatbridge.worker.backoff import MOST, Backoff


def test_waits_double_up_to_a_limit_and_good_news_takes_them_back() -> None:
    now = 0.0
    backoff = Backoff(clock=lambda: now, chance=lambda: 0.0)
    waits = []
    for _ in range(10):
        backoff.failed("it died")
        waits.append(backoff.remaining())
        now += backoff.remaining()
        assert backoff.remaining() == 0
    assert waits == [0, 1, 2, 4, 8, 16, 32, MOST, MOST, MOST]
    for _ in range(9):
        backoff.succeeded()
    backoff.failed("it died")
    assert backoff.remaining() == 1
    for _ in range(3):  # more that goes well than had failed
        backoff.succeeded()
    now += MOST
    backoff.failed("it died")
    assert backoff.remaining() == 0, "the first failure is free again"
    assert Backoff(free=0, clock=lambda: 0.0, failures=5).remaining() == 0


def test_chance_makes_waits_shorter_never_longer() -> None:
    backoff = Backoff(free=0, clock=lambda: 0.0, chance=lambda: 1.0)
    backoff.failed("it died")
    assert backoff.remaining() == 0.8


def test_however_often_something_fails_the_wait_is_the_longest() -> None:
    backoff = Backoff(clock=lambda: 0.0, chance=lambda: 0.0, failures=5000)
    backoff.failed("it died")
    assert backoff.remaining() == MOST
