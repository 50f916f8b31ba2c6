"""A LLaMA's sizes are told by its settings and shapes, said again in the other form, and bounded in both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.merging.llama_layouts import (
    SCALED,
    LlamaSizes,
    check_for_meta,
    config_for,
    from_meta,
    params_for,
    sizes_of,
    to_meta,
    usual_parts,
)
from chatbridge.model_tools.merging.perplexity import perplexity
from chatbridge.model_tools.progress import Silent

from .test_matrices import Known

SMALL = LlamaSizes(2, 16, 4, 2, 24, 10, eps=1e-5, context=4096)
CONFIG: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}


def tensors(sizes: LlamaSizes = SMALL, **shapes: tuple[int, ...] | None) -> dict[str, Known]:
    """Counted numbers by Hugging Face's names. `shapes`: others, by how names end, with `_` for `.`; None for none."""
    keys = sizes.width // sizes.heads * sizes.kv_heads
    by_end = {"k_proj": (keys, sizes.width), "v_proj": (keys, sizes.width), "gate_proj": (sizes.inner, sizes.width),
              "up_proj": (sizes.inner, sizes.width), "down_proj": (sizes.width, sizes.inner),
              "embed_tokens": (sizes.rows, sizes.width), "lm_head": (sizes.rows, sizes.width)}  # fmt: skip
    found = {}
    for at, name in enumerate(sizes.names):
        part = name.split(".")[-2]
        usual = by_end.get(part, (sizes.width,) if "norm" in part else (sizes.width, sizes.width))
        shape = shapes.get(part, usual)
        if shape is not None:
            found[name] = Known(np.arange(at, at + math.prod(shape), dtype=np.float32).reshape(shape))
    return found


