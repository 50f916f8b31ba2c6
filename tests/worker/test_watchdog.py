"""When a worker is said to hang, by what it tells and by what it doesn't."""

from __future__ import annotations

from chatbridge.worker.protocol import Pong
from chatbridge.worker.watchdog import Watchdog


def test_silence_counts_and_any_sign_of_life_ends_it() -> None:
    dog = Watchdog(6.0)
    assert [dog.tick() for _ in range(6)] == [""] * 6
    assert dog.quiet
    dog.heard()
    assert not dog.quiet
    assert [bool(dog.tick()) for _ in range(7)] == [False] * 6 + [True]


def test_one_is_quiet_that_was_silent_for_half_of_its_time() -> None:
    dog = Watchdog(6.0)
    assert dog.interval == 1
    quiet = []
    for _ in range(4):
        dog.tick()
        quiet.append(dog.quiet)
    assert quiet == [False, False, True, True]
    dog.pong(Pong())
    assert not dog.quiet, "an answer is a sign of life"
    assert Watchdog(3600.0).interval == 5, "however long it may take, it is asked now and then"


def test_a_long_prompt_may_be_read_for_longer() -> None:
    dog = Watchdog(10.0)
    dog.stepped()
    assert dog.pong(Pong(40.0, 0)) == ""
    assert dog.pong(Pong(41.0, 0)) == "one step has taken 41 s"
    assert dog.pong(Pong(200.0, 512)) == ""
    assert dog.pong(Pong(201.0, 512)) == "one step has taken 201 s"


def test_only_the_first_step_of_all_reads_the_file_from_the_disk() -> None:
    dog = Watchdog(10.0)
    assert dog.pong(Pong(399.0, 0, first=True)) == ""
    assert dog.pong(Pong(401.0, 0, first=True)) == "one step has taken 401 s"
    dog.stepped()
    dog.heard()
    assert dog.pong(Pong(41.0, 0, first=True)) == "one step has taken 41 s", "another worker read it before"


def test_a_worker_that_died_in_its_first_step_leaves_the_next_as_much_time() -> None:
    dog = Watchdog(10.0)
    assert dog.pong(Pong(100.0, 0, first=True)) == ""
    dog.heard()
    assert dog.pong(Pong(100.0, 0, first=True)) == ""
    assert dog.pong(Pong(1.0, 0, first=False)) == ""
    assert dog.pong(Pong(100.0, 0, first=True)) != "", "a step had ended meanwhile"


def test_texts_that_are_tokenised_have_the_time_of_a_step() -> None:
    dog = Watchdog(10.0)
    assert dog.pong(Pong(0.0, 0, tokenizing_seconds=40.0)) == ""
    assert dog.pong(Pong(0.0, 0, tokenizing_seconds=41.0)) == "it has tokenised one text for 41 s"


def test_a_new_worker_is_not_blamed_for_the_silence_of_the_old_one() -> None:
    dog = Watchdog(6.0)
    for _ in range(6):
        dog.tick()
    dog.heard()
    assert not dog.quiet
    assert dog.tick() == ""
