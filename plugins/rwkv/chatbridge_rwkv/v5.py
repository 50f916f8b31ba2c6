"""RWKV-5 and 6 for many conversations at once, with the package's weights: the formulas of its `att_one_v5` to `v6_0`.

The matrix products are taken over all tokens of all conversations; only the recurrence goes token by token. Names:

    here                rwkv package, BlinkDL's code      paper (Peng et al. 2024, arXiv 2404.05892)
    xx, sx              xx, sx                            x_t after the norm, x_{t-1}: token shift
    x_prev              att_xx and ffn_xx of the state    x_{t-1} of a conversation's next token
    mix                 time_mix_*, in RWKV-6 time_maa_*  mu
    maa_w1, maa_w2      time_maa_w1, time_maa_w2          A and B of RWKV-6's data-dependent lerp
    time_decay          time_decay                        w (RWKV-5), lambda of d_t (RWKV-6)
    decay_w1, decay_w2  time_decay_w1, time_decay_w2      A and B of d_t (RWKV-6)
    time_first          time_first, or time_faaaa         u
    state               att_kv of the state, there s      the matrix-valued state
    out                 out                               wkv_t read by r_t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import group_norm, layer_norm, silu

from chatbridge_rwkv.matrices import Matrices, Product
from chatbridge_rwkv.rows import Rows
from chatbridge_rwkv.state import Batch


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights.

    `mix`: how each input is mixed, by its letter; RWKV-6 also has `x`. `maa`: maa_w1 and maa_w2, `decay`: decay_w1 and
    decay_w2, both of RWKV-6 alone. `time_decay`, `time_first`: [heads, size or 1, 1]. `gate`: none in RWKV-5.0.
    """

    device: str
    dtype: Any
    norm: tuple[Any, Any]
    mix: dict[str, Any]
    maa: tuple[Any, Any] | None
    time_decay: Any
    time_first: Any
    decay: tuple[Any, Any] | None
    group_norm: tuple[Any, Any]
    receptance: Product
    key: Product
    value: Product
    gate: Product | None
    output: Product
    ffn_norm: tuple[Any, Any]
    ffn_mix: dict[str, Any]
    ffn_key: Product
    ffn_value: Product
    ffn_receptance: Product


