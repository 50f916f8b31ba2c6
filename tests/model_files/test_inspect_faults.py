"""What is empty, partial, contradicts itself or has no effect is a fault, told with both numbers and what to do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge import ModelDescription, ModelLoadError, inspect_model
from chatbridge.testing import fixtures, random_llama, write_gguf

from .writers import (
    FOREIGN,
    hub_llama,
    meta_llama,
    number,
    numbers,
    tensor,
    text,
    write_adapter,
    write_ggml,
    write_hub_llama,
    write_safetensors,
    write_torch,
)

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9976578928\n"


def faults(path: Path) -> str:
    """What is wrong with a model, as text; it is not sound, and no excerpt of bots.yaml pretends that it is."""
    found = inspect_model(path)
    assert not found.sound
    assert not found.example
    return told(found)


def told(found: ModelDescription) -> str:
    return "\n".join(f"{one.message}; {one.remedy}" for one in found.problems)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def copy_of(path: str, target: Path) -> Path:
    if not (fixtures() / path).exists():
        pytest.skip(f"{path} is not among the records")
    return Path(shutil.copytree(fixtures() / path, target, dirs_exist_ok=True))


# --- parts -----------------------------------------------------------------------------------------------------------


def write_meta(folder: Path, *parts: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir()
    for rank, part in enumerate(parts):
        write_torch(folder / f"consolidated.{rank:02}.pth", part)
    (folder / "params.json").write_text('{"dim": 16, "n_layers": 2, "n_heads": 4, "vocab_size": -1}')
    return folder


def test_one_shard_of_metas_says_how_many_there_should_be(tmp_path: Path) -> None:
    part = dict(meta_llama(parts=4))
    found = inspect_model(write_meta(tmp_path / "m", part, part))
    assert (
        "shards: the folder says 2, and the shapes in them 4; consolidated.02.pth, consolidated.03.pth missing"
        in told(found)
    )
    whole = inspect_model(write_meta(tmp_path / "whole", dict(meta_llama())))
    assert (found.parameters, found.vocabulary, found.inner) == (whole.parameters, whole.vocabulary, whole.inner)
    (tmp_path / "m" / "consolidated.00.pth").unlink()
    assert "consolidated.00.pth, consolidated.02.pth" in faults(tmp_path / "m")


def test_more_shards_than_the_shapes_allow_are_of_two_models(tmp_path: Path) -> None:
    part = dict(meta_llama(parts=2))
    words = faults(write_meta(tmp_path / "m", part, part, part))
    assert "the folder says 3, and the shapes in them 2; keep the files of one model alone" in words
    assert "missing" not in words


def test_a_layer_that_no_shard_has_whole_is_told_of_each(tmp_path: Path) -> None:
    part = dict(meta_llama(parts=2))
    found = inspect_model(write_meta(tmp_path / "whole", part, part))
    assert "shards" not in told(found)
    assert found.details["tensor-parallel parts"] == "2"
    assert "tensor-parallel parts" not in inspect_model(write_meta(tmp_path / "one", dict(meta_llama()))).details
    larger = dict(meta_llama(parts=2, layers=3))
    lacking = {name: shape for name, shape in larger.items() if name != "layers.1.feed_forward.w1.weight"}
    words = faults(write_meta(tmp_path / "m", lacking, lacking))
    for file in ("consolidated.00.pth", "consolidated.01.pth"):
        assert f"{file}: layers.1.feed_forward.w1.weight is not there, and other layers have it" in words


def test_shards_of_different_models_do_not_belong_together(tmp_path: Path) -> None:
    first, other = dict(meta_llama(parts=2)), dict(meta_llama(parts=2, inner=48))
    lacking = {name: shape for name, shape in first.items() if "wv" not in name}
    assert "layers.0.attention.wv.weight is in one of them alone" in faults(write_meta(tmp_path / "l", first, lacking))
    words = faults(write_meta(tmp_path / "m", first, other))
    assert "consolidated.01.pth is no part of the same model as consolidated.00.pth" in words
    assert "layers.0.feed_forward.w1.weight has the shapes [16, 16] and [24, 16]" in words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dim": 32}, "width: params.json says 32, and the weights 16"),
        ({"n_layers": 3}, "layers: params.json says 3, and the weights 2"),
        ({"n_heads": 8}, "heads: params.json says 8, and the weights 4"),
        ({"vocab_size": 32000}, "vocabulary: params.json says 32,000, and the weights 48"),
    ],
)
def test_params_that_are_of_another_size_print_both_numbers(
    tmp_path: Path, values: dict[str, object], words: str
) -> None:
    folder = write_meta(tmp_path / "m", dict(meta_llama()))
    assert inspect_model(folder).sound
    change(folder / "params.json", **values)
    assert words in faults(folder)


def test_missing_ranks_of_glm_130b_are_named(tmp_path: Path) -> None:
    folder = copy_of("glm130b/tp4", tmp_path / "m")
    (folder / "49300" / "mp_rank_02_model_states.pt").unlink()
    assert "the folder says 3, and the shapes in them 4; mp_rank_02_model_states.pt missing" in faults(folder)
    (folder / "latest").write_text("50000")
    assert "`latest` names '50000', and there is no such folder" in faults(folder)
    (folder / "latest").write_text("../m")
    assert "`latest` names '../m'" in faults(folder)


def test_missing_and_swapped_shards_of_a_folder_are_named(tmp_path: Path) -> None:
    folder = copy_of("llama/hf", tmp_path / "m")
    first, second = (folder / f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2))
    first.rename(tmp_path / "x")
    assert f"the weights have 2 parts, and {first.name} is missing; download all of them" in faults(folder)
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert "should be in it by pytorch_model.bin.index.json, and is not" in faults(folder)


def test_parts_without_their_index_are_told(tmp_path: Path) -> None:
    folder = copy_of("llama/hf", tmp_path / "m")
    (folder / "pytorch_model.bin.index.json").unlink()
    assert "pytorch_model-00001-of-00002.bin is there, and the index of the parts is not" in faults(folder)


def test_a_shard_that_is_no_file_is_told_beside_the_rest(tmp_path: Path) -> None:
    folder = copy_of("llama/hf", tmp_path / "m")
    second = folder / "pytorch_model-00002-of-00002.bin"
    second.write_text(POINTER)
    found = inspect_model(folder)
    assert f"{second.name}: this is a Git LFS pointer" in told(found)
    assert (found.sound, found.layers, found.width, found.vocabulary) == (False, 2, 64, 480)
    second.write_bytes(b"<!DOCTYPE html>")
    assert "this is a web page" in faults(folder)


def test_parts_of_a_gguf_that_are_missing_are_named(tmp_path: Path) -> None:
    arrays = random_llama(layers=1, dim=16, hidden=32, heads=2, kv_heads=2, vocabulary=3)
    write_gguf(tmp_path / "m-00001-of-00003.gguf", {"llama.block_count": 3, "tokenizer.ggml.tokens": [*"abc"]}, arrays)
    words = faults(tmp_path)
    assert "has 3 parts, and m-00002-of-00003.gguf, m-00003-of-00003.gguf are missing" in words
    assert "layers" not in words, "the others may be in the parts that are missing"


def test_a_part_of_a_gguf_that_lost_its_name_is_told(tmp_path: Path) -> None:
    arrays = random_llama(layers=1, dim=16, hidden=32, heads=2, kv_heads=2, vocabulary=3)
    sizes = {"llama.block_count": 1, "llama.context_length": 8, "llama.embedding_length": 16}
    metadata = {**sizes, "tokenizer.ggml.tokens": [*"abc"], "split.count": 3}
    assert "it is one of 3 parts, and its name does not say which" in faults(
        write_gguf(tmp_path / "m.gguf", metadata, arrays)
    )
    assert inspect_model(write_gguf(tmp_path / "n.gguf", {**metadata, "split.count": 1}, arrays)).sound


def test_parts_of_an_old_ggml_that_are_missing_are_named(tmp_path: Path) -> None:
    path = write_ggml(tmp_path / "ggml-model-q4_0.bin", "ggmf 1", width=128, parts=2)
    assert "the model has 2 parts, and ggml-model-q4_0.bin.1 is missing" in faults(path)
    shutil.copy(path, tmp_path / "ggml-model-q4_0.bin.1")
    assert inspect_model(path).sound


# --- sizes that don't match ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": 4096}, "width: config.json says 4,096, and the weights 16"),
        ({"num_hidden_layers": 32}, "layers: config.json says 32, and the weights 2"),
        ({"intermediate_size": 11008}, "inner width: config.json says 11,008, and the weights 32"),
        ({"vocab_size": 49953}, "vocabulary: config.json says 49,953, and the weights 48"),
        ({"model_type": None}, "config.json has no model_type"),
    ],
)
def test_a_configuration_of_another_model_prints_both_numbers(
    tmp_path: Path, values: dict[str, object], words: str
) -> None:
    assert words in faults(write_hub_llama(tmp_path / "m", config=values))


def test_only_the_vocabulary_of_a_chatglm_may_differ_from_its_configuration(tmp_path: Path) -> None:
    folder = copy_of("chatglm/chatglm-6b-tiny", tmp_path / "m")
    change(folder / "config.json", vocab_size=20_768)
    found = inspect_model(folder)
    assert (found.sound, told(found)) == (True, "vocabulary: config.json says 20,768, and the weights 768; ")
    change(folder / "config.json", num_layers=28)
    assert "layers: config.json says 28, and the weights 3" in faults(folder)


def test_a_tokenizer_that_is_too_large_prints_both_numbers(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    (folder / "added_tokens.json").write_text('{"[PAD]": 49953}')
    shutil.copy(fixtures() / "llama" / "tokenizer.model", folder)
    found = inspect_model(folder)
    assert "vocabulary: the tokenizer (tokenizer.model) says 49,954, and the weights 48" in told(found)
    assert (found.sound, found.vocabulary, found.tokens) == (False, 48, 49_954)


def test_a_tokenizer_that_is_not_there_is_missed_once(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    assert told(inspect_model(folder)) == "there is no tokenizer beside it; download the tokenizer's files, too"
    (folder / "tokenizer.json").write_text("{")
    assert "this is no JSON" in faults(folder)
    assert "there is no tokenizer" not in faults(folder)


def test_an_embedding_and_a_head_of_different_sizes(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    write_safetensors(folder / "model.safetensors", {**hub_llama(), "lm_head.weight": (49, 16)})
    assert "rows of the vocabulary: the embedding says 48, and the head 49" in faults(folder)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight is not there, and other layers have it"),
        ("model.layers.1.", "layer 1 of 3 is not there"),
    ],
)
def test_a_layer_that_is_not_whole(tmp_path: Path, gone: str, words: str) -> None:
    folder = write_hub_llama(tmp_path / "m", layers=3)
    kept = {name: shape for name, shape in hub_llama(layers=3).items() if not name.startswith(gone)}
    write_safetensors(folder / "model.safetensors", kept)
    assert words in faults(folder)


def test_a_prefix_of_another_length_prints_both_numbers(tmp_path: Path) -> None:
    folder = copy_of("chatglm/ptuning-v2", tmp_path / "m")
    change(folder / "config.json", pre_seq_len=128, num_layers=28)
    words = faults(folder)
    assert "positions: pre_seq_len in config.json says 128, and the prefix 5" in words
    assert "numbers for a position: config.json says 3,584, and the prefix 384" in words


def test_a_gguf_without_a_tokenizer_or_layers(tmp_path: Path) -> None:
    arrays = random_llama(layers=2, dim=16, hidden=32, heads=2, kv_heads=2, vocabulary=32)
    kept = {name: array for name, array in arrays.items() if "blk.1." not in name}
    write_gguf(tmp_path / "m.gguf", {"llama.block_count": 2, "llama.embedding_length": 16}, kept)
    words = faults(tmp_path / "m.gguf")
    assert "the file has no tokenizer" in words
    assert "layers: the metadata says 2, and the tensors 1" in words


def test_a_size_that_is_only_claimed_takes_no_time(tmp_path: Path) -> None:
    part = dict(meta_llama(parts=2))
    size = number(1) + b"\x8a\x08" + (1 << 50).to_bytes(8, "little")
    folder = write_meta(tmp_path / "m", part)
    names = ("layers.0.attention_norm.weight", "layers.0.attention.wq.weight", "layers.0.feed_forward.w1.weight")
    items = b"".join(text(name) + tensor("0", (16,)) for name in names)
    claimed = items.replace(numbers((16,)) + numbers((1,)), b"(" + size[5:] + b"t" + numbers((0,)), 1)
    pickle = b"\x80\x02}(" + claimed + b"u."
    write_torch(folder / "consolidated.00.pth", {"x": (16,)}, pickle=pickle)
    assert "the folder says 1, and the shapes in them 70,368,744,177,664" in faults(folder)


def test_packed_weights_that_are_of_no_known_bits(tmp_path: Path) -> None:
    folder = copy_of("chatglm/chatglm-6b-int4-tiny", tmp_path / "m")
    change(folder / "config.json", quantization_bit=8)
    assert "bits: config.json says 8, and the shapes 4" in faults(folder)
    layer = "transformer.layers.0."
    shapes = {f"{layer}input_layernorm.weight": (64,), f"{layer}mlp.dense_h_to_4h.bias": (256,),
              f"{layer}attention.query_key_value.weight": (192, 21),
              f"{layer}attention.query_key_value.weight_scale": (192,)}  # fmt: skip
    write_torch(folder / "pytorch_model.bin", shapes)
    assert "columns of packed weights: the width says 64, and the weights 21: neither 8 bits nor 4" in faults(folder)


# --- adapters --------------------------------------------------------------------------------------------------------

LAYER = "base_model.model.model.layers.0.self_attn"
GOOD = {f"{LAYER}.q_proj.lora_A.weight": (4, 16), f"{LAYER}.q_proj.lora_B.weight": (16, 4)}


def test_an_adapter_without_tensors_says_why(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {})
    size = (folder / "adapter_model.bin").stat().st_size
    words = faults(folder)
    assert f"adapter_model.bin has no tensors ({size:,} bytes)" in words
    assert "save_pretrained" in words
    (folder / "adapter_model.bin").unlink()
    assert "neither adapter_model.safetensors nor adapter_model.bin" in faults(folder)


@pytest.mark.parametrize(
    ("shapes", "config", "words"),
    [
        (GOOD, {"r": 8, "target_modules": ["q_proj"]}, "rank: adapter_config.json says 8, and the tensors 4"),
        (GOOD, {"target_modules": ["k_proj"]}, "target_modules names k_proj, of which there are no tensors"),
        (GOOD, {"target_modules": ["k_proj"]}, "there are tensors of q_proj, which target_modules does not name"),
        (
            {**GOOD, f"{LAYER}.q_proj.lora_B.weight": (16, 5)},
            {"target_modules": ["q_proj"]},
            "lora_A says 4, and lora_B 5",
        ),
        ({f"{LAYER}.q_proj.lora_A.weight": (4, 16)}, {"target_modules": ["q_proj"]}, "lora_A without lora_B"),
        ({"x": (2, 2)}, {}, "none of its tensors changes a layer: it has no effect"),
        ({**GOOD, "m.embed_tokens.weight": (9, 4), "m.lm_head.weight": (8, 4)}, {}, "its embedding or head says 8"),
        (GOOD, {"target_modules": ["q_proj"], "enable_lora": [True]}, "an early PEFT for joined matrices"),
        (GOOD, {"peft_type": "PREFIX_TUNING"}, "a PREFIX_TUNING adapter puts vectors before the prompt"),
    ],
)
def test_an_adapter_that_has_no_effect_or_another_than_it_says(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, object], words: str
) -> None:
    assert words in faults(write_adapter(tmp_path / "a", shapes, **config))


def test_an_adapter_lacks_only_some_of_its_targets(tmp_path: Path) -> None:
    found = inspect_model(write_adapter(tmp_path / "a", GOOD))
    assert "target_modules names v_proj, of which there are no tensors" in told(found)
    assert found.sound


# --- the rest --------------------------------------------------------------------------------------------------------


def test_a_file_that_wants_to_run_code_is_described_and_refused(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m", form="torch")
    write_torch(folder / "pytorch_model.bin", hub_llama(), extra=text("x") + FOREIGN)
    found = inspect_model(folder)
    assert "wants to run code (posix.system)" in told(found)
    assert (found.sound, found.layers) == (False, 2)


def test_an_encrypted_file_that_does_not_begin_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / f"x.bin.{'0' * 64}.enc").write_bytes(b"x" * 100)
    assert "does not begin with the hash that its name says" in faults(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no such file or folder"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text(POINTER), "Git LFS pointer"),
        (lambda path: path.write_text("hello"), "no file of a model that is known here"),
        (lambda path: path.write_text('{"a": 1}'), "JSON and no model"),
        (lambda path: path.mkdir(), "the folder is empty"),
        (lambda path: path.write_bytes(b"\n\3abc"), "no file of a model that is known here"),
        (lambda path: (path.mkdir(), (path / "7B").mkdir()), "one of its folders may be what you mean: 7B"),
    ],
)
def test_what_is_no_model_at_all(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises(ModelLoadError, match=words):
        inspect_model(path)


def test_errors_stand_before_warnings(tmp_path: Path) -> None:
    (tmp_path / "consolidated.00.pth").write_text(POINTER)
    problems = inspect_model(tmp_path).problems
    assert [one.severity for one in problems] == ["error", "warning", "warning", "warning"]


def test_a_tokenizer_and_a_name_on_the_hub_are_told_for_what_they_are() -> None:
    with pytest.raises(ModelLoadError, match="this is a tokenizer of 480 pieces; give the model's folder"):
        inspect_model(fixtures() / "llama" / "tokenizer.model")
    with pytest.raises(ModelLoadError, match="`chatbridge model pull THUDM/chatglm-6b` fetches it"):
        inspect_model(Path("THUDM/chatglm-6b"))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"blocks.0.att.time_state": (2, 2)}, "an initial state of RWKV"),
        ({"a.lora_A.weight": (2, 2)}, "without its adapter_config.json"),
        ({"transformer.prefix_encoder.embedding.weight": (2, 2)}, "a P-Tuning prefix"),
        ({"x": (2, 2)}, "weights of no family that can be told by them (x, …)"),
        ({}, "this file holds no weights by name"),
    ],
)
def test_files_that_are_parts_of_something(tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    assert words in faults(write_torch(tmp_path / "x.pth", shapes))


@pytest.mark.parametrize(
    "beside", ["latest", "consolidated.00.pth", "mp_rank_00_model_states.pt", f"a.{'0' * 64}.enc", "params.json"]
)
def test_what_a_trainer_or_a_conversion_left_beside_a_model_does_not_hide_it(tmp_path: Path, beside: str) -> None:
    folder = write_hub_llama(tmp_path / "checkpoint-500")
    (folder / beside).write_text("global_step500", encoding="utf-8")
    for path in (folder, folder / "model.safetensors"):
        found = inspect_model(path)
        assert (found.layout, found.layers, found.sound) == ("huggingface", 2, True)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_to_what_is_not_there_are_told(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "model")
    (folder / "README.md").symlink_to("nowhere")
    found = inspect_model(folder)
    assert found.sound
    assert "README.md is a link to what is not there" in told(found)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blobs/1")
    found = inspect_model(folder)
    assert not found.sound
    assert "README.md, model.safetensors are links to what is not there" in told(found)
    for name in ("consolidated.00.pth", "mp_rank_00_model_states.pt"):
        (tmp_path / name[:4]).mkdir()
        (tmp_path / name[:4] / name).symlink_to(name)
        assert f"{name} is a link" in told(found := inspect_model(tmp_path / name[:4]))
        assert not found.sound


def test_an_adapter_of_experts_has_the_rank_once_for_each(tmp_path: Path) -> None:
    layer = "base_model.model.model.layers.0"
    shapes = {f"{layer}.self_attn.q_proj.lora_A.weight": (4, 16), f"{layer}.self_attn.q_proj.lora_B.weight": (16, 4)}
    for name in ("experts", "experts.base_layer"):
        shapes |= {f"{layer}.mlp.{name}.lora_A.weight": (32, 16), f"{layer}.mlp.{name}.lora_B.weight": (24, 32)}
    named = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    found = inspect_model(write_adapter(tmp_path / "a", shapes, target_modules=["q_proj"], target_parameters=named))
    assert found.sound
    assert found.adapter is not None
    assert (found.adapter.rank, found.adapter.targets) == ((4,), ("experts", "q_proj"))
    assert "tensors of experts" in faults(write_adapter(tmp_path / "b", shapes, target_modules=["q_proj"]))


def test_layers_of_another_family_need_not_be_alike_and_may_be_followed_by_guessing_ones(tmp_path: Path) -> None:
    shapes = {**hub_llama(layers=4)}
    for layer in (1, 2, 3):
        del shapes[f"model.layers.{layer}.mlp.gate_proj.weight"]
        shapes[f"model.layers.{layer}.mlp.experts.0.gate_proj.weight"] = (8, 16)
    folder = write_hub_llama(tmp_path / "m", config={"model_type": "glm4_moe", "num_hidden_layers": 3})
    write_safetensors(folder / "model.safetensors", shapes)
    assert "layers: config.json says 3" in faults(folder)
    change(folder / "config.json", num_nextn_predict_layers=1)
    found = inspect_model(folder)
    assert (found.sound, found.layers) == (True, 3)
    change(folder / "config.json", model_type="llama")
    assert "is not there, and other layers have it" in faults(folder)
