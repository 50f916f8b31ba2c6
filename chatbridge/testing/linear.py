"""Texts that make a careless tokenizer or renderer slow, and how much longer a longer one takes. Knows neither.

A time is the processor's, and the least of several tries unless the first shows linear work, so that a busy machine
changes it little; quadratic work shows as four times the time for each doubling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import count

LONG_RUNS: Mapping[str, str] = {
    "letter": "a",
    "capital": "A",
    "digit": "7",
    "blank": " ",
    "line end": "\n",
    "blank line": " \n",
    "emoji": "😀",
    "combining mark": "\u0301",
    "combining marks out of order": "\u0301\u0327",
    "hanzi": "汉",
    "unknown": "\U00013000",
    "control mark": "<|",
    "punctuation": "'",
    "words": "ab cd ",
    "mixed": "aA7 汉😀e\u0301<|im_start|>\n",
}
"""What a text repeats, by name."""

_NUMBERS = count()
_SHORT, _DOUBLINGS = 16 * 1024, 2
_FLOOR = 0.002
"""Seconds below which a time is noise."""

_TRIES = 2
"""The least of so many counts: other programs take caches away, also from the processor time."""

_LINEAR = 2.2
"""Growth that a first, short count need not be asked for again: chance makes long texts seem slower, not faster."""


def growth(work: Callable[[str], object], piece: str) -> float:
    """How many times as long `work` takes for each doubling of a text that repeats `piece`, from 16 to 64 KiB.

    2 where the work is linear, 4 where it is quadratic. Bytes of UTF-8 are counted.
    """
    times = _SHORT // len(piece.encode())
    short, long = piece * times, piece * (times << _DOUBLINGS)

    def grown(runs: int) -> float:
        return float((_seconds(work, long, runs) / _seconds(work, short, 2)) ** (1 / _DOUBLINGS))

    if (first := grown(1)) <= _LINEAR:
        return first
    return min(grown(2) for _ in range(_TRIES))


def _seconds(work: Callable[[str], object], text: str, runs: int) -> float:
    def once() -> float:
        fresh = f"{text}{next(_NUMBERS)}"  # not one that is remembered
        began = time.process_time()
        work(fresh)
        return time.process_time() - began

    return max(_FLOOR, min(once() for _ in range(runs)))
