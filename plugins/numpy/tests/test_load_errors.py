"""A file that can't be run is refused at once, by name, with what to do; never run wrongly, never a traceback."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_numpy.model import load_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge import ModelLoadError, free_memory
from chatbridge.testing import Arrays, random_llama, write_gguf

from .conftest import recorded_sizes

LEFT_OUT: Any = None
"""In metadata: without this key."""


def refused(path: Path, *phrases: str, **options: Any) -> None:
    """Loading fails, and the message has the file's name and all of `phrases`."""
    with pytest.raises(ModelLoadError) as caught:
        load_model(path, **options)
    for phrase in (path.name, *phrases):
        assert phrase in str(caught.value)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, meta_metadata: dict[str, Any], meta_arrays: Arrays) -> Write:
    """Writes the recorded model with some metadata and arrays changed."""

    def written(
        metadata: dict[str, Any] | None = None, arrays: dict[str, Any] | None = None, kind: str = "F32"
    ) -> Path:
        changed = {k: v for k, v in (meta_metadata | (metadata or {})).items() if v is not LEFT_OUT}
        weights = {k: v for k, v in (meta_arrays | (arrays or {})).items() if v is not LEFT_OUT}
        return write_gguf(tmp_path / "model.gguf", changed, weights, kind)

    return written


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "absent.gguf", "no such file", "give the path of a GGUF file")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "a folder", "give the GGUF file in it", "backend: transformers")


