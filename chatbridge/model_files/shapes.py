"""Measures a model by the names and shapes of its tensors, as the table of families says. Reads no file.

Tensor-parallel parts are joined in thought: how many there should be is seen in one of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from chatbridge.model_files.families import CONFIG_KEYS, EMBEDDINGS, FAMILIES, NO_WEIGHTS, Family
from chatbridge.model_files.tensors import TensorInfo

Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the shapes tell; 0 where they don't. `degree`: tensor-parallel parts of the whole model.

    `numbers`: of the layers that are there. `bits`: of packed weights; `embedding_bits`: of a packed embedding;
    `packed`: columns of a packed matrix that has `width` unpacked.
    `head`: rows of the matrix that gives the logits.
    """

    numbers: tuple[int, ...] = ()
    width: int = 0
    heads: int = 0
    inner: int = 0
    vocabulary: int = 0
    head: int = 0
    parameters: int = 0
    degree: int = 1
    bits: int = 0
    embedding_bits: int = 0
    packed: int = 0

    @property
    def layers(self) -> int:
        return self.numbers[-1] + 1 if self.numbers else 0


def family_of(names: Iterable[str], layouts: Collection[str] = ()) -> Family | None:
    """The first family whose marks are all among the names. `layouts`: those that may be, all unless given."""
    text = "\n".join(names)
    for family in FAMILIES:
        before = re.escape(family.prefix)
        found = (re.search(rf"^(?:{before})?{mark}", text, re.MULTILINE) for mark in family.marks)
        if (not layouts or family.layout in layouts) and all(found):
            return family
    return None


def without_prefix(family: Family, tensors: Tensors) -> Tensors:
    """The tensors by their names as the table has them."""
    return {name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}


def measure(family: Family, parts: Sequence[Tensors], aliases: Collection[str] = ()) -> Sizes:
    """The sizes of a model in tensor-parallel parts, of which not all need be there; names without prefix.

    `aliases`: tensors that are others once more. Where parts are missing, the first stands for them.
    """
    first = parts[0]
    layer = re.compile(re.escape(family.layer).replace(r"\{\}", r"(\d{1,6})"))
    numbers = tuple(sorted({int(found[1]) for name in first if (found := layer.match(name))}))
    some = numbers[0] if numbers else 0

    def size(name: str, axis: int = 0) -> int:
        tensor = first.get(name.format(some))
        return tensor.shape[axis] if tensor is not None and axis < len(tensor.shape) else 0

    width = size(family.width)
    degree = 1
    if family.degree is not None and size(family.degree[0]):
        degree = max(1, family.degree[1] * width // size(family.degree[0]))
    packed = size(f"{family.packed}.weight", 1) if size(f"{family.packed}.weight_scale") else 0
    bits = _bits(packed, width)
    columns, scale = size(family.embedding, 1), size(f"{family.embedding}_scale")
    embedding_bits = _bits(columns, width) if scale else 0
    inner = size(family.inner[0], family.inner[1]) * degree // family.inner[2] if family.inner else 0
    counted = [
        _parameters(family, part, aliases, bits, 1 + (max(0, degree - len(parts)) if part is first else 0))
        for part in parts
    ]
    return Sizes(
        numbers=numbers,
        width=width,
        heads=_heads(size(family.heads[0]), family.heads[1], width) if family.heads else 0,
        inner=inner,
        vocabulary=_rows(parts, family.embedding or _embedding(first), width, degree),
        head=_rows(parts, family.head, width, degree),
        parameters=sum(own for own, _ in counted) + counted[0][1],
        degree=degree,
        bits=bits,
        embedding_bits=embedding_bits,
        packed=packed,
    )


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a config.json or params.json says, by our names for them."""
    within = config.get("text_config")
    values = {**within, **config} if isinstance(within, dict) else config
    found = {}
    for ours, keys in CONFIG_KEYS.items():
        number = next((values[key] for key in keys if isinstance(values.get(key), int)), 0)
        if 0 < number < 1 << 31:
            found[ours] = int(number)
    return found


def types_in(parts: Iterable[Tensors]) -> Counter[str]:
    """Bytes by the tensors' types, the most first."""
    found: Counter[str] = Counter()
    for part in parts:
        for name, tensor in part.items():
            if not name.endswith(NO_WEIGHTS):
                found[tensor.dtype] += tensor.nbytes
    return found


def uneven_layers(family: Family, tensors: Tensors) -> str:
    """What some layers have and others lack, in words; "" where all are alike, as in every family of the table."""
    layer = re.compile(re.escape(family.layer).replace(r"\{\}", r"(\d{1,6})") + "(.+)")
    ends: dict[int, set[str]] = {}
    for name in tensors:
        if (found := layer.fullmatch(name)) and not found[2].startswith(family.uneven or "\0"):
            ends.setdefault(int(found[1]), set()).add(found[2])
    common = Counter(end for own in ends.values() for end in own)
    usual = {end for end, count in common.items() if count > len(ends) // 2}
    if gaps := [*islice((number for number in range(max(ends, default=0)) if number not in ends), 3)]:
        return f"layer {', '.join(map(str, gaps))} of {max(ends) + 1} is not there"
    for number, own in sorted(ends.items()):
        if lost := sorted(usual - own):
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            return f"{family.layer.format(number)}{lost[0]}{more} is not there, and other layers have it"
    return ""


def _heads(length: int, channels: int, width: int) -> int:
    if not channels:
        return length
    return width // (channels * length) if length else 0


def _bits(columns: int, width: int) -> int:
    """8 where each column is a weight, 4 where it is two; 0 where it can be neither."""
    return 0 if not columns else 8 if columns == width else 4 if columns * 2 == width else 0


def _embedding(tensors: Tensors) -> str:
    return next((name for name in tensors if name.endswith(EMBEDDINGS)), "")


def _rows(parts: Sequence[Tensors], name: str, width: int, degree: int) -> int:
    """Rows of the embedding or head: cut by columns each part has all of them, cut by rows they add up."""
    shapes = [part[name].shape for part in parts if name in part and len(part[name].shape) == 2]
    if not shapes:
        return 0
    rows, columns = shapes[0]
    if degree == 1:
        return columns if rows == width else rows  # turned, as the rwkv package does when it converts a file
    if columns != width:
        return rows
    return sum(shape[0] for shape in shapes) + max(0, degree - len(shapes)) * rows


def _parameters(family: Family, tensors: Tensors, aliases: Collection[str], bits: int, times: int) -> tuple[int, int]:
    """Of one part, `times` over: those that are its own, and those that each part has."""
    own = copied = 0
    for name, tensor in tensors.items():
        if name.endswith(NO_WEIGHTS) or name in family.tied or name in aliases:
            continue
        size = tensor.size * _in_one(name, tensor, tensors, bits)
        if name.endswith(family.copied):
            copied += size
        else:
            own += size * times
    return own, copied


def _in_one(name: str, tensor: TensorInfo, tensors: Tensors, bits: int) -> int:
    """How many weights one number holds."""
    if name.endswith(".qweight"):
        return 8  # GPTQ and AWQ: 4 bits of 32, as nearly all are
    if f"{name}.absmax" in tensors and tensor.dtype == "uint8":
        return 2
    return 2 if bits == 4 and tensor.dtype == "int8" and f"{name}_scale" in tensors else 1
