"""RWKV-7 for many conversations at once, with the package's weights: the formulas of its `TMix_one` and `CMix_one`.

The matrix products are taken over all tokens of all conversations; only the recurrence goes token by token. Names:

    here         rwkv package, BlinkDL's code            paper (Peng et al. 2025, arXiv 2503.14456)
    x, xx        x after the norm, xx                    x_t, and x_{t-1} - x_t: token shift
    x_prev       att_x_prev and ffn_x_prev of the state  x_{t-1} of a conversation's next token
    x_rwkvag     x_r, x_w, x_k, x_v, x_a, x_g            mu
    v_first      v_first                                 v_{t,0}, the first layer's
    k_k, k_a     k_k, k_a                                xi and alpha
    kk           kk                                      kappa-hat, the removal key
    a, b         of the kernel: -kk and kk * a           -kappa-hat, and kappa-hat times a_t
    r_k, bonus   r_k, its product without a name         rho, u_t
    state        att_kv of the state                     the matrix-valued state
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
_DECAY_SCALE = -0.606531
"""-exp(-1/2), so that no channel of the state keeps less than exp(-exp(-1/2)) of itself at a token."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights. `x_rwkvag`: [6, width], how each input is mixed, in the order of its letters.

    `w`, `a`, `v`, `g`: w0, w1 and w2, and so on; there is no g0.
    """

    norm: tuple[Any, Any]
    x_rwkvag: Any
    w: tuple[Any, Any, Any]
    a: tuple[Any, Any, Any]
    v: tuple[Any, Any, Any]
    g: tuple[Any, Any]
    k_k: Any
    k_a: Any
    r_k: Any
    group_norm: tuple[Any, Any]
    receptance: Product
    key: Product
    value: Product
    output: Product
    ffn_norm: tuple[Any, Any]
    ffn_x_k: Any
    ffn_key: Product
    ffn_value: Product


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
        v_first = None
        for layer, (att_x_prev, ffn_x_prev, state) in zip(self._layers, batch.layers, strict=True):
            out, v_first = self._time_mix(layer, x, rows, att_x_prev, state, v_first)
            x = x + out
            x = x + _channel_mix(layer, x, rows, ffn_x_prev)
        if not wanted:
            return torch.empty(0)
        x = rows.last(x, wanted)
        return self._head(layer_norm(x, x.shape[-1:], *self._norm)).float()

    def _time_mix(self, layer: _Layer, x: Any, rows: Rows, x_prev: Any, state: Any, v_first: Any) -> tuple[Any, Any]:
        """What is added to `x`, and v_first; brings `state` [conversations, heads, size, size] up to date."""
        heads = (rows.count, self._heads, self._size)
        x = layer_norm(x, x.shape[-1:], *layer.norm)
        xx = rows.shift(x, x_prev) - x
        xr, xw, xk, xv, xa, xg = torch.addcmul(x, xx, layer.x_rwkvag.unsqueeze(1)).unbind(0)
        r, k, v = layer.receptance(xr), layer.key(xk), layer.value(xv)
        w = torch.exp(_DECAY_SCALE * torch.sigmoid((layer.w[0] + torch.tanh(xw @ layer.w[1]) @ layer.w[2]).float()))
        a = torch.sigmoid(layer.a[0] + (xa @ layer.a[1]) @ layer.a[2])
        g = torch.sigmoid(xg @ layer.g[0]) @ layer.g[1]
        kk = normalize((k * layer.k_k).view(heads), dim=-1)
        k = k * (1 + (a - 1) * layer.k_a)
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(layer.v[0] + (xv @ layer.v[1]) @ layer.v[2])
        out = self._wkv(rows, state, [tensor.view(heads).float() for tensor in (r, w, k, v, -kk, kk * a.view(heads))])
        out = out.to(x.dtype).flatten(1)
        out = group_norm(out, self._heads, *layer.group_norm, eps=64e-5)
        bonus = (r * k * layer.r_k).view(heads).sum(-1, keepdim=True) * v.view(heads)
        return layer.output((out + bonus.flatten(1)) * g), v_first

    def _wkv(self, rows: Rows, state: Any, rwkvab: Sequence[Any]) -> Any:
        """The recurrence over all tokens of a step. `rwkvab`: r, w, k, v, a and b, [tokens, heads, size] each."""
        if rows.single:
            return _recur(state, *rwkvab)
        out = torch.empty_like(rwkvab[0])
        if self._kernel is not None and out.is_cuda:
            return self._with_kernel(rows, state, out, rwkvab)
        if rows.singles:
            own = state[rows.singles]
            out[rows.at] = _recur(own, *(tensor[rows.at] for tensor in rwkvab))
            state[rows.singles] = own
        for row, start, end in rows.spans:
            for at in range(start, end):
                out[at] = _recur(state[row], *(tensor[at] for tensor in rwkvab))
        return out

    def _with_kernel(self, rows: Rows, state: Any, out: Any, rwkvab: Sequence[Any]) -> Any:
        """The same through the package's kernel, which takes one conversation's tokens, in the model's type."""
        r, w, *others = rwkvab
        given = [tensor.to(self._embedding.dtype).flatten(1) for tensor in (r, torch.log(-torch.log(w)), *others)]
        spans = [*rows.spans, *((row, at, at + 1) for row, at in zip(rows.singles, rows.at, strict=True))]
        for row, start, end in spans:
            out[start:end] = self._kernel(state[row], *(tensor[start:end] for tensor in given)).view_as(out[start:end])
        return out

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
            x_rwkvag=torch.stack([own(f"att.x_{letter}") for letter in _LETTERS]),
            w=three("w"),
            a=three("a"),
            v=three("v"),
            g=(own("att.g1"), own("att.g2")),
            k_k=own("att.k_k"),
            k_a=own("att.k_a"),
            r_k=own("att.r_k"),
            group_norm=norm("att.ln_x"),
            receptance=product("att.receptance"),
            key=product("att.key"),
            value=product("att.value"),
            output=product("att.output"),
            ffn_norm=norm("ln2"),
            ffn_x_k=own("ffn.x_k"),
            ffn_key=product("ffn.key"),
            ffn_value=product("ffn.value"),
        )


def _channel_mix(layer: _Layer, x: Any, rows: Rows, x_prev: Any) -> Any:
    x = layer_norm(x, x.shape[-1:], *layer.ffn_norm)
    xx = rows.shift(x, x_prev) - x
    k = torch.addcmul(x, xx, layer.ffn_x_k)
    return layer.ffn_value(torch.relu(layer.ffn_key(k)).square())


def _recur(state: Any, r: Any, w: Any, k: Any, v: Any, a: Any, b: Any) -> Any:
    """One token: state becomes state * w + (state a) b + v k, in place; returns state r.

    `state` is [… heads, size, size], the others [… heads, size]; all are float32. The package multiplies state by the
    matrix a b. A vector's way through state and back gives the same, and sums of products are five times as fast on a
    processor as a batch of products with vectors.
    """
    sa = (state * a.unsqueeze(-2)).sum(-1, keepdim=True)
    state.mul_(w.unsqueeze(-2))
    state.addcmul_(sa, b.unsqueeze(-2)).addcmul_(v.unsqueeze(-1), k.unsqueeze(-2))
    return (state * r.unsqueeze(-2)).sum(-1)
