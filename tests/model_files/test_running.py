"""Which backend is named for a model, and what its entry in bots.yaml says."""

from __future__ import annotations

from pathlib import Path

import yaml

from chatbridge import ModelDescription
from chatbridge.model_files.description import AdapterDescription
from chatbridge.model_files.running import BASE, backends_for, chosen_backend, entry_for, example_for, name_for

HERE = str(Path("m").absolute())


def model(layout: str, **facts: object) -> ModelDescription:
    return ModelDescription(Path("m"), layout, **facts)  # type: ignore[arg-type]


def test_backends_are_those_of_the_layout_or_of_layout_and_architecture() -> None:
    others = {"acme": ("gguf/llama",), "odd": ("", "/"), "small": ("rwkv",)}
    assert backends_for(model("gguf", architecture="llama"), others) == ("llama_cpp", "numpy", "acme")
    assert backends_for(model("gguf", architecture="bloom"), others) == ("llama_cpp",)
    assert backends_for(model("rwkv"), others) == ("rwkv", "small")
    assert backends_for(model(""), others) == ()


def test_the_best_that_is_installed_is_chosen_and_else_the_best() -> None:
    found = model("gguf", backends=("llama_cpp", "numpy", "acme"))
    assert chosen_backend(found, ["acme", "numpy"]) == "numpy"
    assert chosen_backend(found, ["llama_cpp", "numpy"]) == "llama_cpp"
    assert chosen_backend(found, []) == "llama_cpp"


def test_an_entry_has_a_template_where_it_is_not_the_models_own() -> None:
    assert entry_for(model("gguf"), "numpy") == {"backend": "numpy", "path": HERE}
    assert entry_for(model("gguf", preset="model"), "numpy") == {"backend": "numpy", "path": HERE}
    found = model("gguf", preset="alpaca")
    assert entry_for(found, "numpy") == {"backend": "numpy", "path": HERE, "template": "alpaca"}
    assert yaml.safe_load(example_for(found, "numpy")) == {"models": {"m": entry_for(found, "numpy")}}


def test_an_adapter_has_the_model_that_it_is_for_beside_it() -> None:
    about = AdapterDescription("LORA", (4,), 8, ("q",), 2, 1, 16, 0, "base")
    for layout in ("peft", "gguf-adapter"):
        found = entry_for(model(layout, adapter=about), "x")
        assert found == {"backend": "x", "path": "base", "lora": HERE}
        assert entry_for(model(layout), "x") == {"backend": "x", "path": BASE, "lora": HERE}
    found = entry_for(model("ptuning"), "glm")
    assert found == {"backend": "glm", "path": BASE, "adapters": {"tuned": {"prefix": HERE}}}


def test_a_name_is_that_of_the_file_without_what_no_name_has() -> None:
    names = ("a b.gguf", "-x-.gguf", "n" * 41 + ".gguf", "???.gguf", "模型.gguf")
    assert [name_for(ModelDescription(Path(name), "gguf")) for name in names] == ["a-b", "x", "n" * 40, "model", "模型"]
