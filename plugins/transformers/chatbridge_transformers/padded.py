"""Conversations side by side, padded on the left; for models whose attention can't be replaced, as BLOOM.

The model computes with its own attention and a plain cache of transformers. What is padding says the attention mask,
from which such models take their positions, too. Knows states and that cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from chatbridge_transformers.causal import Causal
from chatbridge_transformers.packed import UnfitError
from chatbridge_transformers.state import KvState

Rows = Sequence[tuple[KvState, Sequence[int]]]


class Padded:
    """A way to compute rows. Raises UnfitError where the model keeps anything but keys and values."""

    summary = "conversations side by side, padded"

    def __init__(self, causal: Causal) -> None:
        if causal.cache_name not in ("cache", "past_key_values"):
            raise UnfitError("it keeps no cache of keys and values")
        self._causal = causal

    def close(self) -> None:
        pass

    def forward(self, rows: Rows, wanted: Sequence[int], *, every: bool = False) -> Any:
        """See `Way`. Those who are answered go together; each part of a prompt alone, since it would pad all others."""
        single = [number for number, (_, tokens) in enumerate(rows) if len(tokens) == 1]
        groups = [[number] for number, (_, tokens) in enumerate(rows) if len(tokens) > 1]
        found: dict[int, Any] = {}
        for group in [single, *groups]:
            if group:
                logits = self._compute([rows[number] for number in group], every=every)
                if every:
                    return logits[0]
                found |= {number: logits[at, -1] for at, number in enumerate(group)}
        return torch.stack([found[number] for number in wanted]) if wanted else torch.empty(0)

    def _compute(self, rows: Rows, *, every: bool) -> Any:
        """The logits of rows of as many tokens each: of the last, or of all, [rows, 1 or tokens, vocabulary]."""
        count = len(rows[0][1])
        longest = max(state.length for state, _ in rows)
        mask = torch.ones((len(rows), longest + count), dtype=torch.long)
        positions = []
        for number, (state, _) in enumerate(rows):
            mask[number, : longest - state.length] = 0
            positions.append(range(state.length, state.length + count))
        output = self._causal(
            torch.tensor([list(tokens) for _, tokens in rows]),
            cache=(cache := _joined([state for state, _ in rows], longest)),
            positions=torch.tensor([list(one) for one in positions]),
            mask=mask,
            keep=None if every else [count - 1],
        )
        if self._causal.cache_of(output) is not cache:
            raise UnfitError("it keeps a cache of its own kind")
        for layer_number, layer in enumerate(cache.layers):
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if keys is None or values is None or keys.dim() != 4 or keys.shape[2] != longest + count:
                raise UnfitError("it keeps something else than keys and values")
            for number, (state, _) in enumerate(rows):
                state.append(layer_number, keys[number, :, -count:], values[number, :, -count:])
        return output.logits


def _joined(states: Sequence[KvState], longest: int) -> Any:
    """A cache with all states' keys and values, on the left of which shorter ones have zeros."""
    cache = DynamicCache()
    if longest == 0:
        return cache
    numbers = sorted({number for state in states for number in state.layers if state.length})
    for number in numbers:
        if len(states) == 1:
            keys, values = states[0].view(number)
            cache.update(keys[None], values[None], number)
            continue
        like = next(state.layers[number] for state in states if state.length)
        both = []
        for at, tensor in enumerate(like):
            joined = tensor.new_zeros((len(states), tensor.shape[0], longest, tensor.shape[2]))
            for row, state in enumerate(states):
                if state.length:
                    joined[row, :, longest - state.length :] = state.view(number)[at]
            both.append(joined)
        cache.update(*both, number)
    return cache
