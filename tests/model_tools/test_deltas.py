"""What an adapter adds to a matrix, how strong that is, and what no adapter may say."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import ModelDescription
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import as_float32
from chatbridge.model_tools.merging import lora
from chatbridge.model_tools.merging.adapted import Merged, _Change
from chatbridge.model_tools.merging.lora import Adapter, Delta, norm_of, read_adapter, turned_sideways
from chatbridge.model_tools.merging.merge import in_order
from chatbridge.model_tools.merging.perplexity import encode

from .merging import write_arrays
from .test_matrices import Known, counted

LAYER = "base_model.model.model.layers.0.self_attn"


class Stored(Known):
    """As a tensor of a file."""

    rows = property(lambda self: self.shape[0])

    def floats(self, first: int = 0, last: int | None = None) -> np.ndarray:
        return as_float32(self.array[first:last], self.dtype)

    def slices(self) -> list[tuple[int, int]]:
        return [(row, row + 1) for row in range(self.shape[0])]


DOWN, UP = counted(2, 3), counted(4, 2) - 3
DELTA = Delta(Stored(DOWN), Stored(UP), 0.5)  # type: ignore[arg-type]


def test_what_is_added_is_the_product_of_both_by_its_scale() -> None:
    whole = UP @ DOWN * np.float32(0.5)
    sideways = turned_sideways(DELTA)
    assert (DELTA.shape, sideways.shape, turned_sideways(sideways)) == ((4, 3), (3, 4), DELTA)
    np.testing.assert_array_equal(DELTA.rows(0, 4), whole)
    np.testing.assert_array_equal(DELTA.rows(1, 3), whole[1:3])
    np.testing.assert_array_equal(sideways.rows(1, 3), whole.T[1:3])
    for one, made in ((DELTA, whole), (sideways, whole.T)):
        down, up = one.narrow()
        np.testing.assert_array_equal(up @ down, made)
        assert one.norm() == pytest.approx(float(np.linalg.norm(whole)))
    assert Delta(DELTA.down, DELTA.up, -0.5).norm() == DELTA.norm()
    assert Delta(Stored(np.full((2, 3), np.nan, np.float32)), DELTA.up, 1).norm() == math.inf  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_merged_tensor_has_all_that_is_added(dtype: str) -> None:
    own = counted(4, 3)
    alone = Merged("x", _Change(Known(own), "float32"))
    assert alone.read(1, 2) is not own
    np.testing.assert_array_equal(alone.read(1, 3), own[1:3])
    np.testing.assert_array_equal(Merged("x", _Change(Known(own), dtype)).read(1, 3), own[1:3])
    found = Merged("x", _Change(Known(own), dtype, [DELTA, DELTA, DELTA]))
    np.testing.assert_array_equal(found.read(1, 3), own[1:3] + 3 * DELTA.rows(1, 3))
    assert (found.read(0, 4).dtype, found.shape, found.dtype) == (np.dtype(dtype), (4, 3), dtype)
    np.testing.assert_array_equal(own, counted(4, 3))
    source, narrow = found.parted()
    assert (source.shape, len(narrow)) == ((4, 3), 3)


@pytest.mark.parametrize(("dtype", "most"), [("float16", 65504.0), ("bfloat16", 3.38e38)])
def test_a_sum_that_a_type_can_not_hold_is_an_error(dtype: str, most: float) -> None:
    near = np.full((4, 3), most, np.float32)
    nothing = Delta(Stored(np.zeros((2, 3), np.float32)), DELTA.up, 1)  # type: ignore[arg-type]
    Merged("x", _Change(Known(near), dtype, [nothing])).read(0, 4)
    for wrong in (np.full((4, 3), np.nan, np.float32), np.full((4, 3), -3.4e38, np.float32)):
        with pytest.raises(ModelLoadError, match=f"x: merged, it holds numbers that are too large for {dtype}"):
            Merged("x", _Change(Known(wrong), dtype, [nothing])).read(0, 4)


def write(folder: Path, rank: int = 4, shapes: dict[str, tuple[int, ...]] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    usual = {f"{LAYER}.q_proj.lora_A.weight": (rank, 16), f"{LAYER}.q_proj.lora_B.weight": (16, rank), **(shapes or {})}
    arrays = {name: np.ones(shape, np.float32) for name, shape in usual.items()}
    write_arrays(folder / "adapter_model.safetensors", arrays)
    return folder


def read(folder: Path, **more: Any) -> Adapter:
    with ExitStack() as files:
        found = read_adapter(write(folder, **more), files)
        norm_of(found)
    return found


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2),
        ({"use_rslora": True}, 4),
        ({"lora_alpha": 0.5}, 0.125),
        ({"alpha_pattern": {"q_proj": 4}}, 1),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 4}}, 1),
        ({"alpha_pattern": {"layers.[1-9].self_attn.q_proj": 4, ".*": 12}}, 3),
        ({"alpha_pattern": {"proj": 4, "q": 4, "q_proj.x": 4}}, 2),
        ({"alpha_pattern": None}, 2),
        ({"r": 9, "rank_pattern": {"q_proj": 4, ".*": 9}}, 2),
        ({"lora_alpha": 999_999_999}, 999_999_999 / 4),
    ],
)
def test_the_scale_is_alpha_by_rank(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    found = read(tmp_path / "a", **config)
    assert [(name, delta.scale) for name, delta in found.deltas.items()] == [
        ("model.layers.0.self_attn.q_proj.weight", scale)
    ]
    assert (found.rows, found.whole, found.notes) == (0, {}, [])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, "an adapter of the type LOHA, and only LoRA is merged here"),
        ({"alpha_pattern": [1]}, r"alpha_pattern is \[1\], and should be a table of layers"),
        ({"alpha_pattern": {"q": True}}, "alpha_pattern for q is True, and should be a number"),
        ({"alpha_pattern": {"(": 1}}, r"a.adapter_config\.json: alpha_pattern: '.' can't be used"),
        ({"rank_pattern": {"(": 4}}, r"a.adapter_config\.json: rank_pattern: '.' can't be used"),
        ({"rank_pattern": {"q_proj": 2}}, r"rank of .*q_proj: adapter_config\.json says 2, and the tensors 4"),
        ({"r": 2, "rank_pattern": {"v_proj": 4}}, r"rank of .*q_proj: adapter_config\.json says 2, and the tensors 4"),
        ({"lora_alpha": None}, "lora_alpha is not said, and should be a number above 0"),
        ({"lora_alpha": 1e9}, "lora_alpha is 1000000000.0, and should be a number above 0"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', and should be a number above 0"),
        ({"use_dora": True}, "it sets use_dora, which is not merged here"),
        ({"lora_bias": True}, "it sets lora_bias, which is not merged here"),
        ({"lora_alpha": 0, "alpha_pattern": {"q_proj": 0}}, "the adapter changes nothing"),
    ],
)
def test_what_is_not_merged_is_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        read(tmp_path / "a", **config)


def test_tensors_are_parted_into_what_is_added_and_what_takes_a_place(tmp_path: Path) -> None:
    more = {
        "base_model.model.model.embed_tokens.lora_embedding_A": (4, 48),
        "base_model.model.model.embed_tokens.lora_embedding_B": (16, 4),
        "base_model.model.lm_head.modules_to_save.weight": (48, 16),
    }
    found = read(tmp_path / "a", shapes=more, target_modules=["q_proj", "embed_tokens"])
    assert found.deltas["model.embed_tokens.weight"].shape == (48, 16)
    assert (list(found.whole), found.rows) == (["lm_head.weight"], 48)
    for name in ("lora_magnitude_vector", "ia3_l"):
        with pytest.raises(ModelLoadError, match=f"{name} is no part of an adapter that is merged here"):
            read(tmp_path / "a", shapes={f"{LAYER}.q_proj.{name}": (16,)})


def test_ranks_are_merged_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "MAX_RANK", 4)
    read(tmp_path / "a")
    with pytest.raises(ModelLoadError, match="has the rank 5; 4 is the most"):
        read(tmp_path / "a", rank=5)


def adapter(rows: int, name: str) -> Adapter:
    whole = {"lm_head.weight": Stored(np.zeros((rows, 1), np.float32))} if rows else {}
    return Adapter(Path(name), Path(name), ModelDescription(Path(name), "peft"), {}, {}, whole, [])  # type: ignore[arg-type]


def test_adapters_with_a_vocabulary_are_put_by_its_size_and_others_stay() -> None:
    given = [adapter(9, "a"), adapter(0, "b"), adapter(5, "c"), adapter(0, "d"), adapter(7, "e")]
    assert [one.path.name for one in in_order(given)] == ["c", "b", "e", "d", "a"]


def test_numbers_that_are_none_are_told() -> None:
    broken = adapter(2, "a")
    broken.whole["lm_head.weight"].array[1, 0] = np.inf  # type: ignore[attr-defined]
    with pytest.raises(ModelLoadError, match=r"a: lm_head\.weight holds numbers that are none"):
        norm_of(broken)
    assert norm_of(adapter(2, "a")) == 0
    with pytest.raises(ModelLoadError, match="the adapter changes nothing"):
        norm_of(adapter(0, "a"))


def test_pieces_are_joined_by_their_scores_from_the_left() -> None:
    pieces = [("<s>", 0.0), ("\u2581", -9.0), ("a", -9.0), ("b", -9.0), ("aa", -1.0), ("ab", -2.0), ("\u2581a", -3.0),
              ("<0xC3>", 0.0), ("<0xA9>", 0.0), ("aa", -5.0)]  # fmt: skip
    assert encode(pieces, "aaa") == [0, 1, 4, 2]
    assert encode(pieces, "ab") == [0, 1, 5]
    assert encode(pieces, "a a") == [0, 6, 6]
    assert encode(pieces, "\u00e9x") == [0, 1, 7, 8]
    assert encode(pieces[1:], "") == [0]
