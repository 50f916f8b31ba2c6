"""Which channels may hold messages that nobody told of, and from where on."""

from __future__ import annotations

from chatbridge_discord.missed import FIRST_START, Missed, id_at

NOW = 1_800_000_000.0
HOUR = 3600.0


def gaps(hours: float = 12.0, **marks: float) -> Missed:
    missed = Missed({name: id_at(NOW - before * HOUR) for name, before in marks.items()}, hours, lambda: NOW)
    missed.begin()
    return missed


def test_a_gap_begins_after_what_was_read_last() -> None:
    missed = gaps(a=2, b=3)
    assert missed.after("a") == id_at(NOW - 2 * HOUR)
    assert missed.after("b") == id_at(NOW - 3 * HOUR)


def test_it_begins_in_a_new_channel_after_what_was_read_last_anywhere() -> None:
    assert gaps(a=2, b=3).after("new") == id_at(NOW - 2 * HOUR)
    assert gaps(**{FIRST_START: 1}).after("new") == id_at(NOW - HOUR)


def test_what_is_older_than_the_limit_is_left_alone() -> None:
    assert gaps(1, a=2).after("a") == id_at(NOW - HOUR)
    assert gaps(0, a=2).after("a") is None


def test_a_gap_is_there_until_it_is_closed_and_again_with_the_next_session() -> None:
    missed = gaps(a=2)
    missed.whole("a")
    assert missed.after("a") is None
    missed.seen("a", id_at(NOW))
    assert missed.after("a") is None
    missed.begin()
    assert missed.after("a") == id_at(NOW)


def test_an_open_gap_stays_where_it_is_when_a_session_begins_before_it_is_closed() -> None:
    missed = gaps(a=2, b=3)
    missed.whole("a")
    missed.seen("a", id_at(NOW))
    missed.begin()
    assert missed.after("a") == id_at(NOW)
    assert missed.after("b") == id_at(NOW - 3 * HOUR)
    assert missed.after("new") == id_at(NOW - 2 * HOUR)
    missed.all_whole()
    missed.begin()
    assert missed.after("new") == id_at(NOW)


def test_what_is_read_meanwhile_does_not_move_the_gap() -> None:
    missed = gaps(a=2)
    missed.seen("a", id_at(NOW))
    missed.seen("b", id_at(NOW))
    assert (missed.was_read("a", id_at(NOW)), missed.was_read("a", id_at(NOW + 1))) == (True, False)
    assert missed.after("a") == id_at(NOW - 2 * HOUR)
    assert missed.after("b") == id_at(NOW - 2 * HOUR)


def test_what_could_not_be_stored_opens_a_gap_after_the_last_that_was() -> None:
    missed = gaps(a=2)
    missed.whole("a")
    missed.seen("a", id_at(NOW - HOUR))
    missed.open("a")
    assert missed.after("a") == id_at(NOW - HOUR)


def test_private_chats_are_known_by_their_marks() -> None:
    assert gaps(**{"123": 1, "@456": 2}).private == ["@456"]
