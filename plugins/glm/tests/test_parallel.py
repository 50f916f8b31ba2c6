"""One table says how tensors are cut; every degree is made of every other by it, as the original code makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from chatbridge_glm.parallel import CUTS, Cut, cut_of, cut_shape, pieces
from hypothesis import given
from hypothesis import strategies as st

degrees = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24])


def cut(kind: Cut, whole: Any, degree: int) -> list[Any]:
    """As tools/convert_tp.py of THUDM/GLM-130B cuts."""
    if kind is Cut.SAME:
        return [whole] * degree
    if kind is Cut.HALVES:
        first, second = (half.chunk(degree) for half in whole.chunk(2))
        return [torch.cat(pair) for pair in zip(first, second, strict=True)]
    return list(whole.chunk(degree, dim=1 if kind is Cut.COLUMNS else 0))


def put_together(found: Sequence[Any], columns: bool) -> Any:
    return torch.cat([*found], dim=1 if columns else 0)


@given(st.sampled_from(Cut), degrees, degrees, st.booleans())
def test_every_degree_is_made_of_every_other(kind: Cut, degree: int, wanted: int, flat: bool) -> None:
    whole = torch.arange(48) if flat and kind is not Cut.COLUMNS else torch.arange(48 * 48).view(48, 48)
    shards = cut(kind, whole, degree)
    for rank, expected in enumerate(cut(kind, whole, wanted)):
        parts = []
        for piece in pieces(kind, shards[0].shape, degree, rank, wanted):
            rows = shards[piece.shard][piece.first : piece.last]
            parts.append(rows if piece.columns is None else rows[:, slice(*piece.columns)])
        found = put_together(parts, kind is Cut.COLUMNS)
        assert torch.equal(found, expected)
        assert cut_shape(kind, shards[0].shape, degree, wanted) == tuple(expected.shape)


@pytest.mark.parametrize("kind", [Cut.ROWS, Cut.HALVES, Cut.COLUMNS])
def test_what_does_not_divide_is_refused_with_both_numbers(kind: Cut) -> None:
    with pytest.raises(ValueError, match=r"[48] can't be cut into 3 equal parts"):
        pieces(kind, (8, 8), 1, 0, 3)


def test_halves_of_odd_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="7 rows have no two halves"):
        pieces(Cut.HALVES, (7, 8), 1, 0, 1)


def test_names_say_how_a_tensor_is_cut() -> None:
    layer = "transformer.layers.3."
    for name, kind in {
        "transformer.word_embeddings.weight": Cut.ROWS,
        f"{layer}attention.query_key_value.weight": Cut.ROWS,
        f"{layer}attention.query_key_value.weight_scale": Cut.ROWS,
        f"{layer}attention.query_key_value.bias": Cut.ROWS,
        f"{layer}attention.dense.weight": Cut.COLUMNS,
        f"{layer}attention.dense.weight_scale": Cut.SAME,
        f"{layer}attention.dense.bias": Cut.SAME,
        f"{layer}mlp.dense_h_to_4h.weight": Cut.HALVES,
        f"{layer}mlp.dense_h_to_4h.weight_scale": Cut.HALVES,
        f"{layer}mlp.dense_h_to_4h.bias": Cut.HALVES,
        f"{layer}mlp.dense_4h_to_h.weight": Cut.COLUMNS,
        f"{layer}mlp.dense_4h_to_h.bias": Cut.SAME,
        f"{layer}input_layernorm.weight": Cut.SAME,
        f"{layer}attention.rotary_emb.inv_freq": Cut.SAME,
        "transformer.final_layernorm.bias": Cut.SAME,
    }.items():
        assert cut_of(name) is kind, name
    assert len(CUTS) == 5
