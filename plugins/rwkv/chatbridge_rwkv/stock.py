"""The package's own way: its `forward`, one conversation after another. For what is not computed together here.

Knows the order of the package's states; that is all it knows of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatbridge_rwkv.state import Batch, Layout, Tensors


class Stock:
    """Computes by the package's `model`. `dtypes`: each layer's type, which what it saw last is given in."""

    batched = False

    def __init__(self, model: Any, dtypes: Sequence[Any]) -> None:
        self._model = model
        self._dtypes = list(dtypes)

    def forward(self, batch: Batch, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> Any:
        """Consume each conversation's tokens; the logits after those `wanted`, [wanted, vocabulary], float32."""
        logits = []
        for row, ids in enumerate(tokens):
            own = [tuple(tensor[row] for tensor in layer) for layer in batch.layers]
            found, after = self._model.forward(list(ids), self._packed(own))
            for layer, fresh in zip(own, _unpacked(after, len(own)), strict=True):
                for tensor, value in zip(layer, fresh, strict=True):
                    tensor.copy_(value)
            if row in wanted:
                logits.append(found.float())
        return torch.stack(logits) if logits else torch.empty(0)

    def _packed(self, layers: Sequence[tuple[Any, ...]]) -> list[Any]:
        """A state as the package takes it: for each layer what its attention saw, what it gathered, what ffn saw."""
        found = []
        for (seen, seen_too, *gathered), dtype in zip(layers, self._dtypes, strict=True):
            found += [seen.to(dtype), *(tensor.clone() for tensor in gathered), seen_too.to(dtype)]
        return found


def _unpacked(state: Sequence[Any], layers: int) -> list[tuple[Any, ...]]:
    each = len(state) // layers
    rows = [state[start : start + each] for start in range(0, len(state), each)]
    return [(row[0], row[-1], *row[1:-1]) for row in rows]


def as_package_state(layout: Layout, tensors: Tensors, dtypes: Sequence[Any]) -> list[Any]:
    """A conversation's tensors as the list that the package's `forward` takes; copies."""
    found: list[Any] = []
    for (seen, seen_too, *gathered), dtype in zip(layout.views(tensors), dtypes, strict=True):
        found += [seen.to(dtype, copy=True), *(tensor.clone() for tensor in gathered), seen_too.to(dtype, copy=True)]
    return found


def from_package_state(layout: Layout, state: Sequence[Any]) -> Tensors:
    """The way back. Raises ValueError where the shapes are another model's."""
    tensors = layout.empty()
    layers = layout.views(tensors)
    if not layers or len(state) != len(layers) * len(layers[0]):
        raise ValueError(f"it has {len(state)} tensors, and {len(layers) * len(layers[0])} are expected")
    for number, (layer, fresh) in enumerate(zip(layers, _unpacked(state, len(layers)), strict=True)):
        for tensor, value in zip(layer, fresh, strict=True):
            if tuple(tensor.shape) != tuple(value.shape):
                raise ValueError(
                    f"layer {number} has a tensor {list(value.shape)} where {list(tensor.shape)} is expected"
                )
            tensor.copy_(value)
    return tensors
