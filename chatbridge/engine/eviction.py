"""Which kept state goes first when there is no room for all: the one that will not be wanted for the longest time.

When a conversation goes on again is guessed by how far apart its last turns were. Time is counted in turns of all
conversations. Knows hashes of what conversations begin with; knows no state and no token.

The least recently used state, which is what most caches let go first, is the wrong one where rooms take turns: of 64
with room for 32, each is dropped just before it is wanted. By what is known of the past, the one that has just been
served is wanted last. What doesn't come back in its time loses its place to what does, so rooms that fall silent go as
they would by least recent use. `benchmarks/eviction.py` compares this with other policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_REMEMBERED = 4096
"""Conversations whose turns are remembered, also those whose states have gone."""

_NEW = 0.3
"""How much the last distance between two turns counts; all before it count for the rest."""

_COUNTED = 1000
"""Newcomers by which the share of those who come again is told."""


_SELDOM = 4.0
"""How much longer a state is not wanted to which only an answer that is given anew, or a branch, comes back."""


@dataclass(slots=True, eq=False)
class Use:
    """When a conversation had its last turn, and how far apart its turns are; None until it had two.

    `seldom`: the conversation has gone on from another state since.
    """

    last: int
    interval: float | None = None
    seldom: bool = False


@dataclass(slots=True)
class Uses:
    """The turns of all conversations. `now`: how many there were; a conversation is known by a hash of its tokens."""

    now: int = 0
    _uses: dict[int, Use] = field(default_factory=dict)
    _newcomers: float = 1.0
    _returned: float = 1.0

    def use(self, hashes: Sequence[int], key: int) -> Use:
        """A conversation has a turn. `hashes`: of all that it may have been known by before; `key`: by which it is now.

        The last of `hashes` that is known counts.
        """
        self.now += 1
        known = next((one for one in reversed(hashes) if one in self._uses), None)
        use = Use(self.now)
        if known is not None:
            before = self._uses.pop(known)
            use.interval = self._grown(before)
            before.interval, before.seldom = None, True
        else:
            self._newcomers += 1
            if self._newcomers > _COUNTED:
                self._newcomers, self._returned = self._newcomers / 2, self._returned / 2
        self._uses[key] = use
        if len(self._uses) > MAX_REMEMBERED:
            del self._uses[next(iter(self._uses))]
        return use

    def copy(self) -> Use:
        """For a copy of a state that a conversation may come back to, and goes on without."""
        return Use(self.now, seldom=True)

    def again(self, use: Use) -> None:
        """Another conversation began with that one's state, which stays."""
        use.interval, use.last = self._grown(use), self.now

    def rename(self, old: int, new: int) -> None:
        """A conversation goes on from an earlier point, which is what it is known by from now on."""
        if (use := self._uses.pop(old, None)) is not None:
            self._uses[new] = use

    def remaining(self, use: Use) -> float:
        """For how many turns of all others that conversation will not be wanted, as far as can be guessed."""
        age = self.now - use.last
        if use.interval is None:
            # As long again as it has been silent; longer where most newcomers never come again.
            silent = max(age, 1) * self._newcomers / min(self._returned, self._newcomers)
            return silent * _SELDOM if use.seldom else silent
        # What is late may come at any time; what is very late has probably ended, the more so the later it is.
        return use.interval - age if age < use.interval else max(age - use.interval, 1)

    def _grown(self, use: Use) -> float:
        """Its interval with the distance from its last turn until now."""
        distance = float(max(1, self.now - use.last))
        if use.interval is None:
            self._returned += 1
            return distance
        # The geometric mean: one long silence between two talks must not outweigh all turns of both.
        return float(use.interval ** (1 - _NEW) * distance**_NEW)
