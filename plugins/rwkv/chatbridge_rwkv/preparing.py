"""What the rwkv package makes of each tensor of a model while it loads it for a strategy, bit for bit.

It turns matrices over, packs them, halves some against overflow, and puts the first norm into the embedding. A file in
which this is done already is what it calls converted. Here it is done one tensor at a time; the package does it with
the whole model in memory. Knows tensors; reads and writes no file. Source: rwkv 0.8.32, `RWKV.__init__` in model.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from chatbridge_rwkv.strategy import Slot

VERSION = "0.7"
"""Of the form, as the package writes it into `_version`."""

FIRST_NORM = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")
"""What becomes a part of the embedding."""

EMBEDDING = "emb.weight"
_RESCALED = ("att.output.weight", "ffn.value.weight")
_TURNED = ("key.weight", "value.weight", "receptance.weight", "gate.weight", "output.weight", "head.weight")
_SQUEEZED = ".time_"
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def rescale_layer(strategy: str) -> int:
    """After how many layers the package halves what it computes, so that fp16 does not overflow; 0 where it never does.

    RWKV_RESCALE_LAYER, which the package reads, too, says otherwise.
    """
    with suppress(KeyError, ValueError):
        return int(os.environ["RWKV_RESCALE_LAYER"])
    return 6 if "fp16" in strategy else 0


class Kind(Enum):
    """What becomes of a tensor."""

    DECAY = "time_decay, as it is multiplied by"
    FIRST = "time_first, likewise"
    NORM = "the norm over heads"
    PACKED = "a matrix in 8 bits"
    PLAIN = "in the layer's type"


@dataclass(frozen=True, slots=True)
class Form:
    """A tensor to be: `dtype` as torch calls it. `strides`: in numbers, of a matrix turned over; else empty."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a model is prepared. `version`, `heads`: of the model, as the checkpoint has them; `slots`: of its layers and
    of the head. `exponents`: the model has `time_first` as it is to be used, and not its logarithm (`time_faaaa`)."""

    version: float
    heads: int
    slots: Sequence[Slot]
    rescale: int
    exponents: bool

    def forms(self, name: str, shape: Sequence[int]) -> list[Form]:
        """What `prepared` makes of a tensor of that shape, told without its numbers."""
        slot = self._place(name)[1]
        sizes = tuple(size for size in shape if size != 1) if _SQUEEZED in name else tuple(shape)
        turned = _is_turned(name) and len(sizes) == 2
        sizes = sizes[::-1] if turned else sizes
        strides = (1, sizes[0]) if turned and min(sizes) > 1 else ()
        own, kind, dtype = _new_name(name), _kind(name, len(sizes), slot), _word(_TYPES[slot.type])
        if kind in (Kind.DECAY, Kind.FIRST):
            return [Form(own, self._of_heads(sizes), "float32")]
        if kind is Kind.NORM:
            return [Form(own, sizes, "float32")]
        if kind is Kind.PLAIN:
            return [Form(own, sizes, dtype, strides)]
        rows, columns = sizes
        scales = {"_mx": (columns,), "_my": (rows, 1), "_rx": (columns,), "_ry": (rows, 1)}
        packed = Form(own, sizes, "uint8", strides)
        return [packed, *(Form(f"{own}{end}", scale, dtype) for end, scale in scales.items())]

    def prepared(self, name: str, tensor: Any, norm: Sequence[Any] = ()) -> dict[str, Any]:
        """What the tensor becomes, by its new name: itself, or its bytes and their four rows of scales.

        A matrix turned over is a view, so that its numbers lie in memory as they lay before. `norm`: the tensors of
        FIRST_NORM, for the embedding.
        """
        if name == EMBEDDING:
            tensor = _normed(tensor, norm)
        layer, slot = self._place(name)
        if self.rescale > 0 and any(part in name for part in _RESCALED):
            tensor = tensor / (2 ** (layer // self.rescale))
        if _SQUEEZED in name:
            tensor = tensor.squeeze()
        if _is_turned(name):
            tensor = tensor.t()
        own, kind = _new_name(name), _kind(name, tensor.dim(), slot)
        if kind is Kind.DECAY:
            return {own: self._decay(tensor.float()).reshape(self._of_heads(tensor.shape))}
        if kind is Kind.FIRST:
            first = tensor.float() if self.version == 4 or self.exponents else torch.exp(tensor.float())
            return {own: first.reshape(self._of_heads(tensor.shape))}
        if kind is Kind.NORM:
            return {own: tensor.float()}
        if kind is Kind.PACKED:
            return _packed(own, tensor, _TYPES[slot.type])
        return {own: tensor.to(_TYPES[slot.type])}

    def _place(self, name: str) -> tuple[int, Slot]:
        """The layer that it counts to, the head being the one behind the last, and where that goes."""
        layer = int(name.split(".")[1]) if "blocks." in name else 0
        if "ln_out." in name or "head." in name:
            layer = len(self.slots) - 1
        return layer, self.slots[layer]

    def _decay(self, tensor: Any) -> Any:
        if self.version == 4:
            return -torch.exp(tensor)
        return tensor if self.version == 6 else torch.exp(-torch.exp(tensor))

    def _of_heads(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The shape of what each head has one or some numbers of."""
        if self.version == 4:
            return tuple(sizes)
        if self.version in (5.2, 6.0):
            return (self.heads, prod(sizes) // self.heads, 1)
        return (prod(sizes), 1, 1)


def _is_turned(name: str) -> bool:
    return any(part in name for part in _TURNED)


def _new_name(name: str) -> str:
    return name.replace(".time_faaaa", ".time_first")


def _kind(name: str, axes: int, slot: Slot) -> Kind:
    if ".time_decay" in name and "_w" not in name:
        return Kind.DECAY
    if ".time_first" in name or ".time_faaaa" in name:
        return Kind.FIRST
    if ".ln_x" in name:
        return Kind.NORM
    matrix = axes == 2 and "emb" not in name and "_w1" not in name and "_w2" not in name
    return Kind.PACKED if matrix and slot.quantised else Kind.PLAIN


def _word(kind: Any) -> str:
    return str(kind).removeprefix("torch.")


def _normed(embedding: Any, norm: Sequence[Any]) -> Any:
    """In the type of the file, whatever the strategy says; in float32 where torch has no such norm."""
    weight, bias = norm
    try:
        return F.layer_norm(embedding, (embedding.shape[1],), weight=weight, bias=bias)
    except RuntimeError:
        return F.layer_norm(embedding.float(), (embedding.shape[1],), weight=weight.float(), bias=bias.float())


def _packed(name: str, tensor: Any, kind: Any) -> dict[str, Any]:
    """A matrix [in, out] in 8 bits: a weight is (byte + 0.5) * ry * rx + my + mx, by numbers of its row and its column.

    Reckoned in the place of its float32, so that it lies in memory once.
    """
    own = tensor.float() if tensor.dtype != torch.float32 else tensor.clone(memory_format=torch.preserve_format)
    least_in_rows = least_in_columns = None
    for rows in (own.shape[0] > own.shape[1], own.shape[0] <= own.shape[1]):
        if rows:
            least_in_rows = torch.amin(own, dim=1).unsqueeze(1)
            own.sub_(least_in_rows)
        else:
            least_in_columns = torch.amin(own, dim=0)
            own.sub_(least_in_columns)
    most_in_columns = torch.amax(own, dim=0)
    own.div_(most_in_columns)
    most_in_rows = torch.amax(own, dim=1).unsqueeze(1)
    own.div_(most_in_rows)
    scales = {"_mx": least_in_columns, "_my": least_in_rows, "_rx": most_in_columns / 16, "_ry": most_in_rows / 16}
    found = {name: own.mul_(256).floor_().clamp_(0, 255).to(torch.uint8)}
    return found | {f"{name}{end}": scale.to(kind).contiguous() for end, scale in scales.items()}
