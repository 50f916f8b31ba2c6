"""RWKV-7 for many conversations at once, with the package's weights: the formulas of its `TMix_one` and `CMix_one`.

The matrix products are taken over all tokens of all conversations; only the recurrence goes token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import group_norm, layer_norm, normalize

from chatbridge_rwkv.matrices import Matrices, Product
from chatbridge_rwkv.rows import Rows
from chatbridge_rwkv.state import Batch

_LETTERS = "rwkvag"
_FASTEST = -0.606531
"""No channel forgets faster than to e to the minus e to the minus 1/2 a token."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights. `mix`: [6, width], how each input is mixed, in the order r w k v a g.

    `w`, `a`, `v`, `g`: what is added (none for g), and two small matrices.
    """

    norm: tuple[Any, Any]
    mix: Any
    w: tuple[Any, Any, Any]
    a: tuple[Any, Any, Any]
    v: tuple[Any, Any, Any]
    g: tuple[Any, Any]
    key_scale: Any
    key_share: Any
    bonus: Any
    group_norm: tuple[Any, Any]
    receptance: Product
    key: Product
    value: Product
    output: Product
    feed_norm: tuple[Any, Any]
    feed_mix: Any
    feed_key: Product
    feed_value: Product


class BatchedV7:
    """Computes with the weights of the package's `model`. `kernel`: its CUDA kernel for the recurrence, if in use."""

    batched = True

    def __init__(self, model: Any, matrices: Matrices, kernel: Any = None) -> None:
        weights = model.z
        self._kernel = kernel
        self._heads: int = model.n_head
        self._size: int = model.head_size
        self._embedding = weights["emb.weight"]
        self._device = str(self._embedding.device)
        self._layers = [self._layer(weights, matrices, number) for number in range(model.n_layer)]
        self._norm = (weights["ln_out.weight"], weights["ln_out.bias"])
        self._head = matrices.product("head.weight", self._device)

    def forward(self, batch: Batch, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> Any:
        """Consume each conversation's tokens; the logits after those `wanted`, [wanted, vocabulary], float32."""
        rows = Rows(tokens)
        x = self._embedding[rows.ids.to(self._embedding.device)]
        first = None
        for layer, (seen, seen_too, memory) in zip(self._layers, batch.layers, strict=True):
            said, first = self._time_mix(layer, x, rows, seen, memory, first)
            x = x + said
            x = x + _channel_mix(layer, x, rows, seen_too)
        if not wanted:
            return torch.empty(0)
        x = rows.last(x, wanted)
        return self._head(layer_norm(x, x.shape[-1:], *self._norm)).float()

    def _time_mix(self, layer: _Layer, x: Any, rows: Rows, seen: Any, memory: Any, first: Any) -> tuple[Any, Any]:
        heads = (rows.count, self._heads, self._size)
        now = layer_norm(x, x.shape[-1:], *layer.norm)
        before = rows.before(now, seen)
        step = before - now
        xr, xw, xk, xv, xa, xg = torch.addcmul(now, step, layer.mix.unsqueeze(1)).unbind(0)
        r, k, v = layer.receptance(xr), layer.key(xk), layer.value(xv)
        w = torch.exp(_FASTEST * torch.sigmoid((layer.w[0] + torch.tanh(xw @ layer.w[1]) @ layer.w[2]).float()))
        a = torch.sigmoid(layer.a[0] + (xa @ layer.a[1]) @ layer.a[2])
        g = torch.sigmoid(xg @ layer.g[0]) @ layer.g[1]
        out_key = normalize((k * layer.key_scale).view(heads), dim=-1)
        k = k * (1 + (a - 1) * layer.key_share)
        if first is None:
            first = v
        else:
            v = v + (first - v) * torch.sigmoid(layer.v[0] + (xv @ layer.v[1]) @ layer.v[2])
        in_key = out_key * a.view(heads)
        parts = [part.view(heads).float() for part in (r, w, k, v, -out_key, in_key)]
        said = self._remember(rows, memory, parts)
        said = said.to(x.dtype).flatten(1)
        said = group_norm(said, self._heads, *layer.group_norm, eps=64e-5)
        echo = (r * k * layer.bonus).view(heads).sum(-1, keepdim=True) * v.view(heads)
        return layer.output((said + echo.flatten(1)) * g), first

    def _remember(self, rows: Rows, memory: Any, parts: Sequence[Any]) -> Any:
        """What each token reads from memory [conversations, heads, size, size], once it has written to it.

        `parts`: what `_recur` takes besides, each [tokens, heads, size].
        """
        if rows.single:
            return _recur(memory, *parts)
        said = torch.empty_like(parts[0])
        if self._kernel is not None and said.is_cuda:
            return self._with_kernel(rows, memory, said, parts)
        if rows.singles:
            own = memory[rows.singles]
            said[rows.at] = _recur(own, *(part[rows.at] for part in parts))
            memory[rows.singles] = own
        for row, start, end in rows.spans:
            for at in range(start, end):
                said[at] = _recur(memory[row], *(part[at] for part in parts))
        return said

    def _with_kernel(self, rows: Rows, memory: Any, said: Any, parts: Sequence[Any]) -> Any:
        """The same through the package's kernel, which takes one conversation's tokens, in the model's type."""
        r, w, *others = parts
        given = [part.to(self._embedding.dtype).flatten(1) for part in (r, torch.log(-torch.log(w)), *others)]
        spans = [*rows.spans, *((row, at, at + 1) for row, at in zip(rows.singles, rows.at, strict=True))]
        for row, start, end in spans:
            said[start:end] = self._kernel(memory[row], *(part[start:end] for part in given)).view_as(said[start:end])
        return said

    def _layer(self, weights: dict[str, Any], matrices: Matrices, number: int) -> _Layer:
        def own(name: str) -> Any:
            return weights[f"blocks.{number}.{name}"]

        def norm(name: str) -> tuple[Any, Any]:
            return own(f"{name}.weight"), own(f"{name}.bias")

        def three(letter: str) -> tuple[Any, Any, Any]:
            return own(f"att.{letter}0"), own(f"att.{letter}1"), own(f"att.{letter}2")

        def product(name: str) -> Product:
            return matrices.product(f"blocks.{number}.{name}.weight", self._device)

        return _Layer(
            norm=norm("ln1"),
            mix=torch.stack([own(f"att.x_{letter}") for letter in _LETTERS]),
            w=three("w"),
            a=three("a"),
            v=three("v"),
            g=(own("att.g1"), own("att.g2")),
            key_scale=own("att.k_k"),
            key_share=own("att.k_a"),
            bonus=own("att.r_k"),
            group_norm=norm("att.ln_x"),
            receptance=product("att.receptance"),
            key=product("att.key"),
            value=product("att.value"),
            output=product("att.output"),
            feed_norm=norm("ln2"),
            feed_mix=own("ffn.x_k"),
            feed_key=product("ffn.key"),
            feed_value=product("ffn.value"),
        )


def _channel_mix(layer: _Layer, x: Any, rows: Rows, seen: Any) -> Any:
    now = layer_norm(x, x.shape[-1:], *layer.feed_norm)
    before = rows.before(now, seen)
    mixed = torch.addcmul(now, before - now, layer.feed_mix)
    return layer.feed_value(torch.relu(layer.feed_key(mixed)).square())


def _recur(memory: Any, r: Any, w: Any, k: Any, v: Any, out_key: Any, in_key: Any) -> Any:
    """One token: memory [… heads, size, size] fades, what `out_key` finds goes where `in_key` says, and `v` to `k`.

    In place, all float32. Returns what `r` reads. The package multiplies size by size matrices for the second part;
    a vector's way through memory and back gives the same. Sums of products are five times as fast on a processor as
    a batch of products with vectors.
    """
    found = (memory * out_key.unsqueeze(-2)).sum(-1, keepdim=True)
    memory.mul_(w.unsqueeze(-2))
    memory.addcmul_(found, in_key.unsqueeze(-2)).addcmul_(v.unsqueeze(-1), k.unsqueeze(-2))
    return (memory * r.unsqueeze(-2)).sum(-1)
