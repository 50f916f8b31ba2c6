"""Whatever people call themselves, a list that shows it has a line for each, as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import CommandContext
from chatbridge.bots.command import MAX_ECHO, in_a_list
from chatbridge.bots.commands import _person, _short
from chatbridge.texts import say
from tests.operations.test_printable import HOSTILE, steers

NAMES = st.text(st.one_of(st.characters(), st.sampled_from(HOSTILE + "`*_[]()<>@ \n\t")))


def context(language: str = "en") -> CommandContext:
    nobody: Any = SimpleNamespace()
    return CommandContext(nobody, nobody, language)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("key", ["pair_listed", "pair_waiting", "usage_of"])
@given(name=NAMES, user=NAMES)
def test_a_line_of_a_list_shows_a_name_and_nothing_else(language: str, key: str, name: str, user: str) -> None:
    about: Any = SimpleNamespace(name=name, user=user, code="ABCD")
    line = _person(context(language), key, about) if key != "usage_of" else _usage(language, name, user)
    assert not steers(line)
    assert len(line.splitlines()) == 1
    plain = {"name": "Ann", "user": "a", "code": "ABCD", "tokens": 1, "answers": 1}
    assert line.count("`") == say(language, key, **plain).count("`"), "no code span is left, and none is begun"
    assert "``" not in line


def _usage(language: str, name: str, user: str) -> str:
    return context(language).say("usage_of", name=in_a_list(name), user=in_a_list(user), tokens=1, answers=1)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("pair_done", ("name",)),
        ("unpaired", ("user",)),
        ("no_such_person", ("user",)),
        ("no_such_code", ("code",)),
        ("branch_taken", ("id",)),
        ("set_done", ("key", "value")),
        ("unknown_command", ("name",)),
    ],
)
@given(name=NAMES)
def test_a_sentence_that_repeats_what_somebody_wrote_is_one_line(key: str, values: tuple[str, ...], name: str) -> None:
    said = context().say(key, **dict.fromkeys(values, name), hint="")
    assert not steers(said)
    assert "\n" not in said


@given(NAMES)
def test_a_branch_is_listed_in_one_line(text: str) -> None:
    assert not steers(_short(text))
    assert len(_short(text)) <= 60


@given(st.text(st.characters(categories=["L", "N", "S"], exclude_characters="`"), min_size=1, max_size=64))
def test_honest_names_stay(name: str) -> None:
    assert in_a_list(name) == name


def test_how_much_is_left_out_is_said() -> None:
    assert context().say("undone", text="x" * (MAX_ECHO + 7)).endswith("[…, 7 more characters]")
    assert context("zh").say("undone", text="x" * (MAX_ECHO + 7)).endswith("[…，另有 7 个字符]")
