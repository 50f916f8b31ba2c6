"""What a text looks like, character by character, and where in it that stands."""

from __future__ import annotations

import pytest

from chatbridge.prompts.confusables import line_starts, looks_of, origins, readings_of, skeleton, with_line_ends


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("<n>x＜ｎ＞<\x01n\x02>", "\n\0\0x\n\0\0\n\0\0\0\0"),
        ("<x> <nn> < n> <N>", "<x> <nn> < n> <N>"),
        ("", ""),
    ],
)
def test_a_written_line_end_is_one_and_the_text_stays_as_long(text: str, seen: str) -> None:
    assert with_line_ends(text) == seen
    assert len(seen) == len(text)


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("a\v\x1cb", ["a\v\x1cb", "a\0\0b"]),
        ("´¸ÀΥυ", ["´¸ÀΥυ", "\0\0ÀΥυ", "´¸Àυυ", "\0\0Àυυ"]),
        ("Η:", ["Η:", "η:"]),
        ("AM a\x85\u2028", ["AM a\x85\u2028"]),
    ],
)
def test_each_way_to_read_a_text_is_one_of_its_readings(text: str, readings: list[str]) -> None:
    assert readings_of(text) == readings


@pytest.mark.parametrize(
    ("text", "looks", "once", "each"),
    [
        ("###--  ##a..", "###--##a..", [0, 3, 7, 9, 10], [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]),
        ("Η:: a\n\nbb", "h::a\n\nbb", [0, 1, 4, 5, 6, 7, 8], [0, 1, 2, 4, 5, 6, 7, 8]),
        ("m#\u200b#1", "rn##i", [0, 0, 1, 4], [0, 0, 1, 3, 4]),
    ],
)
def test_each_character_of_a_skeleton_comes_from_somewhere(
    text: str, looks: str, once: list[int], each: list[int]
) -> None:
    assert looks_of(text) == looks
    assert [*origins(text, once=True)] == once
    assert [*origins(text, once=False)] == each
    assert [*origins(text, 2, once=False)] == [at for at in each if at >= 2]
    assert len(skeleton(text)) == len(once)


def test_every_kind_of_line_end_begins_a_line() -> None:
    assert line_starts("a\v\x1cb\x85c\u2028d\r\ne") == [0, 2, 3, 5, 7, 9, 10]
    assert line_starts("") == [0]


PASSES_FOR = {
    "a": "aA⒜🅐ⓐＡªᵃÀᾳ🇦аΑ",
    "b": "BƀᵇᏏ",
    "o": "0øØΟоƠ",
    "s": "Sſ",
    "`": "`\u1fef",
    "f": "Fꜰ",
    "i": "1lI|İ",
    "rn": "mMⅯ",
    "fi": "ﬁ",
    "dz": "Ǆ",
    "no": "№",
    "ss": "ß",
    "krn": "㎞",
    "(i)": "⑴",
    "i/2": "½",
    ":": "：︓꞉∷",
    ".": "…",
    "#": "＃",
    "": "\u200b\u00ad\ufe0f \u2800\U000e0041",
    "ж": "жЖ",
    "щ": "щЩ",
    "ɐ": "ɐ",
    "中": "中",
}


@pytest.mark.parametrize("looks", PASSES_FOR)
def test_what_a_character_passes_for(looks: str) -> None:
    assert {char: skeleton(char) for char in PASSES_FOR[looks] if skeleton(char) != looks} == {}
