"""A channel's `pattern` means what `re` means, and ends in time whatever people write."""

from __future__ import annotations

import logging
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatbridge import ChannelSettings
from chatbridge.config.pattern import MAX_TEXT, Pattern

SLOW = r"(a|aa)+$"
HARMLESS = [r"(?i)\bbot\b", r"^help", "机器人|助手", r"[[a]\d+", r"\w+@\w+", r"(?P<x>a)(?P=x)", r"a{2,3}?", ".", ""]


@given(st.sampled_from(HARMLESS), st.lists(st.sampled_from([*"aA1@[ \n机", "bot", "help"]), max_size=20).map("".join))
@pytest.mark.filterwarnings("ignore:Possible nested set")
def test_a_pattern_means_what_re_means(pattern: str, text: str) -> None:
    assert Pattern(pattern).found_in(text) == (re.search(pattern, text) is not None)


def test_a_slow_search_is_given_up_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    slow, began = Pattern(SLOW), time.process_time()
    with caplog.at_level(logging.WARNING):
        assert [slow.found_in("a" * 400 + "!") for _ in range(20)] == [False] * 20
    assert time.process_time() - began < 20
    assert len(caplog.records) == 1
    assert slow.found_in("aaa")


def test_the_end_of_a_very_long_message_is_not_searched() -> None:
    assert Pattern("x").found_in("a" * (MAX_TEXT - 1) + "x")
    assert not Pattern("x").found_in("a" * MAX_TEXT + "x")


@pytest.mark.parametrize("pattern", ["(", "(?<=a+)b(", "*"])
def test_what_is_no_pattern_is_a_mistake(pattern: str) -> None:
    with pytest.raises(ValidationError, match="no regular expression"):
        ChannelSettings(pattern=pattern)


def test_a_pattern_that_is_slow_for_simple_messages_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="repetition"):
        ChannelSettings(pattern=r"(\w|\w\w)+$")