@pytest.mark.parametrize(
    ("beginning", "phrases"),
    [
        (struct.pack("<I", 0x67676D6C), ("old GGML", "chatbridge model convert")),
        (struct.pack("<II", 0x67676D66, 1), ("old GGMF", "chatbridge model convert")),
        (struct.pack("<II", 0x67676A74, 3), ("old GGJT", "chatbridge model convert")),
        (struct.pack("<II", 0x67676C61, 1), ("old LoRA adapter", "chatbridge model convert")),
        (b"PK\3\4", ("PyTorch checkpoint", "backend: transformers")),
        (b"version https://git-lfs.github.com/spec/v1\n", ("Git LFS pointer", "git lfs pull")),
        (b"<!DOCTYPE html>", ("no GGUF file", "reads nothing else")),
        (b"GGUF" + struct.pack("<I", 1), ("GGUF version 1", "convert the model again")),
        (b"GGUF" + struct.pack(">I", 3), ("big-endian", "convert the model again")),
        (b"GGUF" + struct.pack("<I", 9), ("GGUF version 9", "convert the model again")),
    ],
)
def test_another_format(tmp_path: Path, beginning: bytes, phrases: tuple[str, ...]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(beginning + bytes(100))
    refused(path, *phrases)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.write_bytes(b"")
    refused(path, "no GGUF file", "0 bytes")


@pytest.mark.parametrize("share", [0.0002, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_short(tmp_path: Path, meta_path: Path, share: float) -> None:
    path = tmp_path / "cut.gguf"
    whole = meta_path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "download" if share < 0.1 else "cut short")


@pytest.mark.parametrize(
    ("metadata", "phrases"),
    [
        ({"llama.embedding_length": LEFT_OUT}, ("lack llama.embedding_length", "convert the model again")),
        ({"llama.block_count": 0}, ("llama.block_count is 0", "whole number above 0")),
        ({"llama.block_count": 3}, ("blk.2.attn_q.weight is missing",)),
        ({"llama.block_count": 1}, ("blk.1.", "does not know", "backend: llama_cpp")),
        ({"llama.attention.head_count_kv": 3}, ("head_count_kv is 3", "does not divide the 4 heads")),
        ({"llama.attention.head_count_kv": [4, 2]}, ("differs between layers", "use llama_cpp")),
        ({"llama.attention.key_length": 15}, ("rope.dimension_count is 16", "no even number of at most 15")),
        ({"llama.attention.value_length": 8}, ("value_length is 8", "differs from key_length")),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, ("should be a number above 0",)),
        ({"llama.rope.scaling.type": "yarn"}, ("rope.scaling.type is 'yarn'", "backend: llama_cpp")),
        ({"llama.expert_count": 8}, ("expert_count is 8", "changes the arithmetic")),
        ({"llama.attention.sliding_window": 32}, ("sliding_window is 32", "shorter than the context")),
        ({"split.count": 3}, ("one of 3 parts", "llama-gguf-split --merge")),
        ({"general.type": "adapter"}, ("an adapter, not a model", "lora:")),
        ({"general.alignment": 0}, ("general.alignment is 0", "download or convert it again")),
        ({"tokenizer.ggml.tokens": LEFT_OUT}, ("no tokenizer", "converted with its vocabulary")),
        ({"tokenizer.ggml.model": "bert"}, ("of kind 'bert'", "backend: llama_cpp")),
        ({"tokenizer.ggml.scores": LEFT_OUT}, ("lacks the scores", "convert the model again")),
        ({"tokenizer.ggml.scores": [0.5]}, ("scores should be 480 numbers",)),
        ({"tokenizer.ggml.token_type": ["a"]}, ("token_type should be 480 numbers",)),
        ({"tokenizer.ggml.token_type": [1] * 480}, ("0 of the 256 single bytes", "byte fallback")),
        ({"tokenizer.ggml.token_type": [6] * 480}, ("'<unk>' is said to be a byte", "converted wrongly")),
        ({"tokenizer.ggml.eos_token_id": 480}, ("eos_token_id is 480", "outside the vocabulary of 480")),
        ({"tokenizer.ggml.model": "gpt2"}, ("lacks its merges", "convert the model again")),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"]}, ("of the 256 single bytes",)),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.pre": "novel"},
            ("cuts words as 'novel'", "llama-bpe", "use backend: llama_cpp"),
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_metadata_that_cannot_be_run(write: Write, metadata: dict[str, Any], phrases: tuple[str, ...]) -> None:
    refused(write(metadata), *phrases)


def test_another_architecture(tmp_path: Path, meta_metadata: dict[str, Any], meta_arrays: Arrays) -> None:
    path = write_gguf(tmp_path / "qwen.gguf", meta_metadata, meta_arrays, architecture="qwen2")
    refused(path, "architecture is 'qwen2'", "only 'llama'", "the plugin llama_cpp runs others")


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.ffn_down.weight", "output_norm.weight"])
def test_a_missing_tensor(write: Write, name: str) -> None:
    refused(write(arrays={name: LEFT_OUT}), f"{name} is missing", "incomplete")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("token_embd.weight", (479, 64)), ("blk.0.attn_k.weight", (32, 64)), ("blk.0.ffn_up.weight", (64, 192))],
)
def test_a_tensor_of_another_shape(write: Write, name: str, shape: tuple[int, int]) -> None:
    path = write(arrays={name: np.zeros(shape, np.float32)})
    refused(path, f"{name} has the shape [{shape[0]}, {shape[1]}], where the metadata say", "converted wrongly")


def test_a_tensor_that_nobody_knows(write: Write) -> None:
    path = write(arrays={"blk.0.ffn_gate_inp.weight": np.zeros((8, 64), np.float32)})
    refused(path, "does not know (blk.0.ffn_gate_inp.weight)", "compute something else", "backend: llama_cpp")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, write: Write, kind: str, bad: float) -> None:
    path = write(kind=kind)
    name, whole = "blk.1.ffn_up.weight", bytearray(path.read_bytes())
    at = start_of(path, name)
    whole[at : at + 4] = struct.pack("<f", bad) if kind == "F32" else struct.pack("<e", bad) * 2
    path.write_bytes(whole)
    refused(path, f"{name} holds values that are no numbers", "download or convert it again")


def start_of(path: Path, name: str) -> int:
    """Where a tensor's bytes begin in a file."""
    from gguf import GGUFReader

    (tensor,) = [tensor for tensor in GGUFReader(path).tensors if tensor.name == name]
    return int(tensor.data_offset)


