"""Doing what an error message recommends mends the error."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.config.scalars import plain_value

from .bad_files import BAD
from .conftest import Diagnostics

FIELDS = {
    "history": "defaults: {history: VALUE}",
    "system": "defaults: {system: VALUE}",
    "a choice": "defaults: {language: VALUE}",
    "a number": "defaults: {sampling: {temperature: VALUE}}",
    "a whole number": "defaults: {sampling: {top_k: VALUE}}",
    "stop": "defaults: {sampling: {stop: [VALUE]}}",
    "an id": "bots: {b: {frontend: open, allow: {users: [VALUE]}}}",
    "a union": "models: {m: {backend: engine, path: x, threads: VALUE}}",
    "a secret": "bots: {b: {frontend: rooms, token: VALUE}}",
    "nested": "models: {m: {backend: engine, path: x, login: {user: VALUE, password: x}}}",
    "headers": "models: {m: {backend: engine, path: x, headers: {a: VALUE}}}",
    "a path": "store: VALUE",
}
WORDS = [
    *(
        "on",
        "Yes",
        "off",
        "NO",
        "true",
        "~",
        "0123",
        "-007",
        "00",
        "09",
        "1_000",
        "0_8",
        "1_0.5",
        "1_0e2",
        "1_",
        "1__0",
    ),
    *("12:30", "1:2:3.5", ".inf", "-.INF", ".nan", "1e999", "0o17", "0b1_0", "0b11", "0x1F", "+5", "1e2", ".5", "5."),
]


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_recommended_in_place_of_an_ambiguous_word_is_accepted(diagnostics: Diagnostics, field: str) -> None:
    followed = 0
    for diagnostic in [one for word in WORDS for one in diagnostics(FIELDS[field].replace("VALUE", word))]:
        if recommended := re.search(r"; write (.*)$", diagnostic):
            for instead in recommended[1].split(" or "):
                assert diagnostics(FIELDS[field].replace("VALUE", instead)) == [], (diagnostic, instead)
                followed += 1
    assert followed >= (0 if field == "a choice" else 4)


def test_every_hint_of_the_bad_files_leads_further(diagnostics: Diagnostics) -> None:
    """Whoever follows a "did you mean" does not hear of the same mistake again."""
    followed = 0
    for text, _ in BAD.values():
        for diagnostic in diagnostics(text):
            match = re.match(r"(\d+):(\d+): .*; did you mean '(.*?)'\?$", diagnostic)
            lines = text.splitlines()
            line, column = (int(match[1]) - 1, int(match[2]) - 1) if match else (0, 0)
            there = re.match(r"['\"]?([\w-]+)", lines[line][column:])
            if match is None or there is None:
                continue
            lines[line] = lines[line][:column] + lines[line][column:].replace(there[1], match[3], 1)
            again = diagnostics("\n".join(lines))
            assert not [other for other in again if other.startswith(f"{match[1]}:{match[2]}: ")], (diagnostic, again)
            followed += 1
    assert followed > 20


@given(st.text(max_size=8) | st.from_regex(r"[-+]?[0-9_.:eExob]{0,8}", fullmatch=True))
def test_plain_words_never_fail_and_readings_are_not_ambiguous(text: str) -> None:
    _, ambiguous = plain_value(text)
    if ambiguous is not None:
        written = ambiguous.advice(ambiguous.readings).rpartition("; write ")[2].split(" or ")
        for reading, instead in zip(ambiguous.readings, written, strict=True):
            if not isinstance(reading, str):
                assert plain_value(instead) == (reading, None)