class BatchedV5:
    """Computes with the weights of the package's `model`."""

    batched = True

    def __init__(self, model: Any, matrices: Matrices) -> None:
        weights = model.w
        self._is_v6 = model.version >= 6
        self._heads: int = model.args.n_head
        self._rescale: int = model.RESCALE_LAYER
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
        for number, (layer, (att_x_prev, ffn_x_prev, state)) in enumerate(
            zip(self._layers, batch.layers, strict=True), 1
        ):
            x = x.to(layer.device, layer.dtype)
            x = x + self._att(layer, x, rows, att_x_prev, state)
            x = x + self._ffn(layer, x, rows, ffn_x_prev)
            if self._rescale and number % self._rescale == 0:
                x = x / 2
        if not wanted:
            return torch.empty(0)
        device, dtype = self._head_place
        x = rows.last(x, wanted).to(device, dtype)
        return self._head(layer_norm(x, x.shape[-1:], *self._norm)).float()

    def _att(self, layer: _Layer, x: Any, rows: Rows, x_prev: Any, state: Any) -> Any:
        """Time mixing, which brings `state` [conversations, heads, size, size] up to date."""
        xx = layer_norm(x, x.shape[-1:], *layer.norm)
        base, step = self._lerp(xx, rows.shift(xx, x_prev))
        mix = layer.mix
        if layer.maa is not None:
            maa_w1, maa_w2 = layer.maa
            xxx = torch.tanh(torch.addcmul(base, step, mix["x"]) @ maa_w1).view(rows.count, 5, -1).transpose(0, 1)
            shift = torch.bmm(xxx, maa_w2)
            mix = {letter: mix[letter] + shift[at] for at, letter in enumerate("wkvrg")}
        heads = (rows.count, self._heads, -1)
        r, k, v = (
            product(torch.addcmul(base, step, mix[letter])).float().view(heads)
            for product, letter in ((layer.receptance, "r"), (layer.key, "k"), (layer.value, "v"))
        )
        w = layer.time_decay.squeeze(-1).expand(rows.count, -1, -1)
        if layer.decay is not None:
            decay_w1, decay_w2 = layer.decay
            wx = torch.addcmul(base, step, mix["w"])
            w = torch.exp(-torch.exp(w + (torch.tanh(wx @ decay_w1) @ decay_w2).float().view(heads)))
        out = self._wkv(rows, state, layer.time_first.squeeze(-1), (r, w, k, v))
        out = group_norm(out.flatten(1), self._heads, *layer.group_norm, eps=64e-5).to(x.dtype)
        if layer.gate is not None:
            out = out * silu(layer.gate(torch.addcmul(base, step, mix["g"])))
        return layer.output(out)

    def _lerp(self, xx: Any, sx: Any) -> tuple[Any, Any]:
        """Where mixing starts and which way it goes: RWKV-6 from this token to the last one, RWKV-5 the other way."""
        return (xx, sx - xx) if self._is_v6 else (sx, xx - sx)

    def _wkv(self, rows: Rows, state: Any, time_first: Any, rwkv: Sequence[Any]) -> Any:
        """The recurrence over all tokens of a step. `rwkv`: r, w, k and v, [tokens, heads, size] each."""
        if rows.single:
            return _recur(state, time_first, *rwkv)
        out = torch.empty_like(rwkv[0])
        if rows.singles:
            own = state[rows.singles]
            out[rows.at] = _recur(own, time_first, *(tensor[rows.at] for tensor in rwkv))
            state[rows.singles] = own
        for row, start, end in rows.spans:
            for at in range(start, end):
                out[at] = _recur(state[row], time_first, *(tensor[at] for tensor in rwkv))
        return out

    def _ffn(self, layer: _Layer, x: Any, rows: Rows, x_prev: Any) -> Any:
        """Channel mixing."""
        xx = layer_norm(x, x.shape[-1:], *layer.ffn_norm)
        base, step = self._lerp(xx, rows.shift(xx, x_prev))
        r = torch.sigmoid(layer.ffn_receptance(torch.addcmul(base, step, layer.ffn_mix["r"])))
        k = torch.relu(layer.ffn_key(torch.addcmul(base, step, layer.ffn_mix["k"]))).square()
        return r * layer.ffn_value(k)

    def _layer(self, weights: dict[str, Any], matrices: Matrices, number: int, slot: Any) -> _Layer:
        block = f"blocks.{number}."

        def product(name: str, dtype: Any = None) -> Product:
            return matrices.product(f"{block}{name}.weight", slot.device, stream=slot.stream, dtype=dtype)

        def pair(name: str, *ends: str) -> tuple[Any, Any]:
            first, second = (weights[f"{block}{name}{end}"] for end in ends or (".weight", ".bias"))
            return first, second

        prefix = "time_maa_" if self._is_v6 else "time_mix_"
        gated = f"{block}att.gate.weight" in weights
        letters = "xwkvrg" if self._is_v6 else "kvrg" if gated else "kvr"
        return _Layer(
            device=slot.device,
            dtype=slot.atype,
            norm=pair("ln1"),
            mix={letter: weights[f"{block}att.{prefix}{letter}"] for letter in letters},
            maa=pair("att.time_maa_w", "1", "2") if self._is_v6 else None,
            time_decay=weights[f"{block}att.time_decay"],
            time_first=weights[f"{block}att.time_first"],
            decay=pair("att.time_decay_w", "1", "2") if self._is_v6 else None,
            group_norm=pair("att.ln_x"),
            receptance=product("att.receptance", torch.float32),
            key=product("att.key", torch.float32),
            value=product("att.value", torch.float32),
            gate=product("att.gate") if gated else None,
            output=product("att.output"),
            ffn_norm=pair("ln2"),
            ffn_mix={letter: weights[f"{block}ffn.{prefix}{letter}"] for letter in "kr"},
            ffn_key=product("ffn.key"),
            ffn_value=product("ffn.value"),
            ffn_receptance=product("ffn.receptance"),
        )


def _recur(state: Any, time_first: Any, r: Any, w: Any, k: Any, v: Any) -> Any:
    """One token: returns r (state + time_first k v), then state becomes w state + k v, in place.

    `state` is [… heads, size, size], the others [… heads, size]; all are float32.
    """
    out = (state * r.unsqueeze(-1)).sum(-2) + (r * time_first * k).sum(-1, keepdim=True) * v
    state.mul_(w.unsqueeze(-1)).addcmul_(k.unsqueeze(-1), v.unsqueeze(-2))
    return out
