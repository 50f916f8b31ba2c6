"""Decides who gets how many tokens in the next step. Knows no model, no text, no thread and no clock.

There is no prefill phase and no decode phase: every job has tokens that its state has consumed and tokens that are
still pending, and each step lets all running jobs catch up under one token budget. A job that is answering has one
pending token and always gets it; prompts share what is left evenly, so a long one freezes nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way: all its token ids so far, and how many of them the state has consumed."""

    id: str
    tokens: list[int]
    consumed: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.consumed


J = TypeVar("J", bound=Job)


@dataclass(slots=True)
class Scheduler(Generic[J]):
    """`waiting` jobs, first come first served, and at most `max_batch` `running` ones."""

    max_batch: int
    token_budget: int
    waiting: deque[J] = field(default_factory=deque)
    running: list[J] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {self.max_batch}")
        # Each running job gets a token in each step, whatever the budget says: nobody starves.
        self.token_budget = max(self.token_budget, self.max_batch)

    def add(self, job: J) -> None:
        self.waiting.append(job)

    def remove(self, job: J) -> None:
        """Take a job out wherever it is; its place is free at once."""
        if job in self.running:
            self.running.remove(job)
        else:
            self.waiting.remove(job)

    def admit(self) -> J | None:
        """Move the first waiting job to the running ones, if there is room, and return it."""
        if not self.waiting or len(self.running) >= self.max_batch:
            return None
        job = self.waiting.popleft()
        self.running.append(job)
        return job

    def schedule(self, reading: int | None = None) -> list[tuple[J, int]]:
        """For each running job, how many of its pending tokens the next step consumes (at least one).

        `reading`: the most that all together may consume beyond these ones, if that is less than the budget.
        """
        shares: dict[J, int] = {}
        budget = self.token_budget if reading is None else min(self.token_budget, len(self.running) + reading)
        # Those who want least come first, so that what they leave goes to the others.
        for position, job in enumerate(sorted(self.running, key=lambda job: job.pending)):
            fair = budget // (len(self.running) - position)
            shares[job] = min(job.pending, fair)
            budget -= shares[job]
        return [(job, shares[job]) for job in self.running]

    def position(self, job: J) -> int:
        """How many jobs start before this one; 0 for one that runs."""
        return self.waiting.index(job) + 1 if job in self.waiting else 0
