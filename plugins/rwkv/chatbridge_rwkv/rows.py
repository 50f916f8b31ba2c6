"""How the tokens of many conversations lie in one matrix: one conversation's after another's. Knows no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Rows:
    """The tokens of a step. `ids`: all of them; `spans`: row, start and end of each row with several tokens.

    `singles`: the rows with one token, and `at` where these lie; `single`: every row has just one.
    """

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        ends, total = [], 0
        self.spans: list[tuple[int, int, int]] = []
        self.singles: list[int] = []
        for row, ids in enumerate(tokens):
            if len(ids) > 1:
                self.spans.append((row, total, total + len(ids)))
            else:
                self.singles.append(row)
            total += len(ids)
            ends.append(total)
        self.ids = torch.tensor([token for ids in tokens for token in ids])
        self.count = total
        self.single = not self.spans
        self.at = [ends[row] - 1 for row in self.singles]
        self._firsts = [0, *ends[:-1]]
        self._lasts = [end - 1 for end in ends]

    def shift(self, x: Any, x_prev: Any) -> Any:
        """Token shift: `x` [tokens, width] one token later. `x_prev` stands before each conversation's first token.

        `x_prev` [conversations, width] becomes each conversation's last row of `x`, for the next step.
        """
        if self.single:
            shifted = x_prev.to(x.dtype, copy=True)
            x_prev.copy_(x)
            return shifted
        shifted = x.roll(1, 0)
        shifted[self._firsts] = x_prev.to(x.dtype)
        x_prev.copy_(x[self._lasts])
        return shifted

    def last(self, x: Any, wanted: Sequence[int]) -> Any:
        """The last row of each conversation in `wanted`."""
        if self.single and len(wanted) == self.count:
            return x
        return x[[self._lasts[row] for row in wanted]]