def test_sizes_are_those_of_settings_and_shapes() -> None:
    assert sizes_of(CONFIG, tensors()) == SMALL
    meta = {"n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5}
    assert sizes_of(meta, tensors()) == SMALL
    assert sizes_of({**CONFIG, "max_position_embeddings": 7}, tensors()).context == 7
    one = LlamaSizes(1, 16, 4, 4, 24, 10)
    assert sizes_of({"num_attention_heads": 4}, tensors(one)) == one
    assert sizes_of({**CONFIG, "rope_theta": 5e5}, tensors()).theta == 5e5
    assert sizes_of({**CONFIG, "rope_theta": 5, "rope_parameters": {"rope_theta": 7}}, tensors()).theta == 7.0
    assert "lm_head.weight" not in tensors(lm_head=None)
    assert sizes_of(CONFIG, tensors(lm_head=None)) == SMALL


@pytest.mark.parametrize(
    ("told", "context"),
    [
        ({}, 2048),
        ({"rms_norm_eps": 1e-6}, 2048),
        ({"max_position_embeddings": 0}, 2048),
        ({"max_position_embeddings": True}, 2048),
        ({"max_position_embeddings": "9"}, 2048),
        ({"max_seq_len": 1}, 1),
        ({"rope_theta": 5e5}, 8192),
        ({"rope_theta": 1e6}, 16384),
        ({"use_scaled_rope": True}, 131072),
        ({"rope_scaling": SCALED}, 131072),
        ({"rope_scaling": {**SCALED, "factor": 4.0}}, 2048),
    ],
)
def test_a_context_that_nobody_says_is_that_of_metas_models(told: dict[str, Any], context: int) -> None:
    found = sizes_of({**CONFIG, "rms_norm_eps": 1e-6, **told}, tensors())
    assert found.context == context
    assert found.scaled is (context == 131072)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"num_attention_heads": None}, "None for the number of heads"),
        ({"num_attention_heads": True}, "True for the number of heads"),
        ({"num_attention_heads": 4.0}, "4.0 for the number of heads"),
        ({"num_attention_heads": 17}, "17 for the number of heads"),
        ({"num_key_value_heads": -1}, "-1 for the number of key heads"),
        ({"num_key_value_heads": 17}, "17 for the number of key heads"),
        ({"rms_norm_eps": 0}, "0 for the norms' epsilon"),
        ({"rms_norm_eps": True}, "True for the norms' epsilon"),
        ({"rms_norm_eps": "x"}, "'x' for the norms' epsilon"),
        ({"rope_theta": 1e12}, "1000000000000.0 for rope_theta"),
        ({"rope_scaling": [1]}, r"\[1\] for the rotary frequencies"),
        ({"num_attention_heads": 3}, "a width of 16 does not go with 3 heads, 2 of them for keys"),
        ({"num_key_value_heads": 3}, "a width of 16 does not go with 4 heads, 3 of them for keys"),
        ({"num_attention_heads": 16}, "a width of 16 does not go with 16 heads"),
    ],
)
def test_settings_that_make_no_llama_are_refused(told: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        sizes_of({**CONFIG, **told}, tensors())


@pytest.mark.parametrize(
    ("part", "shape", "words"),
    [
        ("embed_tokens", None, "it has no model.embed_tokens.weight"),
        ("gate_proj", (24,), r"gate_proj.weight has the shape \[24\]"),
        ("k_proj", (16, 16), r"k_proj.weight has the shape \[16, 16\], and should have \[8, 16\]"),
        ("v_proj", (16, 16), r"v_proj.weight has the shape \[16, 16\], and should have \[8, 16\]"),
        ("q_proj", (8, 16), r"q_proj.weight has the shape \[8, 16\], and should have \[16, 16\]"),
        ("down_proj", (24, 16), r"down_proj.weight has the shape \[24, 16\], and should have \[16, 24\]"),
        ("input_layernorm", (16, 1), r"input_layernorm.weight has the shape \[16, 1\]"),
        ("input_layernorm", (17,), r"input_layernorm.weight has the shape \[17\], and should have \[16\]"),
        ("lm_head", (9, 16), r"lm_head.weight has the shape \[9, 16\], and should have \[10, 16\]"),
        ("norm", None, "it has no model.norm.weight"),
    ],
)
def test_shapes_that_make_no_llama_are_refused(part: str, shape: tuple[int, ...] | None, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        sizes_of(CONFIG, tensors(**{part: shape}))


@pytest.mark.parametrize(
    ("width", "inner", "said"),
    [
        (4096, 11008, {"multiple_of": 256}),
        (5120, 13824, {"multiple_of": 256}),
        (6656, 17920, {"multiple_of": 256}),
        (8192, 22016, {"multiple_of": 256}),
        (8192, 28672, {"multiple_of": 4096, "ffn_dim_multiplier": 1.3}),
        (4096, 14336, {"multiple_of": 1024, "ffn_dim_multiplier": 1.3}),
        (16384, 53248, {"multiple_of": 4096, "ffn_dim_multiplier": 1.2}),
        (2048, 8192, {"multiple_of": 4096}),
        (2560, 10240, {"multiple_of": 256, "ffn_dim_multiplier": 1.5}),
        (64, 176, {"multiple_of": 16}),
        (64, 170, {"multiple_of": 2}),
        (64, 171, {"multiple_of": 1, "ffn_dim_multiplier": 171.5 / 170}),
        (64, 512, {"multiple_of": 512}),
        (64, 1024, {"multiple_of": 1024}),
        (64, 2048, {"multiple_of": 2048}),
        (64, 4096, {"multiple_of": 4096}),
        (64, 500, {"multiple_of": 1, "ffn_dim_multiplier": 500.5 / 170}),
    ],
)
def test_metas_form_says_the_inner_width_by_a_multiple(width: int, inner: int, said: dict[str, Any]) -> None:
    params = params_for(LlamaSizes(1, width, 8, 8, inner, 10))
    assert params == {
        "dim": width, **said, "n_heads": 8, "n_layers": 1, "norm_eps": 1e-6, "vocab_size": -1
    }  # fmt: skip
    hidden = int(said.get("ffn_dim_multiplier", 1) * (2 * 4 * width // 3))
    assert -(-hidden // said["multiple_of"]) * said["multiple_of"] == inner  # as Meta's code computes it


def test_settings_are_said_in_both_forms() -> None:
    sizes = LlamaSizes(2, 16, 4, 2, 24, 10, 1e-5, 5e5, True, 131072)
    params = params_for(sizes)
    assert (params["n_kv_heads"], params["rope_theta"], params["use_scaled_rope"]) == (2, 5e5, True)
    for told in (params, config_for(sizes, "float16")):
        assert sizes_of(told, tensors()) == sizes
    plain = config_for(SMALL, "bfloat16")
    assert (plain["torch_dtype"], plain["max_position_embeddings"], plain["vocab_size"]) == ("bfloat16", 4096, 10)
    assert "rope_scaling" not in plain
    assert [usual_parts(LlamaSizes(1, width, 8, 8, 8, 8)) for width in (4096, 5120, 6656, 8192, 4095)] == [
        1,
        2,
        4,
        8,
        1,
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_in_parts_is_the_same_when_it_comes_back(count: int) -> None:
    before = tensors()
    parts = to_meta(before, SMALL, count)
    assert len(parts) == count
    after = from_meta(parts, {"n_heads": 4, "n_kv_heads": 2})
    assert after.keys() == before.keys()
    for name, matrix in before.items():
        np.testing.assert_array_equal(after[name].read(0, after[name].shape[0]), matrix.array)


def test_a_vocabulary_that_does_not_divide_leaves_more_to_the_last_part() -> None:
    odd = LlamaSizes(1, 16, 4, 2, 24, 11)
    parts = to_meta(tensors(odd), odd, 2)
    assert [part["output.weight"].shape for part in parts] == [(5, 16), (6, 16)]
    shared = to_meta(tensors(odd, lm_head=None), odd, 2)
    assert [part["output.weight"].shape for part in shared] == [(5, 16), (6, 16)]


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 parts"), (3, "3 parts: the heads of 2 can't"), (4, "4 parts: the heads of 2 can't"), (-1, "-1 parts")],
)
def test_parts_that_the_sizes_do_not_divide_by_are_refused(count: int, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        to_meta(tensors(), SMALL, count)


def test_there_are_sixty_four_parts_at_most() -> None:
    wide = LlamaSizes(1, 256, 128, 128, 128, 128)
    assert len(to_meta(tensors(wide), wide, 64)) == 64
    with pytest.raises(ModelLoadError, match="128 parts: the heads of 128"):
        to_meta(tensors(wide), wide, 128)
    for sizes, words in (
        (LlamaSizes(1, 16, 4, 4, 30, 8), "4 parts: the inner width of 30"),
        (LlamaSizes(1, 18, 4, 4, 32, 8), "4 parts: the width of 18"),
    ):
        with pytest.raises(ModelLoadError, match=words):
            to_meta({}, sizes, 4)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "words"),
    [
        (3, 2, "wq.weight has 16 rows, which 3 heads don't share"),
        (16, 2, "wq.weight has 16 rows, which 16 heads don't share"),
        (-1, 2, "wq.weight has 16 rows, which -1 heads don't share"),
        ("4", 2, "wq.weight has 16 rows, which '4' heads don't share"),
        (4, 3, "wk.weight has 8 rows, which 3 heads don't share"),
    ],
)
def test_rows_that_heads_do_not_share_are_refused(heads: object, kv_heads: object, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        from_meta(to_meta(tensors(), SMALL, 1), {"n_heads": heads, "n_kv_heads": kv_heads})


def test_one_head_is_turned_too() -> None:
    one = LlamaSizes(1, 16, 1, 1, 24, 10)
    after = from_meta(to_meta(tensors(one), one, 1), {"n_heads": 1})
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(after[name].read(0, 16), tensors(one)[name].array)


def test_an_embedding_that_is_cut_by_rows_is_joined_by_them() -> None:
    first, second = (dict(part) for part in to_meta(tensors(), SMALL, 2))
    whole = tensors()["model.embed_tokens.weight"].array
    first["tok_embeddings.weight"], second["tok_embeddings.weight"] = Known(whole[:5]), Known(whole[5:])
    made = from_meta([first, second], {"n_heads": 4, "n_kv_heads": 2})["model.embed_tokens.weight"]
    np.testing.assert_array_equal(made.read(0, 10), whole)


def test_parts_of_two_models_are_refused() -> None:
    first, second = (dict(part) for part in to_meta(tensors(), SMALL, 2))
    with pytest.raises(ModelLoadError, match=r"norm\.weight differs between the parts: they are of two models"):
        from_meta([first, {**second, "norm.weight": Known(np.zeros(16, np.float32))}], {"n_heads": 4, "n_kv_heads": 2})
    with pytest.raises(ModelLoadError, match=r"norm\.weight is in some of the parts alone"):
        from_meta([first, {name: one for name, one in second.items() if name != "norm.weight"}], {"n_heads": 4})
    with pytest.raises(ModelLoadError, match="other is no tensor of a LLaMA in Meta's form"):
        from_meta([{"other": Known(np.zeros(1, np.float32))}], {})
    assert from_meta([{"rope.freqs": Known(np.zeros(1, np.float32))}], {}) == {}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"hidden_act": "gelu"}, "'gelu' for hidden_act"),
        ({"head_dim": 5}, "5 for head_dim"),
        ({"attention_bias": True}, "True for attention_bias"),
        ({"mlp_bias": True}, "True for mlp_bias"),
        ({"partial_rotary_factor": 0.5}, "0.5 for partial_rotary_factor"),
        ({"rope_scaling": {"type": "linear"}}, "{'type': 'linear'} for rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "{'rope_type': 'yarn'} for rope_scaling"),
    ],
)
def test_what_metas_form_can_not_say_is_refused(told: dict[str, Any], words: str) -> None:
    fine = {"hidden_act": "swish", "head_dim": 4, "attention_bias": False, "mlp_bias": None, "partial_rotary_factor": 1}
    check_for_meta({**fine, "rope_scaling": {"type": "default"}}, SMALL, tensors())
    check_for_meta({}, SMALL, tensors())
    with pytest.raises(ModelLoadError) as caught:
        check_for_meta({**fine, **told}, SMALL, tensors())
    assert f"its config.json gives {words}, which Meta's form can't say" in str(caught.value)


def test_tensors_without_a_place_in_metas_form_are_refused() -> None:
    more = tensors() | {"x": Known(np.zeros(1))}
    with pytest.raises(ModelLoadError, match="its tensor x has no place in Meta's form"):
        check_for_meta({}, SMALL, more)
    with pytest.raises(ModelLoadError, match="its tensor x and 1 more has no place in Meta's form"):
        check_for_meta({}, SMALL, more | {"y": Known(np.zeros(1))})


def test_a_perplexity_of_equal_chances_is_their_number_however_large_the_numbers() -> None:
    one = LlamaSizes(1, 4, 2, 2, 4, 5)
    known = {name: Known(np.ones(matrix.shape, np.float32)) for name, matrix in tensors(one).items()}
    assert perplexity(known, one, [[0, 1, 2], [3, 4]], Silent()) == pytest.approx(5, rel=1e-6)
    known["lm_head.weight"] = Known(np.full((5, 4), 1000, np.float32))
    assert perplexity(known, one, [[0, 1, 2], [3, 4]], Silent()) == pytest.approx(5, rel=1e-6)
    known["lm_head.weight"] = Known(np.arange(20, dtype=np.float32).reshape(5, 4) * 1e4)
    assert perplexity(known, one, [[0, 1]], Silent()) == math.inf
