"""RWKV-5 and 6 for many conversations at once, with the package's weights: the formulas of its `att_one_v5` to `v6_0`.

The matrix products are taken over all tokens of all conversations; only the recurrence goes token by token.
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

    `mix`: how each input is mixed, by its letter; of RWKV-6 also `x`, and `looks`, two matrices by which a token itself
    has a say in it. `decay`, `first`: [heads, size or 1, 1]; `fades`: two matrices by which a token says how much it
    forgets (RWKV-6). `gate`: none in RWKV-5.0.
    """

    device: str
    dtype: Any
    norm: tuple[Any, Any]
    mix: dict[str, Any]
    looks: tuple[Any, Any] | None
    decay: Any
    first: Any
    fades: tuple[Any, Any] | None
    group_norm: tuple[Any, Any]
    receptance: Product
    key: Product
    value: Product
    gate: Product | None
    output: Product
    feed_norm: tuple[Any, Any]
    feed_mix: dict[str, Any]
    feed_key: Product
    feed_value: Product
    feed_receptance: Product


class BatchedV5:
    """Computes with the weights of the package's `model`."""

    batched = True

    def __init__(self, model: Any, matrices: Matrices) -> None:
        weights = model.w
        self._sixth = model.version >= 6
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
        for number, (layer, (seen, seen_too, memory)) in enumerate(zip(self._layers, batch.layers, strict=True), 1):
            x = x.to(layer.device, layer.dtype)
            x = x + self._attention(layer, x, rows, seen, memory)
            x = x + self._feed_forward(layer, x, rows, seen_too)
            if self._rescale and number % self._rescale == 0:
                x = x / 2
        if not wanted:
            return torch.empty(0)
        device, dtype = self._head_place
        x = rows.last(x, wanted).to(device, dtype)
        return self._head(layer_norm(x, x.shape[-1:], *self._norm)).float()

    def _attention(self, layer: _Layer, x: Any, rows: Rows, seen: Any, memory: Any) -> Any:
        now = layer_norm(x, x.shape[-1:], *layer.norm)
        base, step = self._ways(now, rows.before(now, seen))
        mix = layer.mix
        if layer.looks is not None:
            first, second = layer.looks
            looked = torch.tanh(torch.addcmul(base, step, mix["x"]) @ first).view(rows.count, 5, -1).transpose(0, 1)
            moved = torch.bmm(looked, second)
            mix = {letter: mix[letter] + moved[place] for place, letter in enumerate("wkvrg")}
        heads = (rows.count, self._heads, -1)
        r, k, v = (
            product(torch.addcmul(base, step, mix[letter])).float().view(heads)
            for product, letter in ((layer.receptance, "r"), (layer.key, "k"), (layer.value, "v"))
        )
        w = layer.decay.squeeze(-1).expand(rows.count, -1, -1)
        if layer.fades is not None:
            wx = torch.addcmul(base, step, mix["w"])
            own = (torch.tanh(wx @ layer.fades[0]) @ layer.fades[1]).float().view(heads)
            w = torch.exp(-torch.exp(w + own))
        said = self._remember(rows, memory, layer.first.squeeze(-1), (r, w, k, v))
        said = group_norm(said.flatten(1), self._heads, *layer.group_norm, eps=64e-5).to(x.dtype)
        if layer.gate is not None:
            said = said * silu(layer.gate(torch.addcmul(base, step, mix["g"])))
        return layer.output(said)

    def _ways(self, now: Any, before: Any) -> tuple[Any, Any]:
        """From where to where inputs are mixed: RWKV-6 counts from what is now, RWKV-5 from what was before."""
        return (now, before - now) if self._sixth else (before, now - before)

    def _remember(self, rows: Rows, memory: Any, first: Any, parts: Sequence[Any]) -> Any:
        """What each token reads from memory [conversations, heads, size, size] and then writes to it."""
        if rows.single:
            return _recur(memory, first, *parts)
        said = torch.empty_like(parts[0])
        if rows.singles:
            own = memory[rows.singles]
            said[rows.at] = _recur(own, first, *(part[rows.at] for part in parts))
            memory[rows.singles] = own
        for row, start, end in rows.spans:
            for at in range(start, end):
                said[at] = _recur(memory[row], first, *(part[at] for part in parts))
        return said

    def _feed_forward(self, layer: _Layer, x: Any, rows: Rows, seen: Any) -> Any:
        now = layer_norm(x, x.shape[-1:], *layer.feed_norm)
        base, step = self._ways(now, rows.before(now, seen))
        r = torch.sigmoid(layer.feed_receptance(torch.addcmul(base, step, layer.feed_mix["r"])))
        k = torch.relu(layer.feed_key(torch.addcmul(base, step, layer.feed_mix["k"]))).square()
        return r * layer.feed_value(k)

    def _layer(self, weights: dict[str, Any], matrices: Matrices, number: int, slot: Any) -> _Layer:
        block = f"blocks.{number}."

        def product(name: str, dtype: Any = None) -> Product:
            return matrices.product(f"{block}{name}.weight", slot.device, stream=slot.stream, dtype=dtype)

        def pair(name: str, *ends: str) -> tuple[Any, Any]:
            first, second = (weights[f"{block}{name}{end}"] for end in ends or (".weight", ".bias"))
            return first, second

        kind = "time_maa_" if self._sixth else "time_mix_"
        gated = f"{block}att.gate.weight" in weights
        letters = "xwkvrg" if self._sixth else "kvrg" if gated else "kvr"
        return _Layer(
            device=slot.device,
            dtype=slot.atype,
            norm=pair("ln1"),
            mix={letter: weights[f"{block}att.{kind}{letter}"] for letter in letters},
            looks=pair("att.time_maa_w", "1", "2") if self._sixth else None,
            decay=weights[f"{block}att.time_decay"],
            first=weights[f"{block}att.time_first"],
            fades=pair("att.time_decay_w", "1", "2") if self._sixth else None,
            group_norm=pair("att.ln_x"),
            receptance=product("att.receptance", torch.float32),
            key=product("att.key", torch.float32),
            value=product("att.value", torch.float32),
            gate=product("att.gate") if gated else None,
            output=product("att.output"),
            feed_norm=pair("ln2"),
            feed_mix={letter: weights[f"{block}ffn.{kind}{letter}"] for letter in "kr"},
            feed_key=product("ffn.key"),
            feed_value=product("ffn.value"),
            feed_receptance=product("ffn.receptance"),
        )


def _recur(memory: Any, first: Any, r: Any, w: Any, k: Any, v: Any) -> Any:
    """One token: what `r` reads from memory [… heads, size, size] and of this token, which counts `first` times.

    Then memory fades by `w` and takes the token in, in place. All are float32.
    """
    said = (memory * r.unsqueeze(-1)).sum(-2) + (r * first * k).sum(-1, keepdim=True) * v
    memory.mul_(w.unsqueeze(-1)).addcmul_(k.unsqueeze(-1), v.unsqueeze(-2))
    return said
