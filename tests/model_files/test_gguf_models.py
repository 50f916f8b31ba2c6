"""GGUF files, and those before them, are described by their metadata, names and shapes; what these lack is told."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatbridge import ModelDescription, inspect_model
from chatbridge.model_files import gguf_models
from chatbridge.model_files.drafts import Draft
from chatbridge.model_files.gguf_models import describe_gguf

from .test_ggml import entry
from .test_gguf import ARRAY, F32, FLOAT, Q8_0, STRING, UINT32, array, pair, tensor, text
from .writers import write_ggml

F16, INT32 = 1, 5


def word(key: str, value: str) -> bytes:
    return pair(key, STRING, text(value))


def whole(key: str, value: int) -> bytes:
    return pair(key, UINT32, struct.pack("<I", value))


def alpha(value: float) -> bytes:
    return pair("adapter.lora.alpha", FLOAT, struct.pack("<f", value))


def tokens(*texts: str, kinds: tuple[int, ...] = ()) -> tuple[bytes, ...]:
    found = (pair("tokenizer.ggml.tokens", ARRAY, array(STRING, len(texts), b"".join(map(text, texts)))),)
    if kinds:
        raw = struct.pack(f"<{len(kinds)}i", *kinds)
        found += (pair("tokenizer.ggml.token_type", ARRAY, array(INT32, len(kinds), raw)),)
    return found


def sizes(architecture: str = "llama", layers: int = 1) -> tuple[bytes, ...]:
    told = {"block_count": layers, "context_length": 8, "embedding_length": 8}
    return tuple(whole(f"{architecture}.{key}", value) for key, value in told.items())


LLAMA = (word("general.architecture", "llama"), *tokens("a", "b", "c"))
WHOLE = (*LLAMA, *sizes())
LAYER = ("blk.0.x", (1,), 0)
EMBEDDING = ("token_embd.weight", (8, 3), F32)


def model(path: Path, pairs: tuple[bytes, ...] = LLAMA, *tensors: tuple[str, tuple[int, ...], int]) -> Path:
    """A GGUF file. `tensors`: name, sizes as the file has them, and type."""
    infos, at = b"", 0
    for name, sizes, kind in tensors:
        infos += tensor(name, *sizes, kind=kind, at=at)
        at += 4096
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + infos
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(at))
    return path


def told(found: ModelDescription) -> list[str]:
    return [f"{one.severity}: {one.message}" for one in found.problems]


def test_sizes_are_those_of_the_metadata(tmp_path: Path) -> None:
    sizes = (whole("llama.block_count", 1), whole("llama.context_length", (1 << 31) - 1))
    sizes += (whole("llama.embedding_length", 1 << 31), word("general.name", "n" * 201))
    found = inspect_model(model(tmp_path / "m.gguf", LLAMA + sizes, EMBEDDING, ("blk.0.x", (32, 1), Q8_0)))
    assert (found.layers, found.context, found.width, found.heads) == (1, (1 << 31) - 1, 0, 0)
    assert (found.family, found.architecture, found.layout, found.files) == ("LLaMA", "llama", "gguf", 1)
    assert (found.parameters, found.vocabulary, found.tokens, found.quantization) == (24 + 32, 3, 3, "F32, Q8_0")
    assert (found.nbytes, found.details["name"]) == ((tmp_path / "m.gguf").stat().st_size, "n" * 200)
    wrong = "error: llama.embedding_length is 2147483648, and should be a whole number above 0"
    assert (found.chat_template, told(found)) == (False, [wrong])


def test_types_are_told_by_their_bytes_the_three_of_most(tmp_path: Path) -> None:
    kinds = (("a", (32, 1), Q8_0), ("b", (1,), F16), ("c", (9,), F32), ("d", (100,), 0), ("e", (40,), 28))
    assert inspect_model(model(tmp_path / "m.gguf", LLAMA, *kinds)).quantization == "F32, F64, Q8_0"


@pytest.mark.parametrize(("architecture", "severity"), [("llama", "error"), ("mistral3", "warning")])
def test_layers_that_lack_tensors_are_a_fault_of_a_family_that_is_known(
    tmp_path: Path, architecture: str, severity: str
) -> None:
    pairs = (word("general.architecture", architecture), *sizes(architecture, 2), *tokens("a"))
    found = inspect_model(model(tmp_path / "m.gguf", pairs, ("blk.0.x", (1,), F32)))
    assert told(found) == [f"{severity}: layers: the metadata says 2, and the tensors 1"]
    both = (("blk.0.x", (1,), F32), ("v.blk.1.x", (1,), F32), ("blk.2.x", (1,), F32))
    assert not told(inspect_model(model(tmp_path / "m.gguf", pairs, *both)))


@pytest.mark.parametrize(("count", "lost"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_part_without_its_name_may_lack_layers(tmp_path: Path, count: int, lost: bool) -> None:
    pairs = (*LLAMA, *sizes(layers=2), whole("split.count", count))
    found = inspect_model(model(tmp_path / "m.gguf", pairs, ("blk.0.x", (1,), F32)))
    parts = [f"error: it is one of {count} parts, and its name does not say which"]
    assert told(found) == (parts if lost else ["error: layers: the metadata says 2, and the tensors 1"])


def test_what_a_model_can_not_do_without_is_missed(tmp_path: Path) -> None:
    found = inspect_model(model(tmp_path / "m.gguf", LLAMA, LAYER))
    keys = ("block_count", "context_length", "embedding_length")
    assert told(found) == [f"error: its metadata lack llama.{key}" for key in keys]


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("block_count", whole, "0"),
        ("context_length", word, "'x'"),
        ("embedding_length", lambda key, _: pair(key, FLOAT, struct.pack("<f", 1.5)), "1.5"),
        ("embedding_length", lambda key, _: pair(key, ARRAY, array(UINT32, 1, struct.pack("<I", 8))), "array"),
        ("attention.head_count", word, "'x'"),
        ("attention.head_count", lambda key, _: pair(key, ARRAY, array(INT32, 1, struct.pack("<i", -1))), "array"),
        ("rope.dimension_count", whole, "0"),
    ],
)
def test_a_size_is_a_number(tmp_path: Path, key: str, value: Callable[[str, Any], bytes], shown: str) -> None:
    own = value(f"llama.{key}", "x" if value is word else 0)
    pairs = (*LLAMA, *(one for one in sizes() if f"llama.{key}".encode() not in one), own)
    (said,) = told(inspect_model(model(tmp_path / "m.gguf", pairs, LAYER)))
    assert said.startswith(f"error: llama.{key} is {shown}")
    assert said.endswith(", and should be a whole number above 0")


def test_a_size_of_some_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    heads = pair("llama.attention.head_count", ARRAY, array(INT32, 2, struct.pack("<2i", 0, 4)))
    assert told(inspect_model(model(tmp_path / "m.gguf", (*WHOLE, heads), LAYER))) == []


def test_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    for key, value in (("llama.x", float("nan")), ("general.y", float("inf")), ("llama.epsilon", -1.0)):
        wrong = pair(key, FLOAT, struct.pack("<f", value))
        assert told(inspect_model(model(tmp_path / "m.gguf", (*WHOLE, wrong), LAYER))) == [f"error: {key} is {value}"]
    fine = pair("llama.scale", FLOAT, struct.pack("<f", -1.0))
    assert told(inspect_model(model(tmp_path / "m.gguf", (*WHOLE, fine), LAYER))) == []


@pytest.mark.parametrize("key", ["scores", "token_type"])
def test_lists_beside_the_tokens_are_as_long_as_they_are_many(tmp_path: Path, key: str) -> None:
    full = f"tokenizer.ggml.{key}"
    wrong = f"error: {full} is no list of 3 numbers, one for each token"
    for own in (word(full, "abc"), pair(full, ARRAY, array(INT32, 2, bytes(8))), whole(full, 3)):
        assert told(inspect_model(model(tmp_path / "m.gguf", (*WHOLE, own), LAYER))) == [wrong]
    fits = pair(full, ARRAY, array(INT32, 3, bytes(12)))
    assert told(inspect_model(model(tmp_path / "m.gguf", (*WHOLE, fits), LAYER))) == []


def test_an_architecture_is_a_word(tmp_path: Path) -> None:
    found = inspect_model(model(tmp_path / "m.gguf", (whole("general.architecture", 5), *tokens("a")), LAYER))
    assert told(found) == ["error: general.architecture is 5, and should be a word"]


def test_a_width_that_the_weights_have_not_is_told(tmp_path: Path) -> None:
    found = inspect_model(model(tmp_path / "m.gguf", WHOLE, ("token_embd.weight", (16, 3), F32), LAYER))
    assert told(found) == ["error: width: the metadata says 8, and the weights 16"]


def test_an_adapter_tells_the_ranks_of_its_matrices(tmp_path: Path) -> None:
    pairs = (word("general.architecture", "llama"), word("general.type", "adapter"), alpha(0.5))
    ranks = tuple((f"blk.{rank}.x.lora_a", (2, 12 - rank), F32) for rank in range(11))
    found = inspect_model(model(tmp_path / "m.gguf", pairs, *ranks, ("blk.0.x.lora_b", (40, 2), F32)))
    assert (found.layout, found.family, found.sound) == ("gguf-adapter", "LoRA adapter for LLaMA", True)
    assert found.details["rank"] == "2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    found = inspect_model(model(tmp_path / "m.gguf", pairs, ("blk.0.x.lora_b", (40, 2), F32)))
    assert (found.details["rank"], told(found)) == ("not told", ["error: it has no LoRA matrices: it has no effect"])


@pytest.mark.parametrize("given", [(), (alpha(0.0),), (alpha(-1.0),), (alpha(float("inf")),)])
def test_an_adapter_without_a_strength_is_a_fault(tmp_path: Path, given: tuple[bytes, ...]) -> None:
    pairs = (word("general.architecture", "llama"), word("general.type", "adapter"), *given)
    (told_,) = told(inspect_model(model(tmp_path / "m.gguf", pairs, ("blk.0.x.lora_a", (2, 4), F32))))
    assert told_.startswith("error: adapter.lora.alpha is ")


@pytest.mark.parametrize("pairs", [(word("general.type", "mmproj"),), (word("general.architecture", "clip"),)])
def test_the_picture_part_of_a_model_is_none(tmp_path: Path, pairs: tuple[bytes, ...]) -> None:
    found = inspect_model(model(tmp_path / "m.gguf", pairs))
    assert (found.layout, found.family) == ("gguf-pictures", "the picture part of a model")
    assert told(found) == ["warning: this is the picture part of a model"]


def test_metadata_without_an_architecture_are_a_fault(tmp_path: Path) -> None:
    found = inspect_model(model(tmp_path / "m.gguf", tokens("a")))
    assert told(found) == ["error: its metadata lack general.architecture"]
    pairs = (word("general.architecture", "clip2"), *sizes("clip2"), *tokens("a"))
    named = inspect_model(model(tmp_path / "m.gguf", pairs, LAYER))
    assert (told(named), named.family) == ([], "clip2")


def test_a_tokenizer_may_have_as_many_tokens_as_there_are_rows_and_no_more(tmp_path: Path) -> None:
    fits = (*WHOLE, word("tokenizer.ggml.model", "m" * 51), word("tokenizer.chat_template", "{{ x }}"))
    found = inspect_model(model(tmp_path / "m.gguf", fits, EMBEDDING, LAYER))
    assert (found.sound, found.tokenizer, found.chat_template) == (True, "m" * 50, True)
    found = inspect_model(model(tmp_path / "m.gguf", WHOLE, ("token_embd.weight", (8, 2), F32), LAYER))
    assert told(found) == ["error: vocabulary: the tokenizer says 3, and the weights 2"]
    assert inspect_model(model(tmp_path / "m.gguf", WHOLE, LAYER)).sound
    for none in ((), tokens()):
        pairs = (word("general.architecture", "llama"), *sizes(), *none)
        found = inspect_model(model(tmp_path / "m.gguf", pairs, LAYER))
        assert told(found) == ["error: the file has no tokenizer"]


def test_control_tokens_are_those_that_the_file_calls_so(tmp_path: Path) -> None:
    architecture = word("general.architecture", "llama")
    for kinds, specials in (
        ((1, 3, 4, 2), {"b": 1, "c" * 200: 2}),
        ((1, 3, 4), {}),
        ((), {}),
    ):
        path = model(tmp_path / "m.gguf", (architecture, *tokens("a", "b", "c" * 201, "d", kinds=kinds)))
        draft = Draft(path)
        describe_gguf(draft)
        assert draft.specials == specials
    draft = Draft(model(tmp_path / "m.gguf", (*LLAMA, word("tokenizer.ggml.token_type", "xyz"))))
    describe_gguf(draft)
    assert draft.specials == {}


def test_parts_are_looked_for_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_models, "_MAX_PARTS", 2)
    found = inspect_model(model(tmp_path / "m-00001-of-00009.gguf", WHOLE))
    assert (found.files, told(found)) == (2, ["error: the model has 9 parts, and m-00002-of-00009.gguf is missing"])


def test_a_damaged_file_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    path = model(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:60])
    found = inspect_model(path)
    assert (found.layout, found.format, found.architecture, found.sound) == ("gguf", "GGUF, 1 file", "", False)
    old = write_ggml(tmp_path / "old.bin", "ggml")
    old.write_bytes(old.read_bytes()[:60])
    found = inspect_model(old)
    assert (found.layout, found.family, found.format) == ("ggml", "LLaMA", "GGML, from before GGUF")
    assert (found.files, found.nbytes, found.sound) == (1, 0, False)


# --- before GGUF -----------------------------------------------------------------------------------------------------


def test_an_old_file_of_another_program_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"fmgg" + struct.pack("<I", 101) + bytes(100))
    found = inspect_model(tmp_path / "m.bin")
    assert (found.layout, found.family, found.nbytes) == ("ggml-other", "", 108)
    assert found.details["written for"] == "rwkv.cpp"
    assert told(found) == ["warning: it was written for another program"]


def test_an_old_file_has_its_facts_in_its_header(tmp_path: Path) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggml")
    more = entry((2, 32), b"a", 3) + bytes(48) + entry((1,), b"b", 1) + bytes(2)
    path.write_bytes(path.read_bytes() + more)
    found = inspect_model(path)
    assert (found.vocabulary, found.tokens, found.tokenizer, found.files) == (8, 8, "in the file", 1)
    assert found.parameters == 8 * 64 + 64 + 2 * (64 * 64 + 64) + 64 + 1
    assert (found.quantization, found.nbytes) == ("Q4_0, F32, Q4_1", path.stat().st_size)
    assert "parts" not in found.details


@pytest.mark.parametrize(
    ("width", "before", "after", "words"),
    [
        (64, (64, 8), (128, 4), "vocabulary: the header says 8, and the embedding 4"),
        (96, (96, 8), (64, 12), "vocabulary: the header says 8, and the embedding 12"),
        (64, (64, 8), (32, 16), "the model has 2 parts, and m.bin.1 is missing"),
    ],
)
def test_an_old_embedding_of_another_shape(
    tmp_path: Path, width: int, before: tuple[int, int], after: tuple[int, int], words: str
) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggml", width=width)
    name = b"tok_embeddings.weight"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack("<2i", *before) + name, struct.pack("<2i", *after) + name))
    assert told(inspect_model(path))[0] == f"error: {words}"


def test_an_old_file_that_lacks_layers(tmp_path: Path) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggml")
    raw = path.read_bytes()
    path.write_bytes(raw[:20] + struct.pack("<i", 3) + raw[24:])
    assert told(inspect_model(path))[0] == "error: layers: the header says 3, and the tensors 2"


def test_the_name_of_a_chat_template_is_none_and_gives_the_preset(tmp_path: Path) -> None:
    named = (*WHOLE, word("tokenizer.chat_template", "rwkv-world"))
    found = inspect_model(model(tmp_path / "m.gguf", named, EMBEDDING, LAYER))
    assert (found.chat_template, found.preset) == (False, "rwkv-world")
    others = (*WHOLE, word("tokenizer.chat_template.tool_use", "{{ tools }}"))
    assert inspect_model(model(tmp_path / "m.gguf", others, EMBEDDING, LAYER)).preset == "model"
