"""How tensor parallelism cuts GLM's tensors, as one table; and of which pieces any degree is made out of any other.

Knows names and sizes; reads nothing. Source: THUDM/GLM-130B, tools/convert_tp.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Cut(Enum):
    """How a tensor is cut into shards."""

    SAME = "not at all: each shard has all of it"
    ROWS = "by rows"
    HALVES = "by rows of both halves: a shard has gates, and behind them what they let through"
    COLUMNS = "by columns"


CUTS = {
    "word_embeddings": (Cut.ROWS, Cut.SAME),
    "attention.query_key_value": (Cut.ROWS, Cut.ROWS),
    "attention.dense": (Cut.COLUMNS, Cut.SAME),
    "mlp.dense_h_to_4h": (Cut.HALVES, Cut.HALVES),
    "mlp.dense_4h_to_h": (Cut.COLUMNS, Cut.SAME),
}
"""Of each layer that is cut: how its matrix is, and how what it has one number a row of. All others are not cut."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one shard's tensor: its rows from `first` to before `last`, and of these some columns.

    `columns` is None where the tensor is cut by rows, and of all rows there are all columns.
    """

    shard: int
    first: int
    last: int
    columns: tuple[int, int] | None = None


def cut_of(name: str) -> Cut:
    """How the tensor of that name is cut. The scales of a packed matrix are cut as its rows are."""
    layer, _, kind = name.rpartition(".")
    for ending, (matrix, vector) in CUTS.items():
        if layer == ending or layer.endswith(f".{ending}"):
            return matrix if kind == "weight" else vector
    return Cut.SAME


def scale_of_columns(name: str) -> bool:
    """Whether it holds the scales of a matrix that is cut by columns, each shard of which has scales of its own."""
    return name.endswith(".weight_scale") and cut_of(name.removesuffix("_scale")) is Cut.COLUMNS


def pieces(cut: Cut, shape: Sequence[int], degree: int, rank: int, wanted: int) -> list[Piece]:
    """What shard `rank` of `wanted` is made of, in the order in which it is put together.

    `shape`: of the tensor in each of the `degree` shards that there are. Pieces of columns lie side by side, others one
    below the other. Raises ValueError for what can't be cut into so many equal parts.
    """
    rows = shape[0] if shape else 1
    if cut is Cut.SAME:
        return [Piece(0, 0, rows)]
    if cut is Cut.COLUMNS:
        return [Piece(shard, 0, rows, (first, last)) for shard, first, last in _spans(shape[1], degree, rank, wanted)]
    if cut is Cut.ROWS:
        return [Piece(*span) for span in _spans(rows, degree, rank, wanted)]
    if rows % 2:
        raise ValueError(f"{rows:,} rows have no two halves")
    half = rows // 2
    spans = list(_spans(half, degree, rank, wanted))
    return [Piece(shard, at + first, at + last) for at in (0, half) for shard, first, last in spans]


def cut_shape(cut: Cut, shape: Sequence[int], degree: int, wanted: int) -> tuple[int, ...]:
    """The shape that a tensor has in each of `wanted` shards, of which `shape` is that in each of `degree`."""
    if cut is Cut.SAME:
        return tuple(shape)
    axis = 1 if cut is Cut.COLUMNS else 0
    return tuple(size * degree // wanted if at == axis else size for at, size in enumerate(shape))


def _spans(size: int, degree: int, rank: int, wanted: int) -> Iterator[tuple[int, int, int]]:
    """In which shards a part lies, and there from where to where."""
    whole = size * degree
    if whole % wanted:
        raise ValueError(f"{whole:,} can't be cut into {wanted:,} equal parts")
    each = whole // wanted
    at, end = rank * each, (rank + 1) * each
    while at < end:
        shard, first = divmod(at, size)
        last = min(size, first + end - at)
        yield shard, first, last
        at += last - first
