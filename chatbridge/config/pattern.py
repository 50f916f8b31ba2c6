"""A regular expression of bots.yaml: means what Python's `re` means by it, and ends in time. Knows no message.

An expression such as `(\\w+\\s?)*bot` takes twice as long for each letter more, and a stranger chooses the letters.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache

log = logging.getLogger(__name__)

SECONDS = 0.025
"""How long a search may take; the event loop stands still meanwhile."""
SECONDS_ONCE_SLOW = 0.005
"""The same once one took too long: more such messages may come."""
MAX_TEXT = 8192
"""Characters of a message that are searched."""
PROBES = tuple(piece * 48 + end for piece in ("a", "A b ", "1", "a ", "?", "汉", " ") for end in ("!", "x", "\n"))


class Pattern:
    """A regular expression. Raises: ValueError for what is none."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.slow = False
        import regex  # not with the file: `--help` reads settings, too

        try:
            re.compile(pattern)
            self._regex = regex.compile(pattern, regex.VERSION0)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def found_in(self, text: str) -> bool:
        """Whether it is found in the first `MAX_TEXT` characters; False where that can't be told in time."""
        try:
            limit = SECONDS_ONCE_SLOW if self.slow else SECONDS
            return self._regex.search(text[:MAX_TEXT], timeout=limit) is not None
        except TimeoutError:
            if not self.slow:
                log.warning(
                    "the pattern %r takes too long for some messages, which count as not having it; write it without "
                    "a repetition inside of a repetition",
                    self.pattern,
                )
            self.slow = True
            return False

    def too_slow_for(self) -> str | None:
        """A text for which it takes too long, if one of a few that are tried is."""
        for probe in PROBES:
            try:
                self._regex.search(probe, timeout=SECONDS)
            except TimeoutError:
                return probe
        return None


@lru_cache(maxsize=256)
def pattern_of(pattern: str) -> Pattern:
    """The same `Pattern` for the same words, so that a slow one is told of once."""
    return Pattern(pattern)
