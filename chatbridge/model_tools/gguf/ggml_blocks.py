"""Blocks of quantised weights as llama.cpp laid them out before GGUF: unpacked, or put into today's layout.

Until ggjt 2, scales of some types had 32 bits; until ggjt 1, a byte held two neighbours and not an element of each half
(llama.cpp, pull requests 1405 and 1508). Everything else is as today, and left to the `gguf` package. Knows rows of
bytes; knows no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chatbridge.errors import ModelLoadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chatbridge.model_files.arrays import Floats

    Raw = NDArray[np.uint8]

PLAIN: Mapping[str, np.dtype[np.generic]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
"""Types that are no blocks."""

_NEIGHBOURS = 2
"""From this version of ggjt on, the first half of a block is in the low bits; before, elements of even numbers."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Scale, minimum if there is one, then the numbers, each less `zero`."""

    size: int
    scale: str
    bits: int
    zero: int = 0
    minimum: bool = False


_OLD = {
    "Q4_0": _Layout(32, "<f4", 4, zero=8),
    "Q4_1": _Layout(32, "<f4", 4, minimum=True),
    "Q4_2": _Layout(16, "<f2", 4, zero=8),
    "Q4_3": _Layout(16, "<f2", 4, minimum=True),
    "Q8_0": _Layout(32, "<f4", 8),
}
"""Those that ggjt 3 lays out otherwise, or does not have."""

_FIVE_BITS = {"Q5_0": 22, "Q5_1": 24}
"""Bytes of blocks that have changed in the order of their 4 lower bits alone, which are the last 16."""

_LOW, _FOUR = np.uint8(15), np.uint8(4)

_LEAST, _MOST = 1e-20, 65504.0
"""Between what sizes a scale of weights lies. Rows whose scales all stand first, as llama.cpp wrote them in its first
days, show others, since numbers are read for scales."""


GONE = ("Q4_2", "Q4_3")
"""Types that today's GGUF does not have."""


def unpack(raw: Raw, kind: str, version: int, where: str) -> Floats:
    """Rows of bytes as float32, `(rows, columns)`: what llama.cpp computed with. `where`: what it is, for errors.

    Raises ModelLoadError for scales that are none.
    """
    if kind in PLAIN:
        plain: Floats = raw.view(PLAIN[kind]).astype(np.float32)
        return plain
    layout = _OLD.get(kind) if version < 3 else None
    if layout is None:
        import gguf
        from gguf.quants import dequantize

        found: Floats = dequantize(take_over(raw, kind, version, where), gguf.GGMLQuantizationType[kind])
        return found
    scales, minima, numbers = _taken_apart(raw, layout, version, where)
    floats = (numbers.astype(np.float32) - np.float32(layout.zero)) * scales + minima
    return floats.reshape(len(raw), -1)


def take_over(raw: Raw, kind: str, version: int, where: str) -> Raw:
    """Rows of bytes in today's layout, `(rows, bytes)`, with the same numbers to the bit.

    Raises ModelLoadError where that can't be: scales that have more bits than today's.
    """
    if (version >= _NEIGHBOURS and (version >= 3 or kind not in _OLD)) or kind in PLAIN:
        return raw
    if kind in _FIVE_BITS:
        blocks = raw.reshape(-1, _FIVE_BITS[kind])
        return np.concatenate([blocks[:, :-16], _halves(_nibbles(blocks[:, -16:], version))], axis=1).reshape(raw.shape)
    layout = _OLD.get(kind)
    if layout is None or kind in GONE:
        raise ModelLoadError(f"{where}: today's GGUF has no {kind}; unpack it by --to f16 or f32")
    scales, minima, numbers = _taken_apart(raw, layout, version, where)
    parts = [_in_16_bits(scales, kind, where)]
    if layout.minimum:
        parts.append(_in_16_bits(minima, kind, where))
    in_bytes = numbers.view(np.uint8)
    parts.append(in_bytes if layout.bits == 8 else _halves(in_bytes))
    return np.concatenate(parts, axis=1).reshape(len(raw), -1)


def _taken_apart(raw: Raw, layout: _Layout, version: int, where: str) -> tuple[Floats, Floats, NDArray[np.generic]]:
    """Scales and minima, `(blocks, 1)`, and the numbers, `(blocks, size)`."""
    width = np.dtype(layout.scale).itemsize
    head = width * (1 + layout.minimum)
    blocks = raw.reshape(-1, head + layout.size * layout.bits // 8)
    found = np.ascontiguousarray(blocks[:, :head]).view(layout.scale).astype(np.float32)
    sizes = np.abs(found)
    if not np.all((sizes <= _MOST) & ((sizes >= _LEAST) | (sizes == 0))):  # not so for NaN, too
        wrong = found[~(sizes <= _MOST) | ((sizes < _LEAST) & (sizes > 0))][0]
        raise ModelLoadError(
            f"{where}: one of its blocks has the scale {wrong:g}, which is none: the file is damaged, or so old (until "
            f"March 2023) that all scales of a row stand before its numbers, which is not read here; convert the model "
            f"again"
        )
    packed = blocks[:, head:]
    minima = found[:, 1:] if layout.minimum else np.zeros((1, 1), np.float32)
    if layout.bits == 8:
        return found[:, :1], minima, packed.view(np.int8)
    return found[:, :1], minima, _nibbles(packed, version)


def _nibbles(packed: Raw, version: int) -> Raw:
    """The numbers of 4 bits in their order, each in a byte."""
    low, high = packed & _LOW, packed >> _FOUR
    if version < _NEIGHBOURS:
        return np.stack([low, high], axis=-1).reshape(len(packed), -1)
    return np.concatenate([low, high], axis=1)


def _halves(numbers: Raw) -> Raw:
    """Numbers of 4 bits as today's blocks have them: the first half of them in the low bits."""
    half = numbers.shape[1] // 2
    return (numbers[:, :half] & _LOW) | (numbers[:, half:] << _FOUR)


def _in_16_bits(found: Floats, kind: str, where: str) -> Raw:
    half = found.astype("<f2")
    if not np.array_equal(half.astype(np.float32), found):
        first = found[half.astype(np.float32) != found][0]
        raise ModelLoadError(
            f"{where}: it has the scale {first:.9g}, of 32 bits, and {kind} of today has 16 ({np.float16(first):.9g}), "
            f"so it can't be taken over as it is; unpack it by --to f16 or f32"
        )
    return np.ascontiguousarray(half).view(np.uint8).reshape(len(found), -1)
