"""Which channels may hold messages that nobody told of, and from where on."""

from __future__ import annotations

from chatbridge_discord.backfill import FIRST_START, Backfill, id_at

NOW = 1_800_000_000.0
HOUR = 3600.0


def gaps(hours: float = 12.0, **marks: float) -> Backfill:
    backfill = Backfill({name: id_at(NOW - before * HOUR) for name, before in marks.items()}, hours, lambda: NOW)
    backfill.begin()
    return backfill


def test_a_gap_begins_after_what_was_read_last() -> None:
    backfill = gaps(a=2, b=3)
    assert backfill.after("a") == id_at(NOW - 2 * HOUR)
    assert backfill.after("b") == id_at(NOW - 3 * HOUR)


def test_it_begins_in_a_new_channel_after_what_was_read_last_anywhere() -> None:
    assert gaps(a=2, b=3).after("new") == id_at(NOW - 2 * HOUR)
    assert gaps(**{FIRST_START: 1}).after("new") == id_at(NOW - HOUR)


def test_what_is_older_than_the_limit_is_left_alone() -> None:
    assert gaps(1, a=2).after("a") == id_at(NOW - HOUR)
    assert gaps(0, a=2).after("a") is None


def test_a_gap_is_there_until_it_is_closed_and_again_with_the_next_session() -> None:
    backfill = gaps(a=2)
    backfill.close("a")
    assert backfill.after("a") is None
    backfill.seen("a", id_at(NOW))
    assert backfill.after("a") is None
    backfill.begin()
    assert backfill.after("a") == id_at(NOW)


def test_an_open_gap_stays_where_it_is_when_a_session_begins_before_it_is_closed() -> None:
    backfill = gaps(a=2, b=3)
    backfill.close("a")
    backfill.seen("a", id_at(NOW))
    backfill.begin()
    assert backfill.after("a") == id_at(NOW)
    assert backfill.after("b") == id_at(NOW - 3 * HOUR)
    assert backfill.after("new") == id_at(NOW - 2 * HOUR)
    backfill.close_all()
    backfill.begin()
    assert backfill.after("new") == id_at(NOW)


def test_what_is_read_meanwhile_does_not_move_the_gap() -> None:
    backfill = gaps(a=2)
    backfill.seen("a", id_at(NOW))
    backfill.seen("b", id_at(NOW))
    assert (backfill.was_read("a", id_at(NOW)), backfill.was_read("a", id_at(NOW + 1))) == (True, False)
    assert backfill.after("a") == id_at(NOW - 2 * HOUR)
    assert backfill.after("b") == id_at(NOW - 2 * HOUR)


def test_what_could_not_be_stored_opens_a_gap_after_the_last_that_was() -> None:
    backfill = gaps(a=2)
    backfill.close("a")
    backfill.seen("a", id_at(NOW - HOUR))
    backfill.reopen("a")
    assert backfill.after("a") == id_at(NOW - HOUR)


def test_private_chats_are_known_by_their_marks() -> None:
    assert gaps(**{"123": 1, "@456": 2}).private == ["@456"]
