"""What is sent to a worker and when, so that one that dies takes along nothing but what it died of.

Whatever a worker may have died of is suspect. Everything else goes first; then each suspect is tried by itself, until
it has come past the point where the worker died. Who kills a worker alone, twice, was it. What goes on meanwhile is
given up without an end, and taken up again where it was.

Decides and remembers; knows no process, no event loop and no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

INNOCENT_SECONDS = 20.0
"""How long what had no part in a worker's death goes first, if it takes so long."""

ALONE_TOKENS = 256
"""How many tokens a request gets by itself that was running at two deaths, neither of which it caused alone."""

MAX_ALONE = 2
"""Deaths by itself, without a token in between, after which a request has failed."""

MAX_DEATHS = 16
"""Deaths that a request may have had part in, after which it has failed, whatever came of it in between."""


@dataclass(slots=True, eq=False)
class Job:
    """A request, or a text to be tokenised, on its way. `tokens`: ids that have come of it so far.

    `suspect`: it may have killed a worker, and runs by itself until it has `cleared_at` tokens. `sent`: a worker has
    it; `pausing`: that worker was told to give it up. `waiting`: its worker has tokenised it, and not begun with it.
    """

    tokens: list[int] = field(default_factory=list)
    suspect: bool = False
    cleared_at: int = 0
    sent: bool = False
    pausing: bool = False
    waiting: bool = False
    deaths: int = 0
    alone: int = 0
    together: int = 0
    _died_at: int = -1

    def died(self, *, alone: bool) -> bool:
        """Take part in a death. Whether it has failed by that."""
        count = len(self.tokens)
        self.suspect = True
        self.deaths += 1
        if alone:
            self.alone = self.alone + 1 if count == self._died_at else 1
        else:
            self.together += 1
        self._died_at = count
        self.cleared_at = count + (1 if self.together < 2 else ALONE_TOKENS)
        return self.alone >= MAX_ALONE or self.deaths >= MAX_DEATHS


@dataclass(slots=True)
class Actions:
    """What is to be done now, in this order. `later`: seconds after which to ask again, if nothing happens before."""

    pause: list[Job] = field(default_factory=list)
    send: list[Job] = field(default_factory=list)
    later: float | None = None


class Recovery:
    """All jobs of one model, in the order in which they came."""

    def __init__(self) -> None:
        self._jobs: dict[Job, None] = {}
        self._on_trial: Job | None = None
        self._innocents_until = -math.inf

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs))

    @property
    def suspects(self) -> int:
        """How many jobs have still to show that they are harmless."""
        return sum(job.suspect for job in self._jobs)

    @property
    def sent(self) -> bool:
        """Whether a worker has anything to do."""
        return any(job.sent for job in self._jobs)

    def add(self, job: Job) -> None:
        """Take a new job in."""
        self._jobs[job] = None

    def remove(self, job: Job) -> None:
        """Forget a job that has ended, however it did."""
        self._jobs.pop(job, None)
        if self._on_trial is job:
            self._on_trial = None

    def paused(self, job: Job) -> None:
        """A worker has given a job up, as it was told to."""
        job.sent = job.pausing = job.waiting = False

    def died(self, running: Iterable[Job], now: float) -> list[Job]:
        """The worker has died while it worked for `running`; returns those that have failed by that.

        What it was tokenising, or was about to, is as suspect. What waited for its turn is not.
        """
        running = set(running)
        involved = [job for job in self._jobs if job.sent and (job in running or not (job.waiting or job.tokens))]
        if self._on_trial is not None and self._on_trial.sent:
            involved = [self._on_trial]
        # Where nothing explains it, anything that the worker had may have been it: a loop of deaths has to end.
        involved = involved or [job for job in self._jobs if job.sent]
        failed = [job for job in involved if job.died(alone=len(involved) == 1)]
        for job in self._jobs:
            job.sent = job.pausing = job.waiting = False
        self._on_trial = None
        self._innocents_until = now + INNOCENT_SECONDS
        return failed

    def actions(self, now: float) -> Actions:
        """What to tell the worker now; what is to be sent counts as sent from here on."""
        if self._on_trial is not None and not self._end_trial(self._on_trial):
            return Actions()
        if not self.suspects:
            return self._send(self._jobs)
        in_hand = [job for job in self._jobs if job.sent]
        others = [job for job in self._jobs if not job.suspect]
        left = self._innocents_until - now
        if others and left > 0 and not any(job.pausing for job in in_hand):
            actions = self._send(others)
            actions.later = left
            return actions
        if in_hand:
            return self._pause(in_hand)
        # Those that had come furthest first: what is new is more likely to have been it.
        self._innocents_until = -math.inf
        self._on_trial = max((job for job in self._jobs if job.suspect), key=_harmless)
        return self._send([self._on_trial])

    def _end_trial(self, job: Job) -> bool:
        """Whether the trial of a job is over."""
        if len(job.tokens) < job.cleared_at:
            return False
        job.suspect = False
        job.alone = 0
        self._on_trial = None
        return True

    def _send(self, jobs: Iterable[Job]) -> Actions:
        fresh = [job for job in jobs if not job.sent]
        for job in fresh:
            job.sent = True
        return Actions(send=fresh)

    def _pause(self, jobs: Iterable[Job]) -> Actions:
        fresh = [job for job in jobs if not job.pausing]
        for job in fresh:
            job.pausing = True
        return Actions(pause=fresh)


def _harmless(job: Job) -> tuple[int, int]:
    return -job.alone, len(job.tokens)
