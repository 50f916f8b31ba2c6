"""The sizes of well-known models add up to the numbers of parameters that their pages name."""

from __future__ import annotations

import pytest

from chatbridge import known_model, read_json_object, read_tensors, weight_files
from chatbridge.model_files.families import NO_WEIGHTS
from chatbridge.model_files.shapes import family_of, measure, without_prefix
from chatbridge.model_tools.planning.known_models import MODELS, KnownModel
from chatbridge.testing import fixtures


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("chatglm-6b", 6.17), ("glm-130b", 128.7), ("llama-7b", 6.74), ("llama-13b", 13.02), ("llama-30b", 32.53),
        ("llama-65b", 65.29), ("llama-2-70b", 68.98), ("chinese-alpaca-7b", 6.89), ("bloomz-7b1", 7.07),
        ("rwkv-4-169m", 0.169), ("rwkv-4-7b", 7.39), ("rwkv-4-14b", 14.15), ("rwkv-7-0.1b", 0.191),
        ("rwkv-7-2.9b", 2.95),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_published_models(name: str, billions: float) -> None:
    model = known_model(name)
    assert model is not None
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.003)


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_called_as_the_family_calls_them(name: str) -> None:
    model = MODELS[name]
    tensors = model.tensors()
    family = family_of(tensors, (model.layout,))
    assert family is not None
    assert (family.layout, family.architecture) == (model.layout, model.architecture)
    sizes = measure(family, [without_prefix(family, tensors)])
    assert sizes.layers == (model.config.get("num_hidden_layers") or model.config.get("num_layers") or 30)
    assert sizes.width == model.config["hidden_size"]
    assert sizes.degree == model.shards
    assert sizes.vocabulary == model.config["vocab_size"]


def test_a_gguf_form_has_the_same_numbers() -> None:
    model = MODELS["llama-2-70b"]
    header = model.gguf()
    assert sum(tensor.size for tensor in header.tensors.values()) == model.parameters
    assert header.number("block_count") == 80
    assert header.number("attention.head_count_kv") == 8
    with pytest.raises(ValueError, match="chatglm-6b is not known as a GGUF file"):
        MODELS["chatglm-6b"].gguf()


def test_names_are_found_however_they_are_written() -> None:
    assert known_model("THUDM/ChatGLM-6B") is MODELS["chatglm-6b"]
    assert known_model("LLaMA-7B") is MODELS["llama-7b"]
    assert known_model("llama-8b") is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("chatglm-6b-int4", 6_173_286_400), ("glm-130b", 128_734_093_312), ("llama-7b", 6_738_415_616),
        ("llama-33b", 32_528_943_616), ("llama-2-70b", 68_976_648_192), ("alpaca-7b", 6_738_423_808),
        ("chinese-llama-13b", 13_199_703_040), ("chinese-alpaca-2-7b", 6_929_256_448),
        ("belle-llama-ext-7b", 7_127_191_552), ("belle-7b", 7_069_016_064), ("rwkv-4-169m", 169_342_464),
        ("rwkv-4-430m", 430_397_440), ("rwkv-4-world-1b5", 1_577_607_168), ("rwkv-7-0.1b", 191_034_624),
        ("rwkv-7-0.4b", 452_340_736), ("rwkv-7-2.9b", 2_947_735_040),
    ],
)  # fmt: skip
def test_parameters_are_counted_to_the_last(name: str, parameters: int) -> None:
    assert MODELS[name].parameters == parameters


@pytest.mark.parametrize(
    ("where", "layout", "architecture", "config", "apart"),
    [
        ("llama/hf", "huggingface", "llama", {}, set()),
        ("belle-bloom/hf", "huggingface", "bloom", {}, {"lm_head.weight"}),
        ("chatglm/chatglm-6b-tiny", "chatglm", "chatglm", {}, {"lm_head.weight"}),
        ("rwkv/rwkv4-tiny.pth", "rwkv", "rwkv-4", {"num_hidden_layers": 8, "hidden_size": 32}, set()),
    ],
)
def test_tensors_are_those_of_the_records(
    where: str, layout: str, architecture: str, config: dict[str, int], apart: set[str]
) -> None:
    path = fixtures() / where
    files = [path] if path.is_file() else weight_files(path)
    told = {"vocab_size": 512, **config} if path.is_file() else read_json_object(path / "config.json")
    told = {"num_key_value_heads": told.get("num_attention_heads"), **told}
    shapes = {name: info.shape for file in files for name, info in read_tensors(file).tensors.items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(NO_WEIGHTS)}
    if architecture == "bloom":  # which is published with and without it
        shapes = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
    made = {name: one.shape for name, one in KnownModel("x", layout, architecture, told).tensors().items()}
    assert {name: shapes[name] for name in shapes if name not in apart} == made


def test_a_gguf_form_is_in_half_precision_but_for_its_norms() -> None:
    header = MODELS["llama-2-7b"].gguf()
    kinds = {name: (one.kind, one.nbytes, one.start) for name, one in header.tensors.items()}
    assert kinds["blk.31.attn_norm.weight"] == ("F32", 4096 * 4, 0)
    assert kinds["blk.31.attn_q.weight"] == ("F16", 4096 * 4096 * 2, 0)
    assert (header.number("context_length"), header.number("attention.layer_norm_rms_epsilon")) == (4096, 1e-6)
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 32000
    assert [name for name, model in MODELS.items() if model.runs_as_gguf and "llama" not in name] == [
        "alpaca-7b", "alpaca-13b", "alpaca-30b", *(f"chinese-alpaca-{size}" for size in ("7b", "13b", "33b")),
        "chinese-alpaca-2-7b", "chinese-alpaca-2-13b",
    ]  # fmt: skip


def test_settings_are_those_of_the_published_models() -> None:
    assert [MODELS[f"chatglm-6b{end}"].config["quantization_bit"] for end in ("", "-int8", "-int4")] == [0, 8, 4]
    assert (MODELS["rwkv-4-7b"].dtype, MODELS["rwkv-7-0.1b"].dtype) == ("float16", "bfloat16")
    assert MODELS["rwkv-7-0.1b"].tensors()["emb.weight"].nbytes == 65536 * 768 * 2
    assert MODELS["bloomz-7b1"].config["seq_length"] == 2048
    assert MODELS["llama-65b"].config["num_key_value_heads"] == 64
    assert MODELS["llama-7b"].config["max_position_embeddings"] == 2048
