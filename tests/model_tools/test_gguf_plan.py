"""What a model becomes as a GGUF file is planned from its configuration and shapes, or refused where these differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import ModelDescription
from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.gguf.checkpoint import Checkpoint, files_of
from chatbridge.model_tools.gguf.gguf_plan import GgufPlan, plan_gguf
from chatbridge.model_tools.tables import form_of
from chatbridge.testing import fixtures, hub_arrays, hub_config, write_hub

from .merging import write_arrays

Arrays = dict[str, np.ndarray]


def planned(folder: Path, kind: str = "llama", arrays: Arrays | None = None, **settings: Any) -> GgufPlan:
    """The plan for a small model. `arrays`: in the place of those that belong to its configuration."""
    config = hub_config(kind, **{"vocab_size": 8, "num_hidden_layers": 1, **settings})
    write_hub(folder, config, hub_arrays(config) if arrays is None else arrays, tokenizer=fixtures() / "llama" / "hf")
    form = form_of("huggingface", kind)
    assert form is not None
    with Checkpoint(ModelDescription(folder, "huggingface"), form) as checkpoint:
        return plan_gguf(ModelDescription(folder, "huggingface"), form, checkpoint, config)


def arrays_of(**settings: Any) -> Arrays:
    return hub_arrays(hub_config(**{"vocab_size": 8, "num_hidden_layers": 1, **settings}))


def refused(folder: Path, words: str, arrays: Arrays | None = None, **settings: Any) -> None:
    with pytest.raises(ModelLoadError) as caught:
        planned(folder, arrays=arrays, **settings)
    assert words in str(caught.value)


def test_a_plan_has_the_sizes_and_keys_of_the_model(tmp_path: Path) -> None:
    found = planned(tmp_path / "m")
    assert found.sizes == {"width": 64, "heads": 4, "head": 16, "q": 64, "qkv": 192, "layers": 1, "vocabulary": 8,
                           "kv": 32, "inner": 96, "kv_heads": 2}  # fmt: skip
    assert found.keys == {
        "vocab_size": 8, "block_count": 1, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count_kv": 2, "context_length": 512, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.head_count": 4, "rope.dimension_count": 16, "rope.freq_base": 10000.0, "attention.key_length": 16,
        "attention.value_length": 16,
    }  # fmt: skip
    assert (found.notes, found.left_out, found.extra) == ((), (), {})
    assert [one.target for one in found.tensors][:4] == [
        "token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_norm.weight"
    ]  # fmt: skip
    orders = {one.target: one.order for one in found.tensors if one.order is not None}
    assert orders.keys() == {"blk.0.attn_q.weight", "blk.0.attn_k.weight"}
    assert orders["blk.0.attn_q.weight"][:18].tolist() == [
        0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 16, 24
    ]  # fmt: skip
    assert (len(orders["blk.0.attn_q.weight"]), len(orders["blk.0.attn_k.weight"])) == (64, 32)


def test_a_head_that_is_the_embedding_has_no_place(tmp_path: Path) -> None:
    found = planned(tmp_path / "m", arrays=arrays_of(), tie_word_embeddings=True)
    assert found.left_out == ("lm_head.weight",)
    assert "output.weight" not in {one.target for one in found.tensors}


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({"sliding_window": 64}, ("its window of 64 tokens is not kept: it sees its whole context",)),
        ({"sliding_window": 64, "use_sliding_window": True},
         ("its window of 64 tokens is not kept: it sees its whole context",)),
        ({"sliding_window": 64, "use_sliding_window": False}, ()),
        ({"sliding_window": None}, ()),
    ],
)  # fmt: skip
def test_a_window_that_is_not_kept_is_told(tmp_path: Path, settings: dict[str, Any], notes: tuple[str, ...]) -> None:
    assert planned(tmp_path / "m", **settings).notes == notes


def test_angles_that_have_factors_are_a_tensor_more(tmp_path: Path) -> None:
    found = planned(tmp_path / "m", rope_scaling={"rope_type": "llama3", "factor": 8.0})
    assert found.extra.keys() == {"rope_freqs.weight"}
    assert found.extra["rope_freqs.weight"].shape == (8,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_attention_heads": 5}, "5 heads don't divide its width of 64"),
        ({"num_attention_heads": 4.0}, "says that num_attention_heads is 4.0"),
        ({"num_attention_heads": 0}, "config.json says '0' for num_attention_heads"),
        ({"num_attention_heads": True}, "config.json says 'True' for num_attention_heads"),
        ({"num_attention_heads": 1 << 31}, f"config.json says '{1 << 31}' for num_attention_heads"),
        ({"head_dim": 8, "num_key_value_heads": None}, "has the shape [64, 64], and should have [32, 64] (q × width)"),
        ({"num_key_value_heads": 3}, "heads of keys and values: config.json says 3, and the weights 2"),
        ({"head_dim": 32}, "heads of keys and values: config.json says 2, and the weights 1"),
        ({"head_dim": 33}, "32 numbers of keys and values can't be cut into heads of 33"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and llama.cpp's llama computes otherwise"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {"type": "odd"}}, "the rotary angles are scaled as 'odd'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    refused(tmp_path / "m", words, arrays_of(), **settings)


def test_a_width_of_heads_that_is_said_need_not_divide_the_width(tmp_path: Path) -> None:
    found = planned(tmp_path / "m", head_dim=32, num_attention_heads=3, num_key_value_heads=1)
    assert (found.sizes["q"], found.sizes["kv_heads"]) == (96, 1)
    assert planned(tmp_path / "n", head_dim=-1, arrays=arrays_of()).sizes["head"] == 16
    said = planned(tmp_path / "o", hidden_act=None, arrays=arrays_of(), num_key_value_heads=None)
    assert said.sizes["kv_heads"] == 2


def test_queries_are_shared_by_as_many_heads_as_divide_them(tmp_path: Path) -> None:
    arrays = arrays_of()
    for name in ("k_proj", "v_proj"):
        arrays[f"model.layers.0.self_attn.{name}.weight"] = np.zeros((48, 64), np.float32)
    refused(tmp_path / "m", "4 heads can't share 3 of keys and values", arrays, num_key_value_heads=None)


def test_tensors_that_lack_or_have_no_place_are_named(tmp_path: Path) -> None:
    arrays = arrays_of()
    del arrays["model.norm.weight"]
    refused(tmp_path / "a", "norm.weight should be among its tensors, and is not", arrays)
    for name in ("q", "k", "v"):
        del arrays[f"model.layers.0.self_attn.{name}_proj.weight"]
    refused(
        tmp_path / "b", "layers.0.self_attn.k_proj.weight and 1 more should be among its tensors, and are not", arrays
    )
    odd = {f"model.odd{number}": np.zeros(1, np.float32) for number in range(3)}
    refused(tmp_path / "c", "its tensors odd0, odd1, odd2 have no place in llama.cpp's llama", {**arrays_of(), **odd})
    refused(
        tmp_path / "d",
        "odd0, odd1, odd2 and 1 more have",
        {**arrays_of(), **odd, "model.odd3": np.zeros(1, np.float32)},
    )
    flat = {**arrays_of(), "model.norm.weight": np.zeros((8, 8), np.float32)}
    refused(tmp_path / "e", "norm.weight should be a row of numbers", flat)
    none = {name: array for name, array in arrays_of().items() if ".layers." not in name}
    refused(tmp_path / "f", "it has no layers (layers.N.…)", none)
    free = {**arrays_of(), "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32)}
    assert planned(tmp_path / "g", arrays=free).left_out == ("layers.0.self_attn.rotary_emb.inv_freq",)


@pytest.mark.parametrize(("given", "how"), [({"quant_method": "gptq"}, " (gptq)"), ({}, ""), ("x", ""), (None, "")])
def test_quantised_weights_are_refused_with_what_made_them(tmp_path: Path, given: object, how: str) -> None:
    arrays = {**arrays_of(), "model.layers.0.mlp.up_proj.qweight": np.zeros((2, 2), np.float32)}
    words = f"it is quantised{how}: it has layers.0.mlp.up_proj.qweight; take the model that it was made of"
    refused(tmp_path / "m", words, arrays, quantization_config=given)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def meta_llama(*, parts: int = 1, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Some tensors of one part of a LLaMA."""
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (48, 16 // parts), "norm.weight": (16,)}
    for layer in range(layers):
        shapes[f"layers.{layer}.attention.wq.weight"] = (16 // parts, 16)
        shapes[f"layers.{layer}.attention.wo.weight"] = (16, 16 // parts)
    return {**shapes, "output.weight": (48 // parts, 16), "rope.freqs": (2,)}


def meta(folder: Path, *parts: dict[str, tuple[int, ...]]) -> Checkpoint:
    folder.mkdir()
    for number, part in enumerate(parts):
        zeros = {name: np.zeros(shape, np.float16) for name, shape in part.items()}
        write_arrays(folder / f"consolidated.{number:02}.pth", zeros)
    form = form_of("meta", "llama")
    assert form is not None
    return Checkpoint(ModelDescription(folder, "meta"), form)


def test_parts_are_joined_by_the_axes_of_the_table(tmp_path: Path) -> None:
    part = dict(meta_llama(parts=2))
    with meta(tmp_path / "m", part, part) as found:
        assert (found.layers, found.width, len(found), len(list(found))) == (2, 16, len(part), len(part))
        for name, shape in meta_llama().items():
            assert found[name].shape == shape
        matrix = found["layers.1.attention.wo.weight"]
        assert (matrix.rows, matrix.dtype, matrix.path.name) == (16, "float16", "consolidated.00.pth")
        assert (matrix.read().shape, matrix.read(1, 3).shape, matrix.floats().dtype) == ((16, 16), (2, 16), np.float32)
        assert list(matrix.slices(64)) == [(at, at + 2) for at in range(0, 16, 2)]
        assert list(matrix.slices(1)) == [(at, at + 1) for at in range(16)]
        assert list(matrix.slices()) == [(0, 16)]
        with pytest.raises(KeyError):
            found["nothing"]


def test_an_embedding_that_is_as_wide_as_the_model_is_joined_by_rows(tmp_path: Path) -> None:
    part = {**meta_llama(parts=2), "tok_embeddings.weight": (24, 16)}
    with meta(tmp_path / "m", part, part) as found:
        assert found["tok_embeddings.weight"].shape == (48, 16)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("norm.weight", (15,), "norm.weight has the shapes [16] and [15] in its parts"),
        ("layers.0.attention.wq.weight", (8, 15), "wq.weight has the shapes [8, 16] and [8, 15] in its parts"),
        ("layers.0.attention.wq.weight", (8,), "wq.weight has the shapes [8, 16] and [8] in its parts"),
    ],
)
def test_parts_that_do_not_fit_together_are_told(tmp_path: Path, name: str, shape: tuple[int, ...], words: str) -> None:
    part = dict(meta_llama(parts=2))
    with meta(tmp_path / "m", part, {**part, name: shape}) as found, pytest.raises(ModelLoadError) as caught:
        found[name]
    assert words in str(caught.value)


def test_a_tensor_that_one_part_lacks_is_told(tmp_path: Path) -> None:
    part = dict(meta_llama(parts=2))
    less = {name: shape for name, shape in part.items() if name != "rope.freqs"}
    with meta(tmp_path / "m", part, less) as found:
        assert len(found) == len(part)
        with pytest.raises(ModelLoadError, match=r"rope\.freqs is in it, and not in consolidated\.01\.pth"):
            found["rope.freqs"]


def test_what_one_part_has_needs_no_other_to_fit_to(tmp_path: Path) -> None:
    with meta(tmp_path / "m", {**meta_llama(), "layers.0.attention.wq.weight": (16,)}) as found:
        assert found["layers.0.attention.wq.weight"].shape == (16,)


def test_a_layer_that_lacks_is_told(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in meta_llama(layers=4).items() if "layers.1." not in name}
    with pytest.raises(ModelLoadError, match="layer 1 is not there, and layer 3 is"):
        meta(tmp_path / "m", shapes)
    shapes = {name: shape for name, shape in meta_llama(layers=4).items() if "layers.2." not in name}
    with pytest.raises(ModelLoadError, match="layer 2 is not there, and layer 3 is"):
        meta(tmp_path / "n", shapes)
    with pytest.raises(ModelLoadError, match="there are no weights here"):
        files_of(ModelDescription(tmp_path, "meta"))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ModelLoadError, match="there are no weights here"):
        files_of(ModelDescription(tmp_path, "huggingface"))
