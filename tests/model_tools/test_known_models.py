"""The sizes of well-known models add up to the numbers of parameters that their pages name."""

from __future__ import annotations

import pytest

from chatbridge import known_model
from chatbridge.model_files.shapes import family_of, measure, without_prefix
from chatbridge.model_tools.planning.known_models import MODELS


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
