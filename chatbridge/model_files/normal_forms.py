"""Unicode's normal forms of any text in a time that grows with it. Knows characters; knows no tokenizer.

Python sorts the marks behind a character by insertion: 80,000 of them, which anybody can send, take ten seconds.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

_MANY_MARKS = re.compile(r"[^\w\s\x00-\x7f]{64}")
"""Marks are neither letters nor blanks; of fewer in a row Python's own way takes no time."""


def nfd(text: str) -> str:
    """The text in form NFD: characters taken apart, their marks in order."""
    if _MANY_MARKS.search(text) is None:
        return unicodedata.normalize("NFD", text)
    characters = "".join(unicodedata.normalize("NFD", character) for character in text)
    runs = groupby(characters, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(run, key=unicodedata.combining) if marks else run) for marks, run in runs)


def nfc(text: str) -> str:
    """The text in form NFC: taken apart, and put together where there is a character for it."""
    return unicodedata.normalize("NFC", text if _MANY_MARKS.search(text) is None else nfd(text))
