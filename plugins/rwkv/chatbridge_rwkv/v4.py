"""RWKV-4 for many conversations at once, with the package's weights: the formulas of its `att_one` and `ffn_one`.

The matrix products are taken over all tokens of all conversations; only the recurrence goes token by token. Names:

    here              rwkv package, BlinkDL's code        paper (Peng et al. 2023, arXiv 2305.13048)
    xx, sx            xx, sx                              x_t after the norm, x_{t-1}: token shift
    x_prev            att_xx and ffn_xx of the state      x_{t-1} of a conversation's next token
    time_decay        time_decay, there -exp of the file  -w
    time_first        time_first                          u
    aa, bb, pp        aa, bb, pp of the state             a', b', p: numerator, denominator, exponent
    wkv               wkv                                 wkv_t
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
    """One layer's weights. `att`, `ffn`: weight and bias of the norm, then `time_mix_*` in the order k v r, or k r."""

    device: str
    dtype: Any
    att: tuple[Any, ...]
    time_decay: Any
    time_first: Any
    key: Product
    value: Product
    receptance: Product
    output: Product
    ffn: tuple[Any, ...]
    ffn_key: Product
    ffn_value: Product
    ffn_receptance: Product


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
        for number, (layer, (att_x_prev, ffn_x_prev, *wkv_state)) in enumerate(
            zip(self._layers, batch.layers, strict=True), 1
        ):
            x = x.to(layer.device, layer.dtype)
            x = x + self._att(layer, x, rows, att_x_prev, wkv_state)
            x = x + _ffn(layer, x, rows, ffn_x_prev)
            if self._rescale and number % self._rescale == 0:
                x = x / 2
        if not wanted:
            return torch.empty(0)
        device, dtype = self._head_place
        x = rows.last(x, wanted).to(device, dtype)
        return self._head(layer_norm(x, x.shape[-1:], *self._norm)).float()

    def _att(self, layer: _Layer, x: Any, rows: Rows, x_prev: Any, wkv_state: Sequence[Any]) -> Any:
        """Time mixing. `wkv_state`: aa, bb and pp, [conversations, width] each, which it brings up to date."""
        weight, bias, mix_k, mix_v, mix_r = layer.att
        xx = layer_norm(x, x.shape[-1:], weight, bias)
        sx = rows.shift(xx, x_prev)
        step = xx - sx
        r = torch.sigmoid(layer.receptance(torch.addcmul(sx, step, mix_r)))
        k = layer.key(torch.addcmul(sx, step, mix_k)).float()
        v = layer.value(torch.addcmul(sx, step, mix_v)).float()
        if rows.single:
            wkv = _recur(layer, k, v, *wkv_state)
        else:
            wkv = torch.empty_like(v)
            if rows.singles:
                own = [tensor[rows.singles] for tensor in wkv_state]
                wkv[rows.at] = _recur(layer, k[rows.at], v[rows.at], *own)
                for tensor, fresh in zip(wkv_state, own, strict=True):
                    tensor[rows.singles] = fresh
            for row, start, end in rows.spans:
                own = [tensor[row] for tensor in wkv_state]
                if self._kernel is not None and k.is_cuda:
                    wkv[start:end], *after = self._kernel(
                        end - start, k.shape[1], layer.time_decay, layer.time_first, k[start:end], v[start:end], *own
                    )
                    for tensor, fresh in zip(own, after, strict=True):
                        tensor.copy_(fresh)
                else:
                    for at in range(start, end):
                        wkv[at] = _recur(layer, k[at], v[at], *own)
        return layer.output(r * wkv.to(r.dtype))

    def _layer(self, weights: dict[str, Any], matrices: Matrices, number: int, slot: Any) -> _Layer:
        att, ffn = f"blocks.{number}.att", f"blocks.{number}.ffn"

        def product(name: str, dtype: Any = None) -> Product:
            return matrices.product(f"{name}.weight", slot.device, stream=slot.stream, dtype=dtype)

        def norm(which: str) -> tuple[Any, Any]:
            return weights[f"blocks.{number}.{which}.weight"], weights[f"blocks.{number}.{which}.bias"]

        return _Layer(
            slot.device,
            slot.atype,
            (*norm("ln1"), *(weights[f"{att}.time_mix_{letter}"] for letter in "kvr")),
            weights[f"{att}.time_decay"],
            weights[f"{att}.time_first"],
            product(f"{att}.key", torch.float32),
            product(f"{att}.value", torch.float32),
            product(f"{att}.receptance"),
            product(f"{att}.output"),
            (*norm("ln2"), *(weights[f"{ffn}.time_mix_{letter}"] for letter in "kr")),
            product(f"{ffn}.key"),
            product(f"{ffn}.value"),
            product(f"{ffn}.receptance"),
        )


def _ffn(layer: _Layer, x: Any, rows: Rows, x_prev: Any) -> Any:
    """Channel mixing."""
    weight, bias, mix_k, mix_r = layer.ffn
    xx = layer_norm(x, x.shape[-1:], weight, bias)
    sx = rows.shift(xx, x_prev)
    step = xx - sx
    r = torch.sigmoid(layer.ffn_receptance(torch.addcmul(sx, step, mix_r)))
    k = torch.relu(layer.ffn_key(torch.addcmul(sx, step, mix_k))).square()
    return r * layer.ffn_value(k)


def _recur(layer: _Layer, k: Any, v: Any, aa: Any, bb: Any, pp: Any) -> Any:
    """One token: returns wkv with this token counted in, then brings aa, bb and pp up to date, in place.

    All are float32. aa and bb are kept times e to the minus pp, so that none overflows.
    """
    ww = layer.time_first + k
    p = torch.maximum(pp, ww)
    e1, e2 = torch.exp(pp - p), torch.exp(ww - p)
    wkv = (e1 * aa).addcmul_(e2, v) / (e1 * bb).add_(e2)
    ww = layer.time_decay + pp
    p = torch.maximum(ww, k)
    e1, e2 = ww.sub_(p).exp_(), torch.exp(k - p)
    aa.mul_(e1).addcmul_(e2, v)
    bb.mul_(e1).add_(e2)
    pp.copy_(p)
    return wkv
