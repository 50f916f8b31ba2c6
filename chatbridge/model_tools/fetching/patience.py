"""How failures that may pass are borne: so many in a row, with a pause that grows. Knows no server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from chatbridge.errors import ModelLoadError

TRIES = 5
"""How often in a row something may fail, unless somebody says otherwise."""

LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait, unless somebody says otherwise; for longer nobody sits there."""

_LONGEST_PAUSE = 30.0


@dataclass(slots=True)
class Patience:
    """`tries`: how many failures in a row; `longest`: seconds that a server may ask to wait.

    `wait`: waits for so many seconds; `tell`: is told in words of each try.
    """

    tries: int = TRIES
    longest: float = LONGEST_WAIT
    wait: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = lambda words: None

    def bear(self, what: str, failures: int, asked: float | None = None) -> None:
        """Wait for another try. `what` has failed so many times in a row; `asked`: seconds that a server asks to wait.

        Raises ModelLoadError where there have been enough.
        """
        later = "the same command goes on where it was"
        seconds = min(2.0 ** (failures - 1), _LONGEST_PAUSE) if asked is None else asked
        if asked is not None and seconds > self.longest:
            raise ModelLoadError(f"{what}, and asks to wait {seconds:,.0f} seconds; after that {later}")
        if failures >= self.tries:
            raise ModelLoadError(f"{what}{f', {failures} times in a row' if failures > 1 else ''}; {later}")
        self.tell(f"{what}; trying again in {seconds:g} s")
        self.wait(seconds)
