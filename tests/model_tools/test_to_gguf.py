"""Models of Meta's and Hugging Face's form as GGUF files: what stands in them, what is refused, what is bounded."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from chatbridge.cli.model.convert import convert
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import Weights
from chatbridge.model_files.gguf import GgufHeader, GgufStrings
from chatbridge.model_tools import checkpoint, output, to_gguf
from chatbridge.testing import fixtures, hub_arrays, hub_config, write_hub

from .samples import BLOOM, LLAMA, QWEN2, byte_level, chinese, llama3, qwen2

Change = Callable[[dict[str, Any], dict[str, np.ndarray]], object]


def made(folder: Path, tmp_path: Path, target: str = "f16") -> GgufHeader:
    return GgufHeader(convert(folder, tmp_path / f"{target}.gguf", target, {}), reader="this test")


def array(header: GgufHeader, name: str, dtype: str = "<f4") -> np.ndarray:
    tensor = header.tensors[name]
    raw = header.path.read_bytes()[tensor.start : tensor.start + tensor.nbytes]
    return np.frombuffer(raw, dtype).reshape(tensor.shape if dtype != "u1" else (tensor.shape[0], -1))


def texts(header: GgufHeader, key: str = "tokens") -> list[str]:
    found = header.metadata[f"tokenizer.ggml.{key}"]
    assert isinstance(found, GgufStrings)
    return [text.decode() for text in found]


def nothing_left(folder: Path) -> bool:
    return not [file.name for file in folder.iterdir() if ".gguf" in file.name]


# --- what stands in the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["meta-1shard", "meta-2shard"])
def test_metas_rows_stand_as_they_were_however_many_parts_there_are(tmp_path: Path, parts: str) -> None:
    header = made(LLAMA / parts, tmp_path, "f32")
    with Weights.of_files([LLAMA / "meta-1shard" / "consolidated.00.pth"]) as weights:
        for ours, theirs in (
            ("token_embd", "tok_embeddings"), ("output", "output"), ("blk.1.attn_q", "layers.1.attention.wq"),
            ("blk.0.attn_output", "layers.0.attention.wo"), ("blk.1.ffn_down", "layers.1.feed_forward.w2"),
        ):  # fmt: skip
            np.testing.assert_array_equal(array(header, f"{ours}.weight"), weights[f"{theirs}.weight"].floats())
    assert {name: header.metadata[f"llama.{name}"] for name in ("context_length", "attention.head_count_kv")} == {
        "context_length": 2048, "attention.head_count_kv": 4,
    }  # fmt: skip


def test_both_forms_of_a_model_make_the_same_tensors(tmp_path: Path) -> None:
    meta, hub = made(LLAMA / "meta-2shard", tmp_path, "f16"), made(LLAMA / "hf", tmp_path, "f32")
    for name, tensor in hub.tensors.items():
        stored = "<f2" if meta.tensors[name].kind == "F16" else "<f4"
        np.testing.assert_array_equal(array(hub, name), array(meta, name, stored).astype(np.float32))
        assert len(tensor.shape) == 2 or tensor.kind == meta.tensors[name].kind == "F32"
    assert texts(meta) == texts(hub)


@pytest.mark.parametrize(("rows", "cut"), [(True, "rows"), (False, "columns")])
def test_an_embedding_is_joined_by_the_side_on_which_it_was_cut(tmp_path: Path, rows: bool, cut: str) -> None:
    torch = pytest.importorskip("torch")
    shutil.copyfile(LLAMA / "meta-2shard" / "params.json", tmp_path / "params.json")
    shutil.copyfile(LLAMA / "tokenizer.model", tmp_path / "tokenizer.model")
    whole = torch.load(LLAMA / "meta-1shard" / "consolidated.00.pth", weights_only=True)["tok_embeddings.weight"]
    for number, part in enumerate(whole.split(240 if rows else 32, dim=0 if rows else 1)):
        name = f"consolidated.0{number}.pth"
        weights = torch.load(LLAMA / "meta-2shard" / name, weights_only=True)
        torch.save({**weights, "tok_embeddings.weight": part.clone()}, tmp_path / name)
    found = array(made(tmp_path, tmp_path, "f32"), "token_embd.weight")
    np.testing.assert_array_equal(found, whole.float().numpy(), err_msg=cut)


@pytest.mark.parametrize("target", ["f32", "f16", "bf16", "q8_0"])
def test_each_type_holds_the_nearest_numbers(tmp_path: Path, target: str) -> None:
    config = hub_config()
    arrays = hub_arrays(config)
    header = made(
        write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf", dtype="float32"), tmp_path, target
    )
    name, kind = "blk.0.ffn_down.weight", GGMLQuantizationType[target.upper()]
    assert header.tensors[name].kind == target.upper()
    expected = quantize(arrays["model.layers.0.mlp.down_proj.weight"], kind)
    assert array(header, name, "u1").tobytes() == expected.tobytes()
    assert {tensor.kind for tensor in header.tensors.values() if len(tensor.shape) == 1} == {"F32"}
    assert header.metadata["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[target]


def test_rows_that_q8_0_can_not_cut_into_blocks_are_f16(tmp_path: Path) -> None:
    config = hub_config(intermediate_size=80)
    header = made(write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf"), tmp_path, "q8_0")
    assert (header.tensors["blk.0.ffn_down.weight"].kind, header.tensors["blk.0.ffn_up.weight"].kind) == ("F16", "Q8_0")
    steps = json.loads((tmp_path / "q8_0.gguf.report.json").read_text(encoding="utf-8"))["steps"]
    assert set(steps[2]["bytes_by_type"]) == {"q8_0", "f16", "f32"}


def test_a_head_that_is_the_embedding_is_not_stored_twice(tmp_path: Path) -> None:
    assert "output.weight" not in made(BLOOM / "hf", tmp_path).tensors
    config = hub_config(tie_word_embeddings=True)
    arrays = hub_arrays(config)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    folder = write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf")
    assert "output.weight" not in made(folder, tmp_path, "f32").tensors


def test_names_of_bloom_may_lack_what_others_begin_with(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for file in (BLOOM / "hf").glob("*.json"):
        shutil.copyfile(file, tmp_path / file.name)
    weights = torch.load(BLOOM / "hf" / "pytorch_model.bin", weights_only=True)
    short = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    torch.save(short, tmp_path / "pytorch_model.bin")
    ours = made(tmp_path, tmp_path, "f16").path.read_bytes()
    (tmp_path / "whole").mkdir()
    theirs = made(BLOOM / "hf", tmp_path / "whole", "f16").path.read_bytes()
    assert ours[-1000:] == theirs[-1000:]


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_a_sentencepiece_vocabulary_keeps_scores_and_kinds_and_is_filled_up(tmp_path: Path) -> None:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA / "chinese-alpaca-lora" / "tokenizer.model"))
    header = made(chinese(tmp_path / "hub"), tmp_path)
    scores = header.metadata["tokenizer.ggml.scores"]
    assert texts(header)[:691] == [model.id_to_piece(i) for i in range(691)]
    assert scores[:691].tolist() == [model.get_score(i) for i in range(691)]
    assert texts(header)[690:693] == [model.id_to_piece(690), "[PAD]", "[PAD692]"]
    assert header.metadata["tokenizer.ggml.token_type"].tolist()[690:] == [1, 3, *[5] * 12]
    assert header.metadata["tokenizer.ggml.padding_token_id"] == 691


def test_wrong_ids_in_a_configuration_do_not_win_over_the_tokenizer(tmp_path: Path) -> None:
    config = hub_config(bos_token_id=0, eos_token_id=1)
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "", "eos_token": "", "unk_token": ""}')
    (folder / "special_tokens_map.json").unlink()
    header = made(folder, tmp_path)
    assert [header.metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")] == [1, 2, 0]
    report = json.loads((tmp_path / "f16.gguf.report.json").read_text(encoding="utf-8"))
    notes = [step["note"] for step in report["steps"] if step["step"] == "note"]
    assert notes == ["bos: config.json says 0, and the tokenizer 1, which is taken",
                     "eos: config.json says 1, and the tokenizer 2, which is taken"]  # fmt: skip


def test_a_byte_level_vocabulary_has_its_merges_and_names_how_it_cuts(tmp_path: Path) -> None:
    header = made(qwen2(tmp_path / "hub"), tmp_path)
    written = json.loads((BLOOM / "hf" / "tokenizer.json").read_text(encoding="utf-8"))
    assert texts(header, "merges") == written["model"]["merges"]
    assert texts(header)[499:503] == [texts(header)[499], "<tool call>", "<|endoftext|>", "[PAD502]"]
    assert header.metadata["tokenizer.ggml.token_type"].tolist()[499:503] == [1, 4, 3, 5]
    assert header.metadata["tokenizer.ggml.pre"] == "qwen2"
    assert header.metadata["tokenizer.chat_template"].startswith("{% for message")
    assert (header.metadata["tokenizer.ggml.add_bos_token"], header.metadata["tokenizer.ggml.eos_token_id"]) == (
        False,
        3,
    )


def test_what_a_text_gets_before_it_is_told_by_the_tokenizer(tmp_path: Path) -> None:
    header = made(llama3(tmp_path / "hub"), tmp_path)
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["tokenizer.ggml.pre"] == "llama-bpe"


def test_vocab_json_with_merges_txt_is_the_same_vocabulary(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "hub")
    whole = made(folder, tmp_path, "f16")
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(written["model"]["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in written["model"]["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    decoder = {str(token["id"]): token for token in written["added_tokens"]}
    told |= {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    parts = made(folder, tmp_path, "f32")
    for key in ("tokens", "merges"):
        assert texts(parts, key) == texts(whole, key)
    assert parts.metadata["tokenizer.ggml.pre"] == "qwen2"


def test_a_sentencepiece_model_that_became_a_tokenizer_json_cuts_as_before(tmp_path: Path) -> None:
    """The merges of transformers' converter: every way to put a piece together, by the piece's score."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA / "tokenizer.model"))
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    scores = dict(zip(pieces, map(model.get_score, range(len(pieces))), strict=True))
    pairs = [(text[:at], text[at:]) for text in pieces for at in range(1, len(text))
             if text[:at] in scores and text[at:] in scores]  # fmt: skip
    pairs.sort(key=lambda pair: -scores["".join(pair)])
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "added_tokens": [{"id": i, "content": pieces[i], **special} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": [" ".join(p) for p in pairs],
                  "vocab": {text: i for i, text in enumerate(pieces)}},
    }  # fmt: skip
    config = hub_config()
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    header = made(folder, tmp_path)
    shutil.copyfile(LLAMA / "tokenizer.model", folder / "tokenizer.model")
    before = made(folder, tmp_path, "f32")
    assert texts(header) == texts(before)
    kinds, kinds_before = (one.metadata["tokenizer.ggml.token_type"] for one in (header, before))
    assert kinds.tolist() == kinds_before.tolist()
    ours, theirs = (one.metadata["tokenizer.ggml.scores"] for one in (header, before))
    merged = [i for i, text in enumerate(pieces) if len(text) > 1 and kinds[i] == 1]
    assert sorted(merged, key=lambda i: -ours[i]) == sorted(merged, key=lambda i: -theirs[i])
    assert header.metadata["tokenizer.ggml.add_space_prefix"] is True


