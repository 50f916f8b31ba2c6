"""What projects publish is recognised from headers and shapes: family, sizes, form, and what runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbridge import ModelDescription, ModelLoadError, Plugins, guide_path, inspect_model
from chatbridge.config import load
from chatbridge.testing import fixtures

from .writers import (
    hub_llama,
    meta_llama,
    write_adapter,
    write_ggml,
    write_hub_llama,
    write_old_torch,
    write_safetensors,
    write_torch,
)

META = {"layout": "meta", "family": "LLaMA", "layers": 2, "width": 64, "heads": 4, "inner": 192, "backends": ()}
HUB = {**META, "layout": "huggingface", "backends": ("transformers",)}
GLM = {"layout": "chatglm", "family": "ChatGLM-6B", "layers": 3, "width": 64, "heads": 4, "inner": 256, "context": 128,
       "vocabulary": 768, "parameters": 199_232, "preset": "chatglm-6b", "backends": ("glm",)}  # fmt: skip
SAT = {"layout": "glm-130b", "family": "GLM-130B", "layers": 3, "width": 64, "heads": 8, "inner": 96, "vocabulary": 320,
       "parameters": 127_360, "preset": "glm-130b", "backends": ("glm",)}  # fmt: skip
RWKV = {"layout": "rwkv", "vocabulary": 512, "backends": ("rwkv",)}
PEFT = {"layout": "peft", "family": "PEFT adapter", "layers": 2, "width": 64, "backends": ("transformers",)}

FACTS: dict[str, dict[str, Any]] = {
    "llama/meta-1shard": {**META, "vocabulary": 480, "tokens": 480, "parameters": 168_256, "files": 1},
    "llama/meta-2shard": {**META, "vocabulary": 480, "tokens": 480, "parameters": 168_256, "files": 2},
    "llama/chinese-llama-merged-meta-2shard": {**META, "vocabulary": 691, "tokens": 691, "parameters": 195_264},
    "llama/hf": {**HUB, "vocabulary": 480, "tokens": 480, "context": 96, "parameters": 168_256, "files": 2},
    "llama/alpaca-lora": {**PEFT, "preset": "alpaca-lora", "parameters": 4096},
    "llama/alpaca-lora-r16-qkvo": {**PEFT, "parameters": 16_384},
    "llama/chinese-llama-lora": {**PEFT, "vocabulary": 691, "tokens": 691},
    "llama/chinese-alpaca-lora": {**PEFT, "vocabulary": 692, "tokens": 692, "preset": "chinese-alpaca"},
    "belle-bloom/hf": {**HUB, "family": "BLOOM", "inner": 256, "vocabulary": 512, "tokens": 500,
                       "preset": "belle-bloom", "parameters": 132_992},
    "belle-bloom/hf-3heads": {**HUB, "family": "BLOOM", "width": 48, "heads": 3, "vocabulary": 512},
    "belle-bloom/xor/enc": {"layout": "xor", "files": 2, "nbytes": 2691, "backends": ()},
    "chatglm/chatglm-6b-tiny": {**GLM, "tokens": 764, "files": 4, "quantization": "none (float16)"},
    "chatglm/chatglm-6b-int8-tiny": {**GLM, "quantization": "int8"},
    "chatglm/chatglm-6b-int4-tiny": {**GLM, "quantization": "int4"},
    "chatglm/chatglm-6b-int4-qe-tiny": {**GLM, "quantization": "int4, embedding and head, too"},
    "chatglm/ptuning-v2": {"layout": "ptuning", "parameters": 1920, "layers": 3, "width": 64, "backends": ("glm",)},
    "glm130b/tp1": {**SAT, "files": 1},
    "glm130b/tp2": {**SAT, "files": 2},
    "glm130b/tp4": {**SAT, "files": 4},
    "glm130b/tp1-int4": {**SAT, "quantization": "int4"},
    "glm130b/tp2-int4": {**SAT, "quantization": "int4"},
    "glm130b/tp2-int8": {**SAT, "quantization": "int8"},
    "rwkv/rwkv4-tiny.pth": {**RWKV, "family": "RWKV-4", "layers": 8, "width": 32, "quantization": "none (bfloat16)"},
    "rwkv/rwkv4-tiny-converted-cpu_fp32i8.pth": {**RWKV, "family": "RWKV-4", "layers": 8, "quantization": "int8"},
    "rwkv/rwkv7-tiny.pth": {**RWKV, "family": "RWKV-7", "layers": 3, "width": 64, "heads": 2},
}  # fmt: skip


def there(path: str) -> Path:
    """A record. The test is skipped where it is not among them."""
    found = fixtures() / path
    if not found.exists():
        pytest.skip(f"{found} is not there")
    return found


def told(found: ModelDescription) -> str:
    return "\n".join(f"{one.severity}: {one.message}; {one.remedy}" for one in found.problems)


@pytest.mark.parametrize("path", FACTS)
def test_every_record_is_recognised_with_its_facts(path: str) -> None:
    found = inspect_model(there(path))
    assert {key: getattr(found, key) for key in FACTS[path]} == FACTS[path]
    assert found.sound, told(found)
    assert bool(found.example) == bool(found.backends)


def test_an_adapter_says_what_it_changes() -> None:
    plain = inspect_model(there("llama/alpaca-lora")).adapter
    assert plain is not None
    assert (plain.rank, plain.alpha, plain.targets, plain.tensors) == ((8,), 16, ("q_proj", "v_proj"), 8)
    chinese = inspect_model(there("llama/chinese-llama-lora")).adapter
    assert chinese is not None
    assert (chinese.vocabulary, chinese.tensors, len(chinese.targets)) == (691, 30, 7)
    assert chinese.base == "chatbridge/llama-tiny-hf"


def test_a_lora_may_be_of_an_embedding_too(tmp_path: Path) -> None:
    layer = "base_model.model.model.embed_tokens"
    shapes = {f"{layer}.lora_embedding_A": (4, 48), f"{layer}.lora_embedding_B": (16, 4)}
    found = inspect_model(write_adapter(tmp_path / "a", shapes, target_modules=["embed_tokens"]))
    assert found.adapter is not None
    assert (found.adapter.targets, found.adapter.rank, told(found)) == (("embed_tokens",), (4,), "")


def test_an_adapter_names_the_llama_that_has_its_bases_sizes(tmp_path: Path) -> None:
    layer = "base_model.model.model.layers.31.self_attn.q_proj"
    shapes = {f"{layer}.lora_A.weight": (1, 4096), f"{layer}.lora_B.weight": (4096, 1)}
    found = inspect_model(write_adapter(tmp_path / "a", shapes, r=1, target_modules=["q_proj"]))
    assert found.details["base"] == "has the sizes of LLaMA 7B"


def test_weights_of_gptq_are_counted_unpacked(tmp_path: Path) -> None:
    shapes = dict(hub_llama())
    for name in [name for name in shapes if name.endswith("_proj.weight")]:
        rows, columns = shapes.pop(name)
        stem = name.removesuffix("weight")
        shapes |= {f"{stem}qweight": (columns // 8, rows), f"{stem}qzeros": (1, rows // 8), f"{stem}scales": (1, rows)}
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    folder = write_hub_llama(tmp_path / "m", config=config)
    write_safetensors(folder / "model.safetensors", shapes, "F32")
    found = inspect_model(folder)
    plain = inspect_model(write_hub_llama(tmp_path / "plain"))
    assert (found.parameters, found.quantization) == (plain.parameters, "gptq, 4 bits")
    assert found.sound, told(found)


def test_a_prefix_and_a_converted_file_say_what_they_are_for() -> None:
    assert inspect_model(there("chatglm/ptuning-v2")).details["prefix"] == "5 positions of 384 numbers"
    converted = inspect_model(there("rwkv/rwkv4-tiny-converted-cpu_fp32i8.pth"))
    assert "'cpu fp32i8'" in converted.details["converted"]
    assert inspect_model(there("belle-bloom/xor/enc")).details["inside"] == "blob.bin, config.json"


def test_the_bundled_model_is_told() -> None:
    found = inspect_model(guide_path())
    assert (found.layout, found.architecture, found.layers, found.width) == ("gguf", "llama", 4, 256)
    assert (found.vocabulary, found.tokens, found.chat_template, found.preset) == (3072, 3072, True, "model")
    assert (found.backends, found.quantization.split(", ")[0]) == (("llama_cpp", "numpy"), "Q8_0")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("llama/hf/pytorch_model-00002-of-00002.bin", "llama/hf"),
        ("llama/hf/config.json", "llama/hf"),
        ("llama/alpaca-lora/adapter_model.bin", "llama/alpaca-lora"),
        ("llama/meta-1shard/consolidated.00.pth", "llama/meta-1shard"),
        ("glm130b/tp2/49300/mp_rank_01_model_states.pt", "glm130b/tp2"),
        ("glm130b/tp2/49300", "glm130b/tp2"),
    ],
)
def test_a_part_stands_for_the_whole(path: str, folder: str) -> None:
    assert inspect_model(there(path)).path == there(folder)


def test_a_folder_with_one_file_stands_for_it(tmp_path: Path) -> None:
    shutil.copy(guide_path(), tmp_path / "m.gguf")
    assert inspect_model(tmp_path).path == tmp_path / "m.gguf"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert inspect_model(tmp_path).layout == "gguf", "pages of GGUF files often have a config.json, too"
    shutil.copy(guide_path(), tmp_path / "n.gguf")
    with pytest.raises(ModelLoadError, match=r"there are 2 models here: m\.gguf, n\.gguf; give the file of one"):
        inspect_model(tmp_path)


# --- what vocabularies tell ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "variant", "preset"),
    [
        (32_000, "", ""),
        (32_001, "Alpaca", "alpaca"),
        (49_953, "Chinese-LLaMA", ""),
        (49_954, "Chinese-Alpaca", "chinese-alpaca"),
        (79_458, "BELLE-LLaMA-EXT", "belle-llama-ext"),
    ],
)
def test_rows_of_the_vocabulary_tell_who_added_to_it(tmp_path: Path, rows: int, variant: str, preset: str) -> None:
    found = inspect_model(write_hub_llama(tmp_path / "m", rows=rows, width=4, layers=1))
    assert (found.vocabulary, found.variant, found.preset) == (rows, variant, preset)
    meta = tmp_path / "meta"
    meta.mkdir()
    write_torch(meta / "consolidated.00.pth", meta_llama(rows=rows, width=4, layers=1))
    assert inspect_model(meta).variant == variant
    lora = {"base_model.model.model.embed_tokens.weight": (rows, 4), "base_model.model.lm_head.weight": (rows, 4)}
    assert inspect_model(write_adapter(tmp_path / "lora", lora)).variant == variant


def test_a_slim_chatglm_is_told_by_its_rows(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (130_528, 4)}
    shapes |= {"transformer.layers.0.attention.query_key_value.weight": (12, 4), "lm_head.weight": (130_528, 4)}
    shapes |= {
        "transformer.layers.0.mlp.dense_h_to_4h.bias": (16,),
        "transformer.layers.0.input_layernorm.weight": (4,),
    }
    write_torch(tmp_path / "pytorch_model.bin", shapes)
    config = {"model_type": "chatglm", "inner_hidden_size": 16, "num_layers": 1, "vocab_size": 150_528}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = inspect_model(tmp_path)
    assert found.variant == "slim vocabulary, without pictures"
    assert "note: vocabulary: config.json says 150,528, and the weights 130,528" in told(found)
    assert found.sound


# --- other forms -----------------------------------------------------------------------------------------------------


def rwkv(version: int) -> dict[str, tuple[int, ...]]:
    """The tensors by which each version is known."""
    att = "blocks.0.att."
    own: dict[int, dict[str, tuple[int, ...]]] = {
        4: {f"{att}time_decay": (8,)},
        5: {f"{att}time_decay": (2, 4), f"{att}ln_x.weight": (8,)},
        6: {f"{att}time_maa_k": (1, 1, 8), f"{att}time_faaaa": (2, 4), f"{att}time_decay": (1, 1, 8)},
        7: {f"{att}r_k": (2, 4), f"{att}ln_x.weight": (8,)},
    }
    return {"emb.weight": (65536, 8), "head.weight": (65536, 8), "blocks.0.ln1.weight": (8,), **own[version]}


@pytest.mark.parametrize("version", [4, 5, 6, 7])
def test_each_version_of_rwkv_is_told_apart(tmp_path: Path, version: int) -> None:
    path = write_torch(tmp_path / "rwkv-x-world-ctx4096.pth", rwkv(version))
    found = inspect_model(path)
    assert (found.family, found.layers, found.width, found.heads) == (f"RWKV-{version}", 1, 8, 0 if version == 4 else 2)
    assert (found.context, found.preset, found.details["tokenizer"][:5]) == (4096, "rwkv-world", "World")
    assert (found.backends, found.sound, told(found)) == (("rwkv",), True, "")


def test_a_raven_wants_its_tokenizer_beside_it(tmp_path: Path) -> None:
    shapes = {**rwkv(4), "emb.weight": (50277, 8), "head.weight": (50277, 8)}
    path = write_torch(tmp_path / "raven.pth", shapes)
    assert told(inspect_model(path)).startswith("warning: there is no tokenizer beside it; put 20B_tokenizer.json")
    (tmp_path / "20B_tokenizer.json").touch()
    found = inspect_model(path)
    assert (found.tokenizer, told(found)) == ("20B_tokenizer.json", "")
    other = inspect_model(there("rwkv/rwkv4-tiny.pth"))
    assert (other.tokenizer, told(other)) == (
        "", "warning: its tokenizer is not known; name its file by tokenizer: in bots.yaml",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["ggml", "ggmf 1", "ggjt 1", "ggjt 2", "ggjt 3"])
def test_old_files_of_llama_cpp_are_told_with_what_to_do(tmp_path: Path, kind: str) -> None:
    found = inspect_model(write_ggml(tmp_path / "ggml-model-q4_0.bin", kind))
    assert (found.layout, found.family, found.layers, found.width, found.heads) == ("ggml", "LLaMA", 2, 64, 4)
    assert found.format.startswith(kind)
    assert "chatbridge model convert --to gguf" in told(found)
    assert (found.sound, found.backends) == (True, ())


def test_a_checkpoint_of_torch_in_disguise_is_no_ggml(tmp_path: Path) -> None:
    found = inspect_model(write_torch(tmp_path / "ggml-model-q4_0.bin", meta_llama()))
    assert (found.family, found.format) == ("LLaMA", "torch, 1 file")
    assert "give the folder with its config.json" in told(found)


def test_a_file_of_an_old_torch_is_described_all_the_same(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    write_old_torch(folder / "pytorch_model.bin", hub_llama())
    found = inspect_model(folder)
    assert (found.format, found.layers) == ("torch before 1.6, 1 file", 2)
    assert "torch.load and torch.save it once" in told(found)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "chatglm"}, "ChatGLM2, 3 or a GLM-4"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "an encoder-decoder model"),
    ],
)
def test_models_that_nothing_of_ours_runs_say_so(tmp_path: Path, config: dict[str, object], words: str) -> None:
    found = inspect_model(write_hub_llama(tmp_path / "m", config=config))
    assert words in told(found)
    assert not found.backends


def test_a_family_that_is_not_in_the_table_is_told_by_its_configuration(tmp_path: Path) -> None:
    found = inspect_model(write_hub_llama(tmp_path / "m", config={"model_type": "mistral"}))
    assert (found.family, found.architecture, found.layers) == ("mistral", "mistral", 2)
    write_torch(tmp_path / "m" / "pytorch_model.bin", {"gpt.wte.weight": (48, 16), "gpt.h.0.x": (2, 2)})
    (tmp_path / "m" / "model.safetensors").unlink()
    found = inspect_model(tmp_path / "m")
    assert (found.vocabulary, found.backends) == (48, ("transformers",))


# --- backends --------------------------------------------------------------------------------------------------------


def test_backends_of_plugins_are_named_after_ours() -> None:
    others = {"acme": ("gguf",), "small": ("gguf/llama", "rwkv"), "odd": ("gguf/bloom",)}
    assert inspect_model(guide_path(), others).backends == ("llama_cpp", "numpy", "acme", "small")


@pytest.mark.parametrize(
    "path", ["llama/hf", "llama/alpaca-lora", "chatglm/ptuning-v2", "glm130b/tp2", "rwkv/rwkv7-tiny.pth"]
)
def test_the_excerpt_is_one_of_bots_yaml(tmp_path: Path, path: str) -> None:
    found = inspect_model(there(path))
    plugins = Plugins()
    (entry,) = yaml.safe_load(found.example)["models"].values()
    assert (entry["backend"], entry.get("template", "")) == (found.backends[0], found.preset)
    if entry["backend"] in plugins.backends:
        (tmp_path / "bots.yaml").write_text(found.example + "\nbots: {b: {frontend: repl}}\n", encoding="utf-8")
        assert load(tmp_path / "bots.yaml", plugins, {}).models
