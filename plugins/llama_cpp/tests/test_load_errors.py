"""A file or an option that can't be honoured is refused, by name, with what to do; never with a crash."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_llama_cpp.loading import check_gpu, check_honoured, load
from chatbridge_llama_cpp.native import Device
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import ModelLoadError
from chatbridge.testing import Arrays, llama_metadata, random_llama, write_gguf

from .architectures import ARCHITECTURES
from .conftest import SIZE, opened

LEFT_OUT: Any = None
"""In metadata: without this key."""


def refused(path: Path, *phrases: str, **options: Any) -> None:
    """Loading fails, and the message has all of `phrases`."""
    with pytest.raises(ModelLoadError) as caught:
        opened(path, **options).close()
    for phrase in phrases:
        assert phrase in str(caught.value)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, random_metadata: dict[str, Any]) -> Write:
    """Writes the random model with some metadata and arrays changed."""

    def written(
        metadata: dict[str, Any] | None = None,
        arrays: dict[str, Any] | None = None,
        name: str = "model.gguf",
        architecture: str = "llama",
    ) -> Path:
        changed = {k: v for k, v in (random_metadata | (metadata or {})).items() if v is not LEFT_OUT}
        weights = {k: v for k, v in (random_llama(**SIZE) | (arrays or {})).items() if v is not LEFT_OUT}
        return write_gguf(tmp_path / name, changed, weights, architecture=architecture)

    return written


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "absent.gguf", "absent.gguf", "no such file", "give the path of a GGUF file")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "a folder", "give the GGUF file in it", "backend: transformers")


@pytest.mark.parametrize(
    ("beginning", "phrases"),
    [
        (struct.pack("<I", 0x67676D6C), ("old GGML", "chatbridge model convert")),
        (struct.pack("<II", 0x67676D66, 1), ("old GGMF", "chatbridge model convert")),
        (struct.pack("<II", 0x67676A74, 3), ("old GGJT", "chatbridge model convert")),
        (struct.pack("<II", 0x67676C61, 1), ("old LoRA adapter", "chatbridge model convert")),
        (b"PK\3\4", ("PyTorch checkpoint", "chatbridge model convert", "backend: transformers")),
        (b"version https://git-lfs.github.com/spec/v1\n", ("Git LFS pointer", "git lfs pull")),
        (b"<!DOCTYPE html>", ("no GGUF file", "reads nothing else")),
        (b"GGUF" + struct.pack("<I", 1), ("GGUF version 1", "convert the model again")),
        (b"GGUF" + struct.pack(">I", 3), ("big-endian", "convert the model again")),
        (b"GGUF" + struct.pack("<I", 9), ("GGUF version 9", "convert the model again")),
        (b"", ("no GGUF file",)),
    ],
)
def test_another_format(tmp_path: Path, beginning: bytes, phrases: tuple[str, ...]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(beginning + bytes(100))
    refused(path, "model.bin", *phrases)


@pytest.mark.parametrize("share", [0, 0.0002, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_short(tmp_path: Path, random_path: Path, share: float) -> None:
    path = tmp_path / "cut.gguf"
    whole = random_path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "cut.gguf", "cut short" if share >= 0.1 else "")


@pytest.mark.parametrize(
    ("metadata", "phrases"),
    [
        ({"llama.embedding_length": LEFT_OUT}, ("llama.embedding_length is None", "convert it again")),
        ({"llama.block_count": 0}, ("llama.block_count is 0",)),
        ({"llama.block_count": 3}, ("blk.2.", "could not load it")),
        ({"llama.attention.head_count_kv": 3}, ("blk.0.attn_k.weight", "wrong shape")),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, ("epsilon is nan",)),
        ({"llama.rope.dimension_count": 7}, ("n_rot", "could not load it")),
        ({"split.count": 3}, ("one of 3 parts", "-00001-of-00003.gguf")),
        ({"general.type": "adapter"}, ("an adapter, not a model", "lora:")),
        ({"general.type": "mmproj"}, ("the picture part of a model",)),
        ({"general.alignment": 0}, ("general.alignment is 0", "download or convert it again")),
        ({"tokenizer.ggml.tokens": LEFT_OUT}, ("no tokenizer", "converted with its vocabulary")),
        ({"tokenizer.ggml.tokens": ["a"] * 480}, ("two tokens have the same text",)),
        ({"tokenizer.ggml.scores": [0.5]}, ("scores has 1 entries for 480 tokens",)),
        ({"tokenizer.ggml.token_type": ["a"]}, ("token_type is no list of numbers",)),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.pre": "novel"},
            ("how the tokenizer cuts words", "'novel'"),
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_metadata_that_cannot_be_run(write: Write, metadata: dict[str, Any], phrases: tuple[str, ...]) -> None:
    refused(write(metadata), "model.gguf", *phrases)


def recurrent(folder: Path, architecture: str, tokenizer: dict[str, Any], **changed: Any) -> Path:
    """A file in the shape of that architecture, with some of its metadata changed."""
    metadata, arrays = ARCHITECTURES[architecture]()
    named = {f"{architecture}.{key}": value for key, value in (metadata | changed).items()}
    return write_gguf(folder / "model.gguf", named | tokenizer, arrays, architecture=architecture)


@pytest.mark.parametrize("architecture", ["rwkv6", "rwkv7"])
@pytest.mark.parametrize("head", [0, 1, 16, 32, 96, 192])
def test_heads_that_kernels_would_read_beside(
    tmp_path: Path, random_metadata: dict[str, Any], architecture: str, head: int
) -> None:
    path = recurrent(tmp_path, architecture, tokenizer_of(random_metadata), **{"wkv.head_size": head})
    refused(path, "model.gguf", f"{architecture}.wkv.head_size is {head}", "" if head % 64 == 0 else "multiple of 64")


def test_states_that_kernels_would_read_beside(tmp_path: Path, random_metadata: dict[str, Any]) -> None:
    path = recurrent(tmp_path, "mamba", tokenizer_of(random_metadata), **{"ssm.state_size": 8})
    refused(path, "model.gguf", "mamba.ssm.state_size is 8", "multiple of 16")


def test_numbers_that_a_kernel_takes_for_larger_ones(tmp_path: Path, random_metadata: dict[str, Any]) -> None:
    path = recurrent(tmp_path, "rwkv6", tokenizer_of(random_metadata))
    whole, name = bytearray(path.read_bytes()), b"blk.0.time_mix_first.weight"
    at = whole.index(name) + len(name) + 4 + 2 * 8  # behind the number of dimensions, and two of them
    whole[at : at + 4] = struct.pack("<I", 1)
    path.unlink()
    path.write_bytes(whole)
    refused(path, "model.gguf", "blk.0.time_mix_first.weight is of type F16", "as F32", "convert the model again")


def tokenizer_of(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}


def test_an_architecture_that_nobody_knows(write: Write) -> None:
    metadata = {f"novel.{key.removeprefix('llama.')}": value for key, value in llama_metadata(**SIZE).items()}
    refused(write(metadata, architecture="novel"), "architecture 'novel'", "pip install -U llama-cpp-python")


def test_a_model_that_generates_no_text(write: Write, tmp_path: Path) -> None:
    bert = {f"bert.{k.removeprefix('llama.')}": v for k, v in llama_metadata(**SIZE).items()}
    layers: Arrays = {"token_types.weight": np.ones((2, 64)), "position_embd.weight": np.ones((512, 64))}
    path = write(bert, layers, architecture="bert")
    refused(path, "model.gguf")


def test_a_missing_tensor(write: Write) -> None:
    refused(write(arrays={"blk.1.ffn_down.weight": LEFT_OUT}), "blk.1.ffn_down.weight", "download or convert it again")


def test_parts_of_a_model(write: Write, tmp_path: Path) -> None:
    first = write({"split.no": 0, "split.count": 2}, name="model-00001-of-00002.gguf")
    refused(first, "2 parts", "model-00002-of-00002.gguf is missing", "into one folder")
    write({"split.no": 0, "split.count": 2}, name="model-00002-of-00002.gguf")
    refused(first, "not part 2 of 2", "download the parts again")


def test_three_hundred_damaged_headers_crash_nothing(random_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), str(random_path), str(tmp_path), "300"]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-600:]
    loaded, refused = map(int, done.stdout.split("\n")[-2].split())
    assert loaded + refused == 300
    assert min(loaded, refused) > 30


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        ({"context_length": 513}, ("context_length: 513", "512 tokens", "rope_scaling: yarn")),
        ({"unified": True, "total_context": 256}, ("total_context: 256", "less than one conversation's")),
        ({"kv_type_k": "q8_0"}, ("kv_type_k: q8_0", "heads of random.gguf have 16", "take f16")),
        ({"kv_type_v": "q4_0"}, ("kv_type_v: q4_0", "take f16")),
        ({"gpu_layers": 2}, ("gpu_layers: 2", 'CMAKE_ARGS="-DGGML_CUDA=on"', "leave gpu_layers out")),
        ({"gpu_layers": "all"}, ("gpu_layers: all", "built for the processor only")),
        ({"split_mode": "row"}, ("split_mode: row", "needs a graphics card")),
        ({"offload_kqv": True}, ("offload_kqv: True", "needs a graphics card")),
        ({"grammar": "root = nonsense"}, ("the grammar can't be read",)),
        ({"grammar": 'answer ::= "yes"'}, ("the grammar can't be read",)),
        ({"json_schema": {"type": "nonsense"}}, ("json_schema", "no grammar can be made")),
    ],
)
def test_options_that_cannot_be_honoured(random_path: Path, options: dict[str, Any], phrases: tuple[str, ...]) -> None:
    if gpu_build() and options.keys() & {"gpu_layers", "split_mode", "offload_kqv"}:
        pytest.skip("this build can do it")
    refused(random_path, *phrases, **options)


@pytest.mark.parametrize(
    ("options", "line", "phrase"),
    [
        ({"mlock": True}, "warning: failed to mlock 4096-byte buffer", "ulimit -l"),
        (
            {"flash_attention": True},
            "llama_init_from_model: flash_attn is not compatible with Grok",
            "leave it at auto",
        ),
    ],
)
def test_what_llama_cpp_goes_on_without_is_an_error(
    random_path: Path, options: dict[str, Any], line: str, phrase: str
) -> None:
    asked = LlamaOptions.model_validate({"path": random_path, "threads": 1, "gpu_layers": 0, **options})
    loaded = load(asked, lambda share, doing: None)
    try:
        ignored = replace(loaded, log_lines=[line])
        with pytest.raises(ModelLoadError, match=phrase):
            check_honoured(asked, ignored)
    finally:
        loaded.free()


def gpu_build() -> bool:
    from chatbridge_llama_cpp.native import lib

    return bool(lib.llama_supports_gpu_offload())


CARD = Device("CUDA0", "a card", 8 << 30, 8 << 30, is_gpu=True)


@pytest.mark.parametrize(
    ("options", "cards", "phrase"),
    [
        ({"gpu_layers": 1}, [], "none is seen here"),
        ({"main_gpu": 2, "split_mode": "none"}, [CARD, CARD], "the cards are 0 to 1"),
        ({"tensor_split": [1, 2, 3]}, [CARD, CARD], "3 shares for 2 graphics cards"),
    ],
)
def test_graphics_cards_that_are_not_there(options: dict[str, Any], cards: list[Device], phrase: str) -> None:
    with pytest.raises(ModelLoadError, match=phrase):
        check_gpu(LlamaOptions.model_validate({"path": "m.gguf", **options}), cards, built=True)


def test_without_options_no_graphics_card_is_needed() -> None:
    check_gpu(LlamaOptions(path="m.gguf"), [], built=False)
    check_gpu(LlamaOptions(path="m.gguf", gpu_layers=0), [], built=False)


def test_a_file_on_hugging_face_that_was_downloaded_before(tmp_path: Path, random_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "mine.gguf").write_bytes(random_path.read_bytes())
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    code = (
        "from chatbridge_llama_cpp.backend import load, LlamaOptions\n"
        "model = load(LlamaOptions(path='me/mine:mine.gguf', threads=1), lambda share, doing: None)\n"
        "print(model.info.details['file'])"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("mine.gguf"), done.stderr
    other = code.replace("mine.gguf'", "other.gguf'")
    done = subprocess.run([sys.executable, "-c", other], env=environment, capture_output=True, text=True, check=False)
    assert "me/mine:other.gguf could not be downloaded" in done.stderr
