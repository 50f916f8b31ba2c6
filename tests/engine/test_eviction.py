"""Which conversation is guessed to go on last, by when its turns were."""

from __future__ import annotations

import pytest

from chatbridge.engine import eviction
from chatbridge.engine.eviction import Use, Uses


def turns(uses: Uses, rooms: str) -> dict[str, Use]:
    """Rooms by one letter each, in the order of their turns; the last use of each."""
    return {room: uses.use([ord(room)], ord(room)) for room in rooms}


def last_wanted(uses: Uses, last: dict[str, Use]) -> str:
    return max(last, key=lambda room: uses.remaining(last[room]))


def test_of_rooms_that_take_turns_the_one_just_served_is_wanted_last() -> None:
    uses = Uses()
    assert last_wanted(uses, turns(uses, "abcdabcdabcd")) == "d"


def test_a_room_that_fell_silent_is_wanted_last() -> None:
    uses = Uses()
    assert last_wanted(uses, turns(uses, "sasasa" + "abcabcabcabc" * 4)) == "s"


def test_people_who_ask_once_are_wanted_last_where_they_never_come_again() -> None:
    uses = Uses()
    last = turns(uses, "abcdefghijklmnopqrstuvwx")
    last |= turns(uses, "XYXYXY" + "1" + "XY")
    assert uses.remaining(last["1"]) > uses.remaining(last["X"])


def test_one_long_silence_does_not_outweigh_all_turns_of_both_talks() -> None:
    uses = Uses()
    last = turns(uses, "ababab" + "xyz" * 30 + "abab")
    assert uses.remaining(last["a"]) < 30


def test_a_conversation_is_known_by_the_last_of_the_hashes_that_it_was_known_by() -> None:
    uses = Uses()
    uses.use([1, 2], 2)
    uses.use([1], 1)
    assert uses.use([1, 2, 3], 3).interval == 2
    uses.rename(3, 2)
    assert uses.use([1, 2, 4], 4).interval is not None


def test_a_state_from_which_its_conversation_went_on_is_wanted_seldom() -> None:
    uses = Uses()
    old = uses.use([1], 1)
    new = uses.use([1, 2], 2)
    copy = uses.copy()
    uses.use([9], 9)
    assert uses.remaining(old) > uses.remaining(new)
    assert uses.remaining(copy) > 1
    uses.again(copy)
    assert copy.interval is not None


def test_what_a_conversation_goes_on_without_is_wanted_later_than_one_that_is_new() -> None:
    uses = Uses()
    new = uses.use([5], 5)
    old = uses.use([1], 1)
    uses.use([1, 2], 2)  # it goes on from another state
    assert uses.remaining(old) > uses.remaining(new)
    new, copy = uses.use([6], 6), uses.copy()
    uses.use([7], 7)
    assert uses.remaining(copy) > uses.remaining(new)


def test_the_share_of_newcomers_that_come_again_is_told_at_all_times() -> None:
    uses, guessed = Uses(), []
    for key in range(5000):
        new = uses.use([key], key)
        if key % 2:
            uses.use([key], key)
        elif key > 200:
            guessed.append(uses.remaining(new))
    assert min(guessed) > 1.9
    assert max(guessed) < 2.1, "every second one comes again"


def test_only_so_many_conversations_are_remembered() -> None:
    uses = Uses()
    for key in range(eviction.MAX_REMEMBERED + 10):
        uses.use([key], key)
    assert uses.use([5], 5).interval is None
    assert uses.use([100], 100).interval is not None


def test_just_as_many_as_there_is_room_for_are_remembered() -> None:
    uses = Uses()
    for key in range(eviction.MAX_REMEMBERED + 10):
        uses.use([key], key)
    assert uses.use([10], 10).interval is not None
    assert uses.use([9], 9).interval is None


def test_a_room_that_comes_every_fourth_turn_is_expected_after_four_and_then_at_any_time() -> None:
    uses = Uses()
    use = turns(uses, "abcd" * 9)["d"]
    assert use.interval == pytest.approx(4)
    left = []
    for key in range(8):
        left.append(uses.remaining(use))
        uses.use([key], key)
    assert left == pytest.approx([4, 3, 2, 1, 1, 1, 2, 3])


def test_each_new_distance_counts_for_less_than_those_before_it() -> None:
    uses = Uses()
    turns(uses, "aa")
    use = turns(uses, "bcdefgha")["a"]
    assert use.interval is not None
    assert 1 < use.interval < 8**0.5
