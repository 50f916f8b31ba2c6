"""Weights of 4 and 8 bits as the ChatGLM project publishes them: packing, unpacking, and products that never unpack a
whole matrix.

Each row has one scale, its greatest absolute weight / 127 or / 7 in half precision. Two weights of 4 bits share a byte:
the even column in the upper half, the odd one in the lower. Knows matrices; knows no layer and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

UNPACKED = 1 << 19
"""Weights that are unpacked at a time: 2 MiB in float32, which a core's own cache bears."""

Product = Callable[[Any], Any]
"""[tokens, in] to [tokens, out], in the type of its argument."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix [out, in] of `bits` 4 or 8: int8 [out, in], or two weights a byte [out, in / 2], and `scale` [out]."""

    weight: Any
    scale: Any
    bits: int

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.weight.shape
        return rows, width * (8 // self.bits)

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes + self.scale.nbytes)

    def to(self, device: Any) -> Packed:
        return Packed(self.weight.to(device), self.scale.to(device), self.bits)


def quantize(weight: Any, bits: int, *, exact: bool = False) -> Packed:
    """Pack a matrix [out, in], bit for bit as the original code packs it from half precision.

    `exact`: it is reckoned in float32, as those were that have a packed embedding, too.
    """
    weight = weight.half().float() if exact else weight.half()
    scale = weight.abs().max(dim=-1).values / (2 ** (bits - 1) - 1)
    packed = torch.empty(weight.shape[0], weight.shape[1] * bits // 8, dtype=torch.int8)
    rows = max(1, UNPACKED // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part, own = weight[start : start + rows], scale[start : start + rows, None]
        # A row of zeros has the scale 0, and 0 / 0 is no number.
        whole = torch.round(part / own).nan_to_num_(0).to(torch.int8)
        packed[start : start + rows] = whole if bits == 8 else (whole[:, 0::2] << 4) | (whole[:, 1::2] & 15)
    return Packed(packed, scale.half(), bits)


def unpack(packed: Packed, dtype: Any, rows: slice = slice(None)) -> Any:
    """Some rows as numbers, [rows, in]."""
    weight, scale = packed.weight[rows], packed.scale[rows, None].to(torch.float32)
    if packed.bits == 4:
        weight = torch.stack((weight >> 4, (weight << 4) >> 4), dim=-1).flatten(1)
    return (weight.to(torch.float32) * scale).to(dtype)


def row_blocks(packed: Packed) -> Iterator[slice]:
    """The rows in parts that are unpacked one at a time."""
    out, width = packed.shape
    rows = max(1, UNPACKED // width)
    for start in range(0, out, rows):
        yield slice(start, min(start + rows, out))


def exact_product(packed: Packed) -> Product:
    """By unpacking some rows at a time: as exact as `unpack`, on every device."""

    def product(x: Any) -> Any:
        found = torch.empty(x.shape[0], packed.shape[0], dtype=x.dtype, device=x.device)
        for rows in row_blocks(packed):
            weight = packed.weight[rows]
            if packed.bits == 8:
                part = F.linear(x, weight.to(x.dtype))
            else:
                part = F.linear(x[:, 0::2], (weight >> 4).to(x.dtype))
                part += F.linear(x[:, 1::2], ((weight << 4) >> 4).to(x.dtype))
            found[:, rows] = part * packed.scale[rows].to(x.dtype)
        return found

    return product


def kernel_product(packed: Packed) -> Product | None:
    """By torch's own kernel for packed weights on processors, in the place of `packed`; None where it can't.

    Its sums are rounded to bfloat16, 8 bits, so this is for `dtype: bf16`.
    """
    out, width = packed.shape
    group = next((size for size in (256, 128, 64, 32) if width % size == 0), 0)
    if packed.weight.device.type != "cpu" or not (group and out % 64 == 0) or not kernel_works(packed.bits):
        return None
    scale = packed.scale.to(torch.float32)
    weight = packed.weight if packed.bits == 8 else _repacked(packed)
    units = _units((out,) if packed.bits == 8 else (width // group, out, 2))

    def product(x: Any) -> Any:
        if packed.bits == 8:
            found = torch._weight_int8pack_mm(x.bfloat16(), weight, units)
        else:
            found = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), weight, group, units)
        return (found.float() * scale).to(x.dtype)

    return product


@cache
def kernel_works(bits: int) -> bool:
    """Whether torch's kernel for these bits is there and agrees with `unpack`, here and now."""
    whole = (torch.arange(64 * 64).view(64, 64) * 37 % 15 - 7).to(torch.int8)
    packed = Packed(whole if bits == 8 else (whole[:, 0::2] << 4) | (whole[:, 1::2] & 15), torch.ones(64).half(), bits)
    x = torch.linspace(-1, 1, 3 * 64).view(3, 64).bfloat16()
    try:
        if bits == 8:
            found = torch._weight_int8pack_mm(x, packed.weight, _units((64,)))
        else:
            weight = _repacked(Packed(packed.weight.clone(), packed.scale, bits))
            found = torch.ops.aten._weight_int4pack_mm_for_cpu(x, weight, 64, _units((1, 64, 2)))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    expected = F.linear(x.float(), unpack(packed, torch.float32))
    return bool((found.float() - expected).abs().max() <= expected.abs().max() / 128)


def _repacked(packed: Packed) -> Any:
    """In the layout of torch's kernel, in the place of the old one. Rows go through in blocks: nothing is doubled."""
    weight = packed.weight
    rows = 64 * max(1, UNPACKED // 64 // packed.shape[1])
    for start in range(0, packed.shape[0], rows):
        block = weight[start : start + rows]
        whole = torch.stack((block >> 4, (block << 4) >> 4), dim=-1).flatten(1).to(torch.int32) + 8
        fresh = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1)
        block.view(torch.uint8).copy_(fresh.view(block.shape))
    return weight.view(torch.uint8)


@cache
def _units(shape: tuple[int, ...]) -> Any:
    """Scales of 1, and zero points of 0 in the last axis of three: rows' own scales are put to the sums, unrounded."""
    units = torch.ones(shape, dtype=torch.bfloat16)
    if len(shape) == 3:
        units[..., 1] = 0
    return units


class Split:
    """A matrix whose columns came in several packed parts, each with scales of its own (tensor-parallel shards)."""

    def __init__(self, parts: Sequence[Product], widths: Sequence[int]) -> None:
        self._parts = parts
        self._widths = list(widths)

    def __call__(self, x: Any) -> Any:
        found = None
        for product, part in zip(self._parts, x.split(self._widths, dim=-1), strict=True):
            found = product(part) if found is None else found + product(part)
        return found


class Stacked:
    """A matrix whose rows came in several parts. `halves`: each has rows of the first half, then of the second."""

    def __init__(self, parts: Sequence[Product], *, halves: bool) -> None:
        self._parts = parts
        self._halves = halves

    def __call__(self, x: Any) -> Any:
        found = [product(x) for product in self._parts]
        if not self._halves:
            return torch.cat(found, dim=-1)
        pairs = [part.chunk(2, dim=-1) for part in found]
        return torch.cat([first for first, _ in pairs] + [second for _, second in pairs], dim=-1)
