"""The package's own `forward`, one conversation after another: the reference, and for what we don't compute in batches.

Knows the order of tensors in the package's states, and nothing else of the arithmetic:

    RWKV-4        att_xx, att_aa, att_bb, att_pp, ffn_xx of each layer
    RWKV-5, 6     att_xx, att_kv, ffn_xx
    RWKV-7        att_x_prev, att_kv, ffn_x_prev
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatbridge_rwkv.state import Batch, Layout, Tensors


class PackageModel:
    """Computes by the package's `model`. `dtypes`: each layer's type, which it takes att_x_prev and ffn_x_prev in."""

    batched = False

    def __init__(self, model: Any, dtypes: Sequence[Any]) -> None:
        self._model = model
        self._dtypes = list(dtypes)

    def forward(self, batch: Batch, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> Any:
        """Consume each conversation's tokens; the logits after those `wanted`, [wanted, vocabulary], float32."""
        logits = []
        for row, ids in enumerate(tokens):
            own = [tuple(tensor[row] for tensor in layer) for layer in batch.layers]
            found, after = self._model.forward(list(ids), _packed(own, self._dtypes))
            for layer, fresh in zip(own, _unpacked(after, len(own)), strict=True):
                for tensor, value in zip(layer, fresh, strict=True):
                    tensor.copy_(value)
            if row in wanted:
                logits.append(found.float())
        return torch.stack(logits) if logits else torch.empty(0)


def _packed(layers: Sequence[tuple[Any, ...]], dtypes: Sequence[Any]) -> list[Any]:
    """Copies of each layer's tensors in the package's order. We keep the two x_prev of a layer side by side."""
    found: list[Any] = []
    for (att_x_prev, ffn_x_prev, *wkv_state), dtype in zip(layers, dtypes, strict=True):
        found.append(att_x_prev.to(dtype, copy=True))
        found += [tensor.clone() for tensor in wkv_state]
        found.append(ffn_x_prev.to(dtype, copy=True))
    return found


def _unpacked(state: Sequence[Any], layers: int) -> list[tuple[Any, ...]]:
    each = len(state) // layers
    rows = [state[start : start + each] for start in range(0, len(state), each)]
    return [(row[0], row[-1], *row[1:-1]) for row in rows]


def as_package_state(layout: Layout, tensors: Tensors, dtypes: Sequence[Any]) -> list[Any]:
    """A conversation's tensors as the list that the package's `forward` takes; copies."""
    return _packed(layout.views(tensors), dtypes)


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
