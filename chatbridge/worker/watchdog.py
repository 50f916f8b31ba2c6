"""Tells from a worker's signs of life whether it hangs. Knows messages and time; ends nobody."""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.config.bounds import HANG_TIMEOUT
from chatbridge.worker.protocol import Pong

_STEP_SHARES, _TOKENS_PER_SHARE, _FIRST_STEP = 4, 32, 10
LOAD_SHARES = 20
"""How many times as long a loading model may be silent."""


@dataclass(slots=True)
class Watchdog:
    """`timeout`: seconds without a sign of life after which a worker hangs.

    A step gets four times as many, and as many again for every 32 tokens that it reads: 512 tokens get 20 times as
    many. The first step of a model gets ten times that, since its file may be read from the disk only then: not that
    of a worker that is started again, whose file was read before.
    """

    timeout: float = HANG_TIMEOUT
    _silent: float = 0.0
    _stepped: bool = False

    @property
    def interval(self) -> float:
        """Seconds from one `tick` to the next."""
        return min(5.0, self.timeout / 6)

    @property
    def quiet(self) -> bool:
        """Whether nothing has been heard for so long that something is wrong."""
        return self._silent >= self.timeout / 2

    def heard(self) -> None:
        """Something came from the worker, or another one has taken its place."""
        self._silent = 0.0

    def stepped(self) -> None:
        """A step has ended, in this worker or in one before it."""
        self._stepped = True

    def tick(self) -> str:
        """Another interval has passed. Why the worker hangs; empty where it doesn't.

        Intervals are counted rather than seconds: after a machine has slept, nobody hangs yet.
        """
        self._silent += self.interval
        return f"it has given no sign of life for {self.timeout:g} s" if self._silent > self.timeout else ""

    def pong(self, pong: Pong) -> str:
        """Why the worker hangs, by what it says of itself; empty where it doesn't."""
        self.heard()
        self._stepped = self._stepped or not pong.first
        allowed = (
            self.timeout * (_STEP_SHARES + pong.tokens / _TOKENS_PER_SHARE) * (1 if self._stepped else _FIRST_STEP)
        )
        if pong.step_seconds > allowed:
            return f"one step has taken {pong.step_seconds:.0f} s"
        if pong.tokenizing_seconds > self.timeout * _STEP_SHARES:
            return f"it has tokenised one text for {pong.tokenizing_seconds:.0f} s"
        return ""
