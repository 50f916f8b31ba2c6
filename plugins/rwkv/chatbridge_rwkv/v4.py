"""RWKV-4 for many conversations at once, with the package's weights: the formulas of its `att_one` and `ffn_one`.

The matrix products are taken over all tokens of all conversations; only the recurrence goes token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import layer_norm

from chatbridge_rwkv.matrices import Matrices, Product
from chatbridge_rwkv.rows import Rows
from chatbridge_rwkv.state import Batch


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights. `attention`, `feed`: the norm's weight and bias, then the mixing of each input."""

    device: str
    dtype: Any
    attention: tuple[Any, ...]
    decay: Any
    first: Any
    key: Product
    value: Product
    receptance: Product
    output: Product
    feed: tuple[Any, ...]
    feed_key: Product
    feed_value: Product
    feed_receptance: Product


class BatchedV4:
    """Computes with the weights of the package's `model`. `kernel`: its CUDA kernel for the recurrence, if in use."""

    batched = True

    def __init__(self, model: Any, matrices: Matrices, kernel: Any = None) -> None:
        weights = model.w
        self._rescale: int = model.RESCALE_LAYER
        self._kernel = kernel
        self._embedding = weights["emb.weight"]
        self._layers = [self._layer(weights, matrices, number, slot) for number, slot in enumerate(model.strategy[:-1])]
        head = model.strategy[-1]
        self._head_place = (head.device, head.atype)
        self._norm = (weights["ln_out.weight"], weights["ln_out.bias"])
        self._head = matrices.product("head.weight", head.device)

    def forward(self, batch: Batch, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> Any:
        """Consume each conversation's tokens; the logits after those `wanted`, [wanted, vocabulary], float32."""
        rows = Rows(tokens)
        x = self._embedding[rows.ids.to(self._embedding.device)]
        for number, (layer, (seen, seen_too, *gathered)) in enumerate(zip(self._layers, batch.layers, strict=True), 1):
            x = x.to(layer.device, layer.dtype)
            x = x + self._attention(layer, x, rows, seen, gathered)
            x = x + _feed_forward(layer, x, rows, seen_too)
            if self._rescale and number % self._rescale == 0:
                x = x / 2
        if not wanted:
            return torch.empty(0)
        device, dtype = self._head_place
        x = rows.last(x, wanted).to(device, dtype)
        return self._head(layer_norm(x, x.shape[-1:], *self._norm)).float()

    def _attention(self, layer: _Layer, x: Any, rows: Rows, seen: Any, gathered: Sequence[Any]) -> Any:
        weight, bias, mix_k, mix_v, mix_r = layer.attention
        now = layer_norm(x, x.shape[-1:], weight, bias)
        before = rows.before(now, seen)
        step = now - before
        r = torch.sigmoid(layer.receptance(torch.addcmul(before, step, mix_r)))
        k = layer.key(torch.addcmul(before, step, mix_k)).float()
        v = layer.value(torch.addcmul(before, step, mix_v)).float()
        if rows.single:
            said = _recur(layer, k, v, *gathered)
        else:
            said = torch.empty_like(v)
            if rows.singles:
                part = [tensor[rows.singles] for tensor in gathered]
                said[rows.at] = _recur(layer, k[rows.at], v[rows.at], *part)
                for tensor, fresh in zip(gathered, part, strict=True):
                    tensor[rows.singles] = fresh
            for row, start, end in rows.spans:
                own = [tensor[row] for tensor in gathered]
                if self._kernel is not None and k.is_cuda:
                    said[start:end], *fresh = self._kernel(
                        end - start, k.shape[1], layer.decay, layer.first, k[start:end], v[start:end], *own
                    )
                    for tensor, new in zip(own, fresh, strict=True):
                        tensor.copy_(new)
                else:
                    for at in range(start, end):
                        said[at] = _recur(layer, k[at], v[at], *own)
        return layer.output(r * said.to(r.dtype))

    def _layer(self, weights: dict[str, Any], matrices: Matrices, number: int, slot: Any) -> _Layer:
        attention, feed = f"blocks.{number}.att", f"blocks.{number}.ffn"

        def product(name: str, dtype: Any = None) -> Product:
            return matrices.product(f"{name}.weight", slot.device, stream=slot.stream, dtype=dtype)

        def norm(which: str) -> tuple[Any, Any]:
            return weights[f"blocks.{number}.{which}.weight"], weights[f"blocks.{number}.{which}.bias"]

        return _Layer(
            slot.device,
            slot.atype,
            (*norm("ln1"), *(weights[f"{attention}.time_mix_{letter}"] for letter in "kvr")),
            weights[f"{attention}.time_decay"],
            weights[f"{attention}.time_first"],
            product(f"{attention}.key", torch.float32),
            product(f"{attention}.value", torch.float32),
            product(f"{attention}.receptance"),
            product(f"{attention}.output"),
            (*norm("ln2"), *(weights[f"{feed}.time_mix_{letter}"] for letter in "kr")),
            product(f"{feed}.key"),
            product(f"{feed}.value"),
            product(f"{feed}.receptance"),
        )


def _feed_forward(layer: _Layer, x: Any, rows: Rows, seen: Any) -> Any:
    weight, bias, mix_k, mix_r = layer.feed
    now = layer_norm(x, x.shape[-1:], weight, bias)
    before = rows.before(now, seen)
    step = now - before
    r = torch.sigmoid(layer.feed_receptance(torch.addcmul(before, step, mix_r)))
    k = torch.relu(layer.feed_key(torch.addcmul(before, step, mix_k))).square()
    return r * layer.feed_value(k)


def _recur(layer: _Layer, k: Any, v: Any, top: Any, bottom: Any, exponent: Any) -> Any:
    """One token: what is remembered with this token counted in, and then the memory itself, in place.

    All are float32. Values are kept as `top / bottom`, both times e to the minus `exponent`, so that none overflows.
    """
    now = layer.first + k
    highest = torch.maximum(exponent, now)
    old, new = torch.exp(exponent - highest), torch.exp(now - highest)
    said = (old * top).addcmul_(new, v) / (old * bottom).add_(new)
    faded = layer.decay + exponent
    highest = torch.maximum(faded, k)
    old, new = faded.sub_(highest).exp_(), torch.exp(k - highest)
    top.mul_(old).addcmul_(new, v)
    bottom.mul_(old).add_(new)
    exponent.copy_(highest)
    return said
