"""The cache that is bounded in bytes."""

from __future__ import annotations

from chatbridge.prompts import neutralise, presets
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.guard import _EDITS


def cache(max_bytes: int) -> ByteLru[str, str]:
    return ByteLru(max_bytes, lambda key, value: len(key) + len(value), largest=1 / 2)


def test_what_was_used_last_is_kept_as_far_as_there_is_room() -> None:
    made: list[str] = []

    def get(key: str) -> str:
        return kept.get(key, lambda: made.append(key) or key.upper())  # type: ignore[func-returns-value]

    kept = cache(6)
    assert [get(key) for key in "abcac"] == list("ABCAC")
    assert made == ["a", "b", "c"]
    get("d")  # b was used longest ago
    assert [get(key) for key in "acd"] == list("ACD")
    assert made == ["a", "b", "c", "d"]
    assert (len(kept), kept.used) == (3, 6)


def test_something_huge_pushes_nothing_out() -> None:
    kept = cache(8)
    kept.get("a", lambda: "A")
    assert kept.get("long", lambda: "LONG") == "LONG"
    assert kept.get("a", lambda: "made anew") == "A"
    assert kept.used == 2
    kept.clear()
    assert (len(kept), kept.used) == (0, 0)


def test_the_guard_remembers_a_bounded_number_of_bytes() -> None:
    for number in range(50):
        neutralise(f"{number} 😀" + "x" * (1 << 17), presets()["vicuna"])
    assert _EDITS.used <= _EDITS.max_bytes == 16 << 20
    assert len(_EDITS) < 40


def test_an_entry_weighs_its_texts_and_what_is_around_each() -> None:
    assert 4 * 1002 < weight(["ab", "c" * 1000]) < 4 * 1002 + 1000
    assert weight(["a"] * 10) > 1000
    assert weight([]) == 0


def test_what_is_just_as_large_as_it_may_be_is_kept() -> None:
    kept = cache(8)
    for key, count in (("ab", 1), ("abc", 1), ("cd", 2)):
        kept.get(key, key.upper)
        assert len(kept) == count


def test_what_another_thread_has_made_meanwhile_counts_once() -> None:
    kept = cache(8)

    def slow() -> str:
        kept.get("a", lambda: "X")
        return "AA"

    assert kept.get("a", slow) == "AA"
    assert (len(kept), kept.used) == (1, 3)
    assert kept.get("a", lambda: "made anew") == "AA"
