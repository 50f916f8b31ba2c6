"""The model under an adapter is told by its settings, by a GGUF file, or by the sizes of a LLaMA that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import ModelDescription
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import AdapterDescription
from chatbridge.model_tools.merging.lora import Adapter
from chatbridge.model_tools.merging.lora_base import Base, base_of
from chatbridge.testing import fixtures, random_llama, write_gguf

CONFIG: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}


def adapter(layers: int = 2, width: int = 64, named: object = None) -> Adapter:
    about = AdapterDescription("LORA", (4,), 8, ("q_proj",), 2, layers, width, 0, "")
    found = ModelDescription(Path("a"), "peft", adapter=about)
    return Adapter(Path("a"), Path("a"), found, {"base_model_name_or_path": named}, {}, {}, [])


def configured(folder: Path, name: str = "config.json", **settings: object) -> Base:
    folder.mkdir(exist_ok=True)
    told = {**CONFIG, **settings} if name == "config.json" else settings
    (folder / name).write_text(json.dumps(told), encoding="utf-8")
    return base_of(adapter(), folder)


def test_settings_of_either_form_tell_the_sizes(tmp_path: Path) -> None:
    found = configured(tmp_path / "a", num_key_value_heads=2, intermediate_size=96, vocab_size=48, n_ctx=7)
    assert found.sizes == {"width": 64, "heads": 4, "kv_heads": 2, "head": 16, "q": 64, "kv": 32, "qkv": 192,
                           "layers": 2, "inner": 96, "vocabulary": 48}  # fmt: skip
    assert (found.form.architecture, found.tied, found.told) == ("llama", False, str(tmp_path / "a" / "config.json"))
    meta = configured(tmp_path / "b", "params.json", dim=64, n_heads=4, n_layers=2, n_kv_heads=1)
    assert (meta.form.layout, meta.sizes["kv"], meta.sizes["layers"]) == ("huggingface", 16, 2)
    bloom = {"model_type": "bloom", "n_embed": 64, "n_head": 8, "n_layer": 3, "hidden_size": None}
    found = configured(tmp_path / "c", **{key: value for key, value in bloom.items() if value})
    assert (found.form.architecture, found.tied, found.sizes["heads"], found.sizes["layers"]) == ("bloom", True, 8, 3)
    assert configured(tmp_path / "d", tie_word_embeddings=True).tied
    found = configured(tmp_path / "e", head_dim=32)
    assert (found.sizes["q"], found.sizes["kv"], found.sizes["kv_heads"]) == (128, 128, 4)
    file = tmp_path / "e" / "config.json"
    assert base_of(adapter(), file).told == str(file)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "gpt2"}, "adapters of gpt2 are not converted here, only those of bloom, llama, mistral, qwen"),
        ({"model_type": None}, "adapters of what it is are not converted here"),
        ({"hidden_size": 0}, "hidden_size is 0, and should be a whole number above 0"),
        ({"hidden_size": True}, "hidden_size is True, and should be a whole"),
        ({"hidden_size": "64"}, "hidden_size is '64', and should be a whole"),
        ({"num_hidden_layers": 1 << 31}, "num_hidden_layers is 2147483648, and should be a whole"),
        ({"num_attention_heads": None}, "it gives None for num_attention_heads"),
        ({"num_key_value_heads": 3}, "a width of 64 does not go with 4 heads, 3 of them for keys"),
        ({"head_dim": 1}, "a width of 64 does not go with 4 heads"),
        ({"head_dim": 3}, "a width of 64 does not go with 4 heads"),
        ({"num_attention_heads": 64}, "a width of 64 does not go with 64 heads"),
    ],
)
def test_settings_that_fit_no_model_are_refused(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        configured(tmp_path / "m", **settings)


def test_heads_may_be_as_narrow_as_two_and_as_few_as_one(tmp_path: Path) -> None:
    found = configured(tmp_path / "m", num_attention_heads=1, num_hidden_layers=1, hidden_size=2)
    assert (found.sizes["head"], found.sizes["layers"]) == (2, 1)


def test_a_gguf_file_tells_the_sizes(tmp_path: Path) -> None:
    arrays = random_llama(layers=1, dim=64, hidden=32, heads=4, kv_heads=2, vocabulary=3)
    metadata: dict[str, Any] = {"llama.block_count": 1, "llama.embedding_length": 64, "llama.attention.head_count": 4,
                                "llama.attention.head_count_kv": 2}  # fmt: skip
    found = base_of(adapter(), write_gguf(tmp_path / "m.gguf", metadata, arrays))
    assert (found.sizes["kv"], found.sizes["head"], found.tied) == (32, 16, "output.weight" not in arrays)
    tied = {name: array for name, array in arrays.items() if name != "output.weight"}
    assert base_of(adapter(), write_gguf(tmp_path / "m.gguf", metadata, tied)).tied
    with pytest.raises(ModelLoadError, match="do not say how large the model is"):
        base_of(adapter(), write_gguf(tmp_path / "m.gguf", {"llama.block_count": 1}, arrays))
    with pytest.raises(ModelLoadError, match="this is an adapter itself"):
        base_of(adapter(), write_gguf(tmp_path / "m.gguf", {**metadata, "adapter.type": "lora"}, arrays))


def test_a_llama_that_is_named_is_told_by_its_sizes(tmp_path: Path) -> None:
    found = base_of(adapter(32, 4096, "decapoda-research/llama-7b-hf"), None)
    assert (found.told, found.tied, found.form.architecture) == ("LLaMA 7B", False, "llama")
    assert (found.sizes["heads"], found.sizes["kv_heads"], found.sizes["head"]) == (32, 32, 128)
    for one, words in (
        (adapter(32, 4096), "and it names none; give its folder"),
        (adapter(31, 4096, "llama-7b"), "adapter_config.json names 'llama-7b', which is no folder here"),
        (adapter(32, 4096, "x" * 300), f"names '{'x' * 200}', which is no folder here"),
    ):
        with pytest.raises(ModelLoadError, match=words):
            base_of(one, None)


def test_a_folder_that_is_named_is_read_where_it_is_there(tmp_path: Path) -> None:
    configured(tmp_path / "m")
    assert base_of(adapter(named=str(tmp_path / "m")), None).told == str(tmp_path / "m" / "config.json")
    (tmp_path / "n").mkdir()
    with pytest.raises(ModelLoadError, match="which is no folder here"):
        base_of(adapter(named=str(tmp_path / "n")), None)
    with pytest.raises(ModelLoadError, match=r"this is no base: no config\.json or params\.json is here"):
        base_of(adapter(), tmp_path / "n")
    with pytest.raises(ModelLoadError, match="there is no such file or folder"):
        base_of(adapter(), tmp_path / "o")
    assert base_of(adapter(named=str(fixtures() / "llama" / "meta-1shard")), None).sizes["heads"] == 4
