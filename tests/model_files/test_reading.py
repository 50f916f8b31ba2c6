"""Any file of weights is read by what it is, and what stands in the place of one is told in words."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import pytest

from chatbridge import ModelLoadError, TensorInfo, check_model_file, read_json_object, read_tensors, weight_files
from chatbridge.model_files.kinds import kind_of
from chatbridge.model_files.sentencepiece_files import count_pieces
from chatbridge.model_files.tokenizer_files import chat_template_in, tokenizer_in
from chatbridge.testing import fixtures

from .writers import write_ggml, write_safetensors, write_torch

SHAPES = {"a.weight": (2, 3), "b.bias": (3,)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 13476939516\n"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        read_tensors(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_header_of_safetensors_is_read(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", SHAPES, "F32", {"format": "pt"})
    assert read_tensors(write_safetensors(tmp_path / "e.safetensors", {"x": (0, 4)})).tensors["x"].nbytes == 0
    found = read_tensors(path)
    assert (found.format, found.values) == ("safetensors", {"format": "pt"})
    assert found.tensors == {"a.weight": TensorInfo((2, 3), "float32", 24), "b.bias": TensorInfo((3,), "float32", 12)}
    assert found.tensors["b.bias"].start == path.stat().st_size - 12


@pytest.mark.parametrize("name", ["m.bin", "m.safetensors.part", "tokenizer.json"])
def test_a_name_decides_nothing(tmp_path: Path, name: str) -> None:
    assert read_tensors(write_safetensors(tmp_path / name, SHAPES)).format == "safetensors"
    assert read_tensors(write_torch(tmp_path / name, SHAPES)).format == "torch"
    assert read_tensors(write_torch(tmp_path / "ggml-model-q4_0.bin", SHAPES)).format == "torch"
    assert kind_of(write_ggml(tmp_path / name, "ggjt 3")) == "ggml"


def header(path: Path, raw: bytes, data: int = 4) -> Path:
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{}", "it promises 10 bytes, and the file has 14"),
        (b'{"a":1}', "its header is damaged"),
        (
            b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"a":{"dtype":"F16"}}',
            "two tensors have the same name",
        ),
        (b'{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,4]}}', "a needs 6 bytes and has 4"),
        (
            b'{"a":{"dtype":"F16","shape":[22],"data_offsets":[0,44]}}',
            "only a part of the file was downloaded: 68 of 108",
        ),
        (
            b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}',
            "its tensors overlap, or leave gaps",
        ),
        (b'{"a":{"dtype":"F16","shape":[-2],"data_offsets":[0,4]}}', "its header is damaged"),
        (b'{"a":{"dtype":"F16","shape":[true],"data_offsets":[0,4]}}', "its header is damaged"),
        (b'{"' + b"n" * 2000 + b'":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}', "a name has 2,000 characters"),
        (b'{"a":' + b"[" * 100_000, "it holds something else than tensors"),
        (b'{"a":' + b'{"b":' * 100_000, "it holds something else than tensors"),
        (b'{"a":1' + b"0" * 10_000 + b"}", "its header is damaged"),
    ],
)
def test_headers_of_safetensors_that_are_damaged(tmp_path: Path, raw: bytes, words: str) -> None:
    refused(header(tmp_path / "m.safetensors", raw), words, "download it again")


def test_a_length_that_is_only_claimed_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 30 << 20) + b"{" + bytes(50))
    refused(path, "59 bytes are there, and its beginning alone has 31,457,288")
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{" + bytes(50))
    refused(path, "it should have 1,099,511,627,776 bytes, and 33,554,432 are the most")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (POINTER, "a Git LFS pointer and not the file itself, which has 13,476,939,516 bytes; run `git lfs install`"),
        (b"<!DOCTYPE html><html>", "a web page and not the file"),
        (b"\n  <HTML>", "a web page and not the file"),
        (b"Entry not found", "a server's answer and not the file: 'Entry not found'"),
        (b'{"error": "Access denied"}', "JSON and no file of weights"),
        (b"GGUF" + bytes(30), "backend: llama_cpp"),
        (b"tjgg\3\0\0\0", "an old llama.cpp"),
        (b"hello", "no file of torch or safetensors"),
        (b"\x80", "no file of torch or safetensors"),
    ],
)
def test_what_stands_in_the_place_of_a_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    refused(path, words)


def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "absent.bin", "there is no such file")
    refused(tmp_path, "this is a folder")
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "a device or a pipe")  # and nobody waits for one that writes to it


def test_half_of_any_file_is_told(tmp_path: Path) -> None:
    for path in (
        write_safetensors(tmp_path / "m.safetensors", SHAPES),
        write_torch(tmp_path / "m.bin", SHAPES),
        write_ggml(tmp_path / "ggml-model.bin", "ggjt 3"),
    ):
        check_model_file(path)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ModelLoadError, match=r"only a part of the file was downloaded: .* are there"):
            check_model_file(path)


# --- folders ---------------------------------------------------------------------------------------------------------


def index(folder: Path, *names: object) -> Path:
    found = {"weight_map": {str(number): name for number, name in enumerate(names)}}
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_an_index_names_the_shards_and_the_missing_ones(tmp_path: Path) -> None:
    names = [f"pytorch_model-{number:05}-of-00006.bin" for number in range(1, 7)]
    index(tmp_path, *names)
    (tmp_path / names[1]).touch()
    with pytest.raises(
        ModelLoadError, match=f"have 6 parts, and {names[0]}, {names[2]}, {names[3]} and 2 more are missing"
    ):
        weight_files(tmp_path)
    for name in names:
        (tmp_path / name).touch()
    assert [file.name for file in weight_files(tmp_path)] == names


def test_without_an_index_the_names_tell_how_many_there_are(tmp_path: Path) -> None:
    (tmp_path / "model-00002-of-00002.safetensors").touch()
    with pytest.raises(ModelLoadError, match=r"have 2 parts, and model-00001-of-00002\.safetensors is missing"):
        weight_files(tmp_path)


def test_safetensors_go_before_torch_as_with_transformers(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == []
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
        assert [file.name for file in weight_files(tmp_path)] == [name]


@pytest.mark.parametrize("name", ["../x.bin", "..", "", ".", "a/b.bin", "a\0b", 5, None])
def test_an_index_names_nothing_outside_its_folder(tmp_path: Path, name: object) -> None:
    index(tmp_path, name)
    with pytest.raises(ModelLoadError, match="is no name of a file beside it"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "this is no JSON"),
        (b"[1]", "should be an object"),
        (b"\xff\xfe", "this is no JSON"),
        (b"[" * 100_000, "it is made of brackets"),
        (b'{"a":' * 20_000, "this is no JSON"),
        (POINTER, "a Git LFS pointer"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match=words):
        read_json_object(tmp_path / "config.json")


# --- tokenizers ------------------------------------------------------------------------------------------------------


def test_pieces_are_counted_and_added_tokens_with_them() -> None:
    assert count_pieces(fixtures() / "llama" / "tokenizer.model") == 480
    for folder, size, file in (
        ("llama/hf", 480, "tokenizer.model"),
        ("llama/chinese-alpaca-lora", 692, "tokenizer.model"),
        ("belle-bloom/hf", 500, "tokenizer.json"),
        ("chatglm/chatglm-6b-tiny", 764, "ice_text.model"),
    ):
        found = tokenizer_in(fixtures() / folder)
        assert found is not None
        assert (found.size, found.file) == (size, file)
    assert tokenizer_in(fixtures() / "chatglm" / "ptuning-v2") is None


def test_fields_of_every_type_are_passed_over(tmp_path: Path) -> None:
    others = b"\x18\xff\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\x12\x02ab"
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x03abc" + others + b"\x0a\x00")
    assert count_pieces(tmp_path / "tokenizer.model") == 2


def test_added_tokens_of_a_tokenizer_json_count(tmp_path: Path) -> None:
    added = [{"id": 9, "content": "<s>", "special": True}, {"id": 5, "content": "x"}, {"id": -1, "content": "y"}, 7]
    written = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added}
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    found = tokenizer_in(tmp_path)
    assert found is not None
    assert (found.size, found.specials) == (10, {"<s>": 9})
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", 0.0], ["b", -1.0]]}}))
    found = tokenizer_in(tmp_path)
    assert found is not None
    assert found.size == 2


@pytest.mark.parametrize("content", [b"nonsense", b"\x0a\x7f", b"\x12\x00", b"\x0a" + b"\xff" * 20, b"\x0b\x00"])
def test_a_tokenizer_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelLoadError, match="no SentencePiece model"):
        tokenizer_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("chat_template.jinja", "{{ x }}", "{{ x }}"),
        ("tokenizer_config.json", '{"chat_template": "{{ y }}"}', "{{ y }}"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": "{{ z }}"}]}', "{{ z }}"),
        ("tokenizer_config.json", '{"chat_template": [{"name": [], "template": "x"}, 5]}', ""),
        ("tokenizer_config.json", '{"chat_template": 5}', ""),
    ],
)
def test_a_chat_template_is_found_where_versions_of_transformers_put_it(
    tmp_path: Path, name: str, content: str, found: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert chat_template_in(tmp_path) == found


@pytest.mark.parametrize("length", [0x180, 0x280, 0x380, 0x480, 0x580, 0x10280])
def test_a_header_whose_length_begins_as_a_pickle_does_is_none(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model-00004-of-00010.safetensors"
    raw = b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'.ljust(length)
    path.write_bytes(struct.pack("<Q", length) + raw + bytes(4))
    assert read_tensors(path).tensors == {"a": TensorInfo((2,), "float16", 4)}


def test_types_of_numbers_are_called_as_torch_calls_them(tmp_path: Path) -> None:
    for written, ours in (("F8_E4M3FNUZ", "float8_e4m3fnuz"), ("F8_E5M2FNUZ", "float8_e5m2fnuz"), ("BOOL", "bool")):
        raw = json.dumps({"a": {"dtype": written, "shape": [2], "data_offsets": [0, 2]}}).encode()
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(2))
        assert read_tensors(tmp_path / "m.safetensors").tensors["a"].dtype == ours


def test_an_index_that_names_more_files_than_any_model_has(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {str(at): f"{at}.safetensors" for at in range(10_001)}}))
    with pytest.raises(ModelLoadError, match="it names more than 10,000 files"):
        weight_files(tmp_path)
