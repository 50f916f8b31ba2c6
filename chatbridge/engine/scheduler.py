"""Decides who gets how many tokens in the next step. Knows no model, no text, no thread and no clock.

There is no prefill phase and no decode phase: every sequence has tokens that its state has consumed and tokens that are
still pending, and each step lets all running sequences catch up under one token budget. One that is answering has one
pending token and always gets it; prompts share what is left evenly, so a long one freezes nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar


@dataclass(slots=True, eq=False)
class TokenSequence:
    """The token ids of one request so far, and how many of them the state has consumed.

    `whole`: how many of the first tokens have to be consumed together, whatever the budget says.
    """

    id: str
    tokens: list[int]
    consumed: int = 0
    whole: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.consumed

    @property
    def comes_whole(self) -> bool:
        """Whether the next tokens are those that have to be consumed together."""
        return self.consumed == 0 < self.whole

    def share(self, count: int) -> int:
        """How many of its tokens come next, where `count` are wanted."""
        return self.whole if self.comes_whole else count


EVEN_FROM = 8
"""From how many tokens each on, prompts that can't be read to their end get equally many, and the odd tokens nobody.

Engines compute sequences together that have equally many tokens, and take another pass over all weights for the rest.
The odd ones are less than one token each: below this, more would be lost than gained.
"""

S = TypeVar("S", bound=TokenSequence)


@dataclass(slots=True)
class Scheduler(Generic[S]):
    """`waiting` sequences, first come first served, and at most `max_batch` `running` ones."""

    max_batch: int
    token_budget: int
    waiting: deque[S] = field(default_factory=deque)
    running: list[S] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {self.max_batch}")
        # Each running sequence gets a token in each step, whatever the budget says: nobody starves.
        self.token_budget = max(self.token_budget, self.max_batch)

    def add(self, sequence: S) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: S) -> None:
        """Take a sequence out, whether it waits or runs; another may run in its stead at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def admit(self) -> S | None:
        """Move the first waiting sequence to the running ones, if there is room, and return it."""
        if not self.waiting or len(self.running) >= self.max_batch:
            return None
        sequence = self.waiting.popleft()
        self.running.append(sequence)
        return sequence

    def schedule(self, max_prefill: int | None = None) -> list[tuple[S, int]]:
        """For each running sequence, how many of its pending tokens the next step consumes (at least one).

        `max_prefill`: how many tokens all together may consume beyond these ones; None for as many as the budget
        allows, which is the limit in either case. What has to come whole counts for neither: how much of it is
        done in a step is the model's to say.
        """
        shares: dict[S, int] = {sequence: sequence.whole for sequence in self.running if sequence.comes_whole}
        dividing = [sequence for sequence in self.running if sequence not in shares]
        budget = self.token_budget
        if max_prefill is not None:
            budget = min(budget, len(dividing) + max_prefill)
        # Those who want least come first, so that what they leave goes to the others.
        for position, sequence in enumerate(sorted(dividing, key=lambda sequence: sequence.pending)):
            left = len(dividing) - position
            fair = budget // left
            if fair >= EVEN_FROM and sequence.pending > fair:
                budget = fair * left  # none of those to come wants less
            shares[sequence] = min(sequence.pending, fair)
            budget -= shares[sequence]
        return [(sequence, shares[sequence]) for sequence in self.running]

    def position(self, sequence: S) -> int:
        """The sequence's position in the queue, from 1; 0 for one that runs."""
        return self.waiting.index(sequence) + 1 if sequence in self.waiting else 0