def test_a_text_that_two_ids_have_is_left_to_the_one_that_was_added(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "hub", QWEN2)
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = next(text for text, number in written["model"]["vocab"].items() if number == 300)
    written["added_tokens"].append({"id": 502, "content": text, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    config = hub_config(vocab_size=512)
    header = made(write_hub(folder, config, hub_arrays(config)), tmp_path)
    assert (texts(header)[300], texts(header)[502]) == ("[PAD300]", text)
    assert len(set(texts(header))) == 512


# --- what is refused -------------------------------------------------------------------------------------------------


def put(name: str, value: Any) -> Change:
    return lambda config, arrays: config.update({name: value})


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda config, arrays: arrays.update({name: change(arrays[name])})


def with_number(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[3, 5] = value
        return array

    return change


Q = "model.layers.1.self_attn.q_proj.weight"
FAULTS: dict[str, tuple[Change, str]] = {
    "a tensor is missing": (lambda config, arrays: arrays.pop("lm_head.weight"), r"lm_head\.weight should be among"),
    "a tensor too many": (
        lambda config, arrays: arrays.update({"model.layers.0.mlp.experts.weight": arrays[Q]}),
        r"model\.layers|layers\.0\.mlp\.experts\.weight",
    ),
    "a shape": (tensor(Q, lambda q: q[:48]), r"q_proj\.weight has the shape \[48, 64\], and should have \[64, 64\]"),
    "grouped heads": (put("num_key_value_heads", 4), r"keys and values: config\.json says 4, and the weights 2"),
    "a width of heads": (put("head_dim", 24), r"32 numbers of keys and values can't be cut into heads of 24"),
    "no heads": (put("num_attention_heads", None), r"config\.json does not say num_attention_heads"),
    "no norm": (put("rms_norm_eps", "x"), r"config\.json says 'x' for rms_norm_eps"),
    "angles": (put("rope_scaling", {"type": "dynamic", "factor": 2}), r"scaled as 'dynamic'; llama\.cpp's convert_hf"),
    "half of the angles": (put("rope_scaling", {"type": "yarn", "factor": 2}), r"original_max_position_embeddings"),
    "another activation": (put("hidden_act", "gelu"), r"hidden_act is 'gelu', and llama\.cpp's llama computes other"),
    "vocabulary": (put("vocab_size", 479), r"vocabulary: config\.json says 479, and the weights 480"),
    "no number": (tensor(Q, with_number(np.nan)), r"self_attn\.q_proj\.weight holds what is no finite number"),
    "infinite": (tensor("model.embed_tokens.weight", with_number(np.inf)), r"embed_tokens\.weight holds what is no"),
    "too large": (tensor(Q, with_number(1e6)), r"holds 1e\+06, and f16 goes up to 65519; make bf16 or f32 of it"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_in_words_and_nothing_is_left(tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    config = hub_config()
    arrays = hub_arrays(config)
    change(config, arrays)
    folder = write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf", dtype="float32")
    with pytest.raises(ModelLoadError, match=words):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    assert nothing_left(tmp_path)


def replaced(folder: Path, name: str, content: str | bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


TOKENIZERS: dict[str, tuple[Mapping[str, str | bytes | None], str]] = {
    "none": ({"tokenizer.model": None}, r"no tokenizer here \(tokenizer\.model or tokenizer"),
    "Llama 3's own": ({"tokenizer.model": "IQ== 0\nIg== 1\n"}, r"in Hugging Face's form"),
    "cut short": ({"tokenizer.model": (LLAMA / "tokenizer.model").read_bytes()[:-700]}, r"no SentencePiece model"),
    "Unigram": ({"tokenizer.model": (fixtures() / "chatglm/chatglm-6b-tiny/ice_text.model").read_bytes()},
                r"the tokenizer \(tokenizer\.model\) says 764, and the weights 480"),
    "too large": ({"added_tokens.json": '{"more": 480}'}, r"says 481, and the weights 480"),
    "other words": ({"tokenizer.model": None, "tokenizer.json": json.dumps(
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]},
         "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "b+"}, "behavior": "Isolated"}})},
        r"how it cuts words is not known here: b\+; try llama\.cpp's convert_hf_to_gguf\.py"),
    "no byte pairs": ({"tokenizer.model": None, "tokenizer.json": json.dumps(
        {"model": {"type": "Unigram", "vocab": [["a", 0]]}})}, r"no byte-pair tokenizer \(Unigram\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_would_not_be_themselves_are_refused(tmp_path: Path, name: str) -> None:
    files, words = TOKENIZERS[name]
    config = hub_config()
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    for file, content in files.items():
        replaced(folder, file, content)
    with pytest.raises(ModelLoadError, match=words):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    assert nothing_left(tmp_path)


def test_a_unigram_model_is_named_as_what_llama_cpp_would_cut_otherwise(tmp_path: Path) -> None:
    config = hub_config(vocab_size=800)
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config))
    shutil.copyfile(fixtures() / "chatglm/chatglm-6b-tiny/ice_text.model", folder / "tokenizer.model")
    with pytest.raises(ModelLoadError, match=r"tokenizer is no BPE.* convert_hf_to_gguf\.py converts it all the same"):
        convert(folder, tmp_path / "model.gguf", "f16", {})


def test_quantised_weights_are_refused_by_a_tensors_name(tmp_path: Path) -> None:
    from chatbridge.model_tools.safetensors_file import SafetensorsFile

    config = hub_config()
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    name = "model.layers.0.self_attn.q_proj.qweight"
    packed = [output.NewTensor(name, (8, 64), "int32", 2048, lambda: [bytes(2048)])]
    output.write_tensors(folder / "model-00002-of-00002.safetensors", SafetensorsFile(packed), packed, "")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = dict.fromkeys(hub_arrays(config), "model-00001-of-00002.safetensors") | {
        name: "model-00002-of-00002.safetensors"
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ModelLoadError, match=r"it is quantised.*: it has layers\.0\.self_attn\.q_proj\.qweight"):
        convert(folder, tmp_path / "model.gguf", "f16", {})


def test_parts_of_two_models_are_not_joined(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "model"
    shutil.copytree(LLAMA / "meta-2shard", folder, copy_function=shutil.copyfile)
    shutil.copyfile(LLAMA / "tokenizer.model", tmp_path / "tokenizer.model")
    folder.chmod(0o755)
    other = torch.load(folder / "consolidated.01.pth", weights_only=True)
    other["layers.1.ffn_norm.weight"] *= 2
    torch.save(other, folder / "consolidated.01.pth")
    with pytest.raises(ModelLoadError, match=r"01\.pth: layers\.1\.ffn_norm\.weight is another one .* of two models"):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(ModelLoadError, match=r"consolidated\.01\.pth missing"):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    assert nothing_left(tmp_path)


def test_what_is_not_converted_is_sent_to_what_does(tmp_path: Path) -> None:
    config = hub_config("gemma2")
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    with pytest.raises(ModelLoadError, match=r"gemma2 .* llama\.cpp's convert_hf_to_gguf\.py"):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    with pytest.raises(ModelLoadError, match=r"no 'q4_0' is made; give one of: f32, f16, bf16, q8_0.*quantize"):
        convert(LLAMA / "hf", tmp_path / "model.gguf", "q4_0", {})
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(ModelLoadError, match="it is there already"):
        convert(LLAMA / "hf", tmp_path / "model.gguf", "f16", {})


# --- long work -------------------------------------------------------------------------------------------------------


def test_the_report_names_sources_and_steps(tmp_path: Path) -> None:
    made(LLAMA / "meta-2shard", tmp_path)
    report = json.loads((tmp_path / "f16.gguf.report.json").read_text(encoding="utf-8"))
    names = [Path(source["path"]).name for source in report["sources"]]
    assert names == ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"]
    read, vocabulary, write, note = report["steps"]
    assert (read["sizes"]["kv_heads"], read["left_out"], vocabulary["tokens"]) == (4, ["rope.freqs"], 480)
    assert (write["target"], write["tensors"]) == ("f16", 21)
    assert "2,048 tokens are what such a model has" in note["note"]


def test_a_run_that_was_killed_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from chatbridge.cli.model.convert import convert
from chatbridge.model_tools import output, to_gguf
output.SYNC = 1
pieces, made = to_gguf._pieces, []

def counted(planned, kind):
    made.append(planned.target)
    print(planned.target, flush=True)
    if len(made) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return pieces(planned, kind)

to_gguf._pieces = counted
convert(Path(sys.argv[1]), Path(sys.argv[2]), "q8_0", {})
"""
    source, target = LLAMA / "hf", tmp_path / "cut" / "q8_0.gguf"
    target.parent.mkdir()
    command = [sys.executable, "-c", script, str(source), str(target)]
    killed = subprocess.run([*command, "8"], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {file.name for file in target.parent.iterdir()} == {"q8_0.gguf.partial", "q8_0.gguf.journal"}
    rest = subprocess.run([*command, "999"], capture_output=True, text=True, check=True)
    assert len(killed.stdout.split()) == 8
    assert len(rest.stdout.split()) == 21 - 7
    assert {file.name for file in target.parent.iterdir()} == {"q8_0.gguf", "q8_0.gguf.report.json"}
    assert target.read_bytes() == made(source, tmp_path, "q8_0").path.read_bytes()


def test_memory_is_bounded_by_the_largest_tensor_and_not_by_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (to_gguf, checkpoint):
        monkeypatch.setattr(module, "SLICE", 1 << 18)
    peaks = []
    for layers in (1, 8):
        config = hub_config(num_hidden_layers=layers, hidden_size=512, intermediate_size=1024, num_attention_heads=8)
        folder = write_hub(tmp_path / str(layers), config, hub_arrays(config), tokenizer=LLAMA / "hf")
        convert(folder, tmp_path / "first.gguf", "f16", {})  # what is imported and kept is none of the work's memory
        (tmp_path / "first.gguf").unlink()
        tracemalloc.start()
        convert(folder, tmp_path / f"{layers}.gguf", "q8_0", {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = (tmp_path / "8" / "model.safetensors").stat().st_size
    assert size > 32 << 20
    assert peaks[1] < peaks[0] + (1 << 20)
    assert peaks[1] < 12 << 20


SOURCES = {"meta": LLAMA / "meta-2shard", "hf": LLAMA / "hf", "bloom": BLOOM / "hf"}


def disturb(folder: Path, chance: random.Random) -> None:
    """Something of what happens to files."""
    files = sorted(folder.iterdir())
    file = chance.choice(files)
    data = bytearray(file.read_bytes())
    what = chance.randrange(5)
    if what == 0:
        del data[chance.randrange(len(data)) :]
    elif what == 1:
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(min(len(data), 4000))] = chance.randrange(256)
    elif what == 2:
        data = bytearray(chance.choice(files).read_bytes())
    elif what == 3 or file.suffix != ".json":
        data = bytearray(chance.randbytes(chance.randrange(2000)))
    else:
        values = [None, -1, 0, 1e99, "x", [], {}, True, 3, 480, float("nan"), ["a"], {"a": []}, 1 << 70]
        told = json.loads(data)
        for _ in range(3):
            told[chance.choice(sorted(told))] = chance.choice(values)
        data = bytearray(json.dumps(told).encode())
    file.write_bytes(data)


@pytest.mark.parametrize("name", SOURCES)
def test_whatever_happens_to_its_files_a_model_is_converted_or_refused_in_words(tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    outcomes = set()
    for number in range(60):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for file in SOURCES[name].iterdir():
            shutil.copyfile(file, folder / file.name)
        if name == "meta":
            shutil.copyfile(LLAMA / "tokenizer.model", folder / "tokenizer.model")
        disturb(folder, chance)
        target = tmp_path / f"{number}.gguf"
        try:
            convert(folder, target, chance.choice(["f32", "f16", "q8_0"]), {})
            assert GgufHeader(target, reader="this test").tensors
            outcomes.add("made")
        except ModelLoadError as error:
            outcomes.add("refused" if str(folder) in str(error) else f"refused without its name: {error}")
        if not target.exists():
            assert not [file for file in tmp_path.iterdir() if file.name.startswith(f"{number}.gguf")]
    assert outcomes == {"made", "refused"}