def test_a_type_of_tensor_that_cannot_be_read(tmp_path: Path, write: Write) -> None:
    path = write()
    whole = path.read_bytes()
    at = whole.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    assert whole[at : at + 4] == bytes(4)  # F32
    for number, phrase in ((26, "of type I32"), (999, "of type number 999")):
        path.write_bytes(whole[:at] + struct.pack("<I", number) + whole[at + 4 :])
        refused(path, phrase, "use backend: llama_cpp, or a file in q8_0")


def test_a_context_longer_than_the_model_was_trained_for(meta_path: Path) -> None:
    refused(meta_path, "context_length: 97", "96 tokens", "leave it out, or give less", context_length=97)
    assert load_model(meta_path, context_length=96).info.context_length == 96


@pytest.mark.skipif(not free_memory(), reason="this system doesn't tell its memory")
def test_a_model_larger_than_the_machine(tmp_path: Path, meta_metadata: dict[str, Any]) -> None:
    # A file with holes: the weights take no space on the disk.
    rows = 2 * free_memory() // 4 >> 20
    arrays = random_llama(**recorded_sizes())
    arrays["blk.0.ffn_up.weight"] = arrays.pop("blk.0.ffn_up.weight")  # the last one, so that no other is inside it
    path = write_gguf(tmp_path / "huge.gguf", meta_metadata, arrays)
    whole = path.read_bytes()
    at = whole.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4
    path.write_bytes(whole[:at] + struct.pack("<QQ", 1 << 20, rows) + whole[at + 16 :])
    os.truncate(path, len(whole) + (rows << 22))
    refused(path, "loading needs", "of main memory", "backend: llama_cpp, which keeps weights quantised")


@pytest.mark.parametrize(
    ("metadata", "pairs", "phrases"),
    [
        ({}, {}, ("no LoRA adapter", "chatbridge model convert")),
        ({"general.type": "adapter", "adapter.type": "lora"}, {}, ("adapter.lora.alpha is None",)),
        (
            {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0},
            {"blk.7.attn_q.weight": (64, 64)},
            ("that the model lacks (blk.7.attn_q.weight.lora_a", "take the model that it was trained on"),
        ),
        (
            {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0},
            {"blk.0.attn_q.weight": (64, 128)},
            ("blk.0.attn_q.weight.lora_a has the shape [4, 128]",),
        ),
        (
            {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0},
            {"token_embd.weight": (480, 64)},
            ("can't be changed", "merge it into the model"),
        ),
    ],
)
def test_an_adapter_that_does_not_fit(
    tmp_path: Path, meta_path: Path, metadata: dict[str, Any], pairs: dict[str, Any], phrases: tuple[str, ...]
) -> None:
    arrays = {"anything": np.ones(1)} if not pairs else {}
    for name, (rows, columns) in pairs.items():
        arrays |= {f"{name}.lora_a": np.ones((4, columns)), f"{name}.lora_b": np.ones((rows, 4))}
    adapter = write_gguf(tmp_path / "adapter.gguf", metadata, arrays)
    with pytest.raises(ModelLoadError) as caught:
        load_model(meta_path, lora=adapter)
    for phrase in (adapter.name, *phrases):
        assert phrase in str(caught.value)


@given(damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4))
@settings(deadline=None)
@example(damage=[(8, 255)])
@example(damage=[(16, 255), (20, 255)])
def test_a_damaged_header_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, meta_path: Path, damage: list[tuple[int, int]]
) -> None:
    whole = bytearray(meta_path.read_bytes())
    header = whole.index(b"output_norm.weight") + 64
    for at, byte in damage:
        whole[at % header] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    with suppress(ModelLoadError):
        # A byte of a token's text, or of a number that nothing depends on, does no harm.
        model = load_model(path)
        assert np.isfinite(model.logits(model.new_state(), [1, 2, 3])).all()
