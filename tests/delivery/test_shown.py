"""Every letter of an answer is read on every service, in the formats that were meant, whole and in parts.

With CHATBRIDGE_MARKDOWN_SUITES set, the inputs of other projects' test suites are read as well; CONTRIBUTING.md tells
how they are fetched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from chatbridge import as_entities, as_markdown, parse_markdown, utf16_length
from chatbridge.delivery.splitting import Fragment, split

from . import nasty
from .readers import Read, expected, illegal, letters, on_discord, on_telegram

MAX_ENTITIES = 100


def read(fragments: list[Fragment], service: str) -> Read:
    return [pair for one in fragments for pair in (on_telegram(one) if service == "telegram" else on_discord(one.text))]


def fragments(source: str, service: str, length: int) -> list[Fragment]:
    if service == "telegram":
        return split(as_entities(source), length, utf16_length, max_entities=MAX_ENTITIES)
    return split(as_markdown(source), length)


def check(source: str, length: int) -> None:
    tree = parse_markdown(source)
    for service in ("telegram", "discord"):
        meant = expected(tree, service)
        if not meant:
            continue  # marks that format nothing are shown as they are
        shown = fragments(source, service, length)
        found = read(shown, service)
        assert letters(found) == letters(meant), service
        for (char, formats), (_, wanted) in zip(found, meant, strict=True):
            more = formats - wanted
            assert not more, f"{service}: {char!r} is {sorted(more)}"
            if service == "telegram":
                assert wanted - formats <= {"mark"}, f"{char!r} should be {sorted(wanted)}, not {sorted(formats)}"
        if service == "telegram":
            assert [fault for one in shown for fault in illegal(one)] == []
            assert all(len(one.entities) <= MAX_ENTITIES for one in shown)


@settings(deadline=None)
@given(nasty.sources)
@example("***bold and italic*** **a *b*** *a **b***")
@example("foo***bar***baz")
@example("> **two\n> lines**\n>\n> ```py\n> x\n> ```")
@example("a *b \\* c* ~~`~~`~~ **`**`**")
@example("[a](https://x.org)(b) \\[a](b)")
@example("- word\n- > | <br> | word |\n  > |:--|--:|\n  > | word | word |")
@example("- # -# not small\n- > q\n\n-# >>> ||a|| b || c")
@example("[![a](b)](https://x.org) [`a`](https://x.org) # [x](y) std::heart:x")
def test_what_is_meant_is_read(source: str) -> None:
    check(source, 4000)


@settings(deadline=None)
@example("> [a]: https://x.org", "#word\n---")
@given(nasty.sources, nasty.sources)
def test_and_read_in_parts_as_well(one: str, other: str) -> None:
    check("\n\n".join([one, other] * 4), 150)


# --- the suites of other projects --------------------------------------------------------------------------------

SUITES = os.environ.get("CHATBRIDGE_MARKDOWN_SUITES")


@cache
def suites() -> tuple[str, ...]:
    """The inputs, a list of texts in each JSON file of the folder."""
    assert SUITES is not None
    files = sorted(Path(SUITES).glob("*.json"))
    return tuple(text for file in files for text in json.loads(file.read_text(encoding="utf-8")))


def faults(length: int, times: int) -> Iterator[str]:
    for text in suites():
        try:
            check("\n\n".join([text] * times), length)
        except Exception as error:
            yield f"{text!r}: {error!r}"


@pytest.mark.skipif(SUITES is None, reason="CHATBRIDGE_MARKDOWN_SUITES names no folder of other projects' inputs")
@pytest.mark.parametrize(("length", "times"), [(4000, 1), (300, 3)], ids=["whole", "in parts"])
def test_the_inputs_of_other_projects_are_read_as_they_are_meant(length: int, times: int) -> None:
    assert suites()
    assert list(faults(length, times)) == []
