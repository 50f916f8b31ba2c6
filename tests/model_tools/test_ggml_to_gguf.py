"""GGML files from before GGUF become GGUF: the same numbers, the same vocabulary, or words that say why not."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from chatbridge.cli.model.convert import convert
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.gguf import GgufHeader
from chatbridge.model_files.sentencepiece_files import read_sentencepiece
from chatbridge.testing import fixtures, read_torch

from .old_ggml import FILE_TYPES, MAGICS, write_llama

RECORDS = fixtures() / "llama"
HEADS = 4
Weights = dict[str, np.ndarray]
Pieces = tuple[tuple[str, float, int], ...]
NAMES = {
    "tok_embeddings": "token_embd", "norm": "output_norm", "output": "output", "attention.wq": "attn_q",
    "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output", "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up", "attention_norm": "attn_norm", "ffn_norm": "ffn_norm",
}  # fmt: skip
QUANTISED = [("ggml", "Q4_0"), ("ggml", "Q4_1"), ("ggmf 1", "Q4_0"), ("ggmf 1", "Q4_1"),
             *(("ggjt 1", kind) for kind in ("Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0")),
             *((f"ggjt {v}", kind) for v in (2, 3) for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))]  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The first layer of the recorded model, which is enough to see what becomes of a layer."""
    found = read_torch(RECORDS / "meta-1shard" / "consolidated.00.pth")
    return {name: array for name, array in found.items() if not name.startswith("layers.1.")}


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return read_sentencepiece(RECORDS / "tokenizer.model").pieces


def ours(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("layers."):
        _, number, part = stem.split(".", 2)
        return f"blk.{number}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"


def numbers_in(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    found = {}
    for name, tensor in GgufHeader(path, reader="this test").tensors.items():
        raw = np.frombuffer(data, np.uint8, tensor.nbytes, tensor.start)
        kind = GGMLQuantizationType[tensor.kind.upper()]
        found[name] = dequantize(raw.reshape(*tensor.shape[:-1], -1), kind).reshape(tensor.shape)
    return found


def same(path: Path, held: dict[str, np.ndarray]) -> None:
    found = numbers_in(path)
    assert found.keys() == {ours(name) for name in held}
    for name, array in held.items():
        np.testing.assert_array_equal(found[ours(name)], array, err_msg=name)


def made(
    folder: Path, form: str, weights: Weights, pieces: Pieces, **more: object
) -> tuple[Path, dict[str, np.ndarray]]:
    path = folder / "ggml-model.bin"
    shutil.copyfile(RECORDS / "tokenizer.model", folder / "tokenizer.model")
    return path, write_llama(path, form, weights, pieces, heads=HEADS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", MAGICS)
def test_weights_that_are_not_quantised_are_taken_over_to_the_bit(
    tmp_path: Path, weights: Weights, pieces: Pieces, form: str
) -> None:
    path, held = made(tmp_path, form, weights, pieces)
    convert(path, tmp_path / "out.gguf", "gguf", {})
    same(tmp_path / "out.gguf", held)
    kinds = {tensor.kind for tensor in GgufHeader(tmp_path / "out.gguf", reader="this test").tensors.values()}
    assert {kind.lower() for kind in kinds} == {"f16", "f32"}


def test_what_comes_out_is_what_comes_of_metas_form(tmp_path: Path, pieces: Pieces) -> None:
    whole = read_torch(RECORDS / "meta-1shard" / "consolidated.00.pth")
    path, _ = made(tmp_path, "ggml", whole, pieces)
    convert(path, tmp_path / "out.gguf", "f16", {})
    convert(RECORDS / "meta-1shard", tmp_path / "meta.gguf", "f16", {})
    found, wanted = (GgufHeader(tmp_path / name, reader="this test") for name in ("out.gguf", "meta.gguf"))
    assert {name: (t.shape, t.kind) for name, t in found.tensors.items()} == {
        name: (t.shape, t.kind) for name, t in wanted.tensors.items()
    }
    ours, theirs = numbers_in(tmp_path / "out.gguf"), numbers_in(tmp_path / "meta.gguf")
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    own = {"general.name", "general.description", "general.size_label"}
    own |= {"llama.attention.key_length", "llama.attention.value_length"}
    assert found.metadata.keys() - own == wanted.metadata.keys() - own
    for key in found.metadata.keys() - own:
        ours, theirs = found.metadata[key], wanted.metadata[key]
        assert list(ours) == list(theirs) if hasattr(ours, "__len__") else ours == theirs, key


@pytest.mark.parametrize(("form", "kind"), QUANTISED)
def test_blocks_are_unpacked_to_the_numbers_that_llama_cpp_computed_with(
    tmp_path: Path, weights: Weights, pieces: Pieces, form: str, kind: str
) -> None:
    path, held = made(tmp_path, form, weights, pieces, kind=kind)
    convert(path, tmp_path / "out.gguf", "f32", {})
    same(tmp_path / "out.gguf", held)
    if kind not in ("Q4_0", "Q4_3"):
        return
    convert(path, tmp_path / "half.gguf", "f16", {})
    halves = {name: a.astype(np.float16).astype(np.float32) if a.ndim == 2 else a for name, a in held.items()}
    same(tmp_path / "half.gguf", halves)


@pytest.mark.parametrize(
    ("form", "kind"),
    [(form, kind) for form, kind in QUANTISED if form == "ggjt 3" or kind in ("Q4_0", "Q5_0", "Q5_1")],
)
def test_blocks_are_taken_over_without_a_bit_lost(
    tmp_path: Path, weights: Weights, pieces: Pieces, form: str, kind: str
) -> None:
    path, held = made(tmp_path, form, weights, pieces, kind=kind)
    convert(path, tmp_path / "out.gguf", "gguf", {})
    same(tmp_path / "out.gguf", held)
    found = GgufHeader(tmp_path / "out.gguf", reader="this test")
    assert {t.kind.lower() for t in found.tensors.values() if len(t.shape) == 2} == {kind.lower()}
    assert found.metadata["general.quantization_version"] == 2
    assert found.metadata["general.file_type"] == FILE_TYPES[kind]


@pytest.mark.parametrize(
    ("form", "kind", "told"),
    [
        ("ggjt 1", "Q4_1", r"tok_embeddings.weight: it has the scale [\d.e-]+, of 32 bits, and Q4_1 of today has 16"),
        ("ggjt 2", "Q8_0", r"tok_embeddings.weight: it has the scale .*; unpack it|unpack it by --to f16 or f32"),
        ("ggjt 1", "Q4_2", r"today's GGUF has no Q4_2; unpack it by --to f16 or f32"),
    ],
)
def test_what_todays_blocks_can_not_hold_is_refused_and_nothing_is_left(
    tmp_path: Path, weights: Weights, pieces: Pieces, form: str, kind: str, told: str
) -> None:
    path, _ = made(tmp_path, form, weights, pieces, kind=kind)
    before = sorted(file.name for file in tmp_path.iterdir())
    with pytest.raises(ModelLoadError, match=told):
        convert(path, tmp_path / "out.gguf", "gguf", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_rows_with_their_scales_in_front_are_not_read_for_others(
    tmp_path: Path, weights: Weights, pieces: Pieces
) -> None:
    path, _ = made(tmp_path, "ggml", weights, pieces, kind="Q4_0")
    data = bytearray(path.read_bytes())
    at = data.index(b"tok_embeddings.weight") + len("tok_embeddings.weight")
    blocks = np.frombuffer(bytes(data[at : at + 480 * 2 * 20]), np.uint8).reshape(480, 2, 20)
    first = np.concatenate([blocks[:, :, :4].reshape(480, -1), blocks[:, :, 4:].reshape(480, -1)], axis=1)
    data[at : at + first.size] = first.tobytes()
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"tok_embeddings.weight: one of its blocks has the scale .* March 2023"):
        convert(path, tmp_path / "out.gguf", "f16", {})


def test_parts_are_joined(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    path, held = made(tmp_path, "ggmf 1", weights, pieces, kind="Q4_0", parts=2)
    assert (tmp_path / "ggml-model.bin.1").exists()
    convert(path, tmp_path / "out.gguf", "gguf", {})
    same(tmp_path / "out.gguf", held)
    told = json.loads((tmp_path / "out.gguf.report.json").read_text())
    assert [Path(source["path"]).name for source in told["sources"]] == ["ggml-model.bin", "ggml-model.bin.1"]
    (tmp_path / "ggml-model.bin.1").unlink()
    with pytest.raises(ModelLoadError, match=r"2 parts, and ggml-model.bin.1 is missing"):
        convert(path, tmp_path / "other.gguf", "gguf", {})


@pytest.mark.parametrize("form", MAGICS)
def test_the_vocabulary_is_that_of_the_tokenizer(tmp_path: Path, weights: Weights, pieces: Pieces, form: str) -> None:
    path, _ = made(tmp_path, form, weights, pieces)
    convert(path, tmp_path / "out.gguf", "gguf", {})
    found = GgufHeader(tmp_path / "out.gguf", reader="this test").metadata
    assert [token.decode() for token in found["tokenizer.ggml.tokens"]] == [piece for piece, _, _ in pieces]
    assert found["tokenizer.ggml.token_type"].tolist() == [kind for _, _, kind in pieces]
    np.testing.assert_array_equal(found["tokenizer.ggml.scores"], np.array([s for _, s, _ in pieces], np.float32))
    ids = [found[f"tokenizer.ggml.{name}_token_id"] for name in ("unknown", "bos", "eos")]
    assert (found["tokenizer.ggml.model"], ids) == ("llama", [0, 1, 2])


def test_tokens_that_were_added_are_found_whole_in_a_text(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    more = {"tok_embeddings.weight": 2, "output.weight": 2}
    wider = {n: np.concatenate([a, a[: more[n]]]) if n in more else a for n, a in weights.items()}
    path, _ = made(tmp_path, "ggjt 3", wider, pieces, added=["[PAD]", "<|im_start|>"])
    convert(path, tmp_path / "out.gguf", "gguf", {})
    found = GgufHeader(tmp_path / "out.gguf", reader="this test").metadata
    assert list(found["tokenizer.ggml.tokens"])[-2:] == [b"[PAD]", b"<|im_start|>"]
    assert found["tokenizer.ggml.token_type"].tolist()[-2:] == [4, 4]


def test_without_scores_the_tokenizer_is_wanted_and_looked_over(
    tmp_path: Path, weights: Weights, pieces: Pieces
) -> None:
    path, _ = made(tmp_path, "ggml", weights, pieces)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(ModelLoadError, match=r"tokens without scores.*put the model's tokenizer.model beside it"):
        convert(path, tmp_path / "out.gguf", "gguf", {})
    shutil.copyfile(RECORDS / "chinese-llama-lora" / "tokenizer.model", tmp_path / "tokenizer.model")
    with pytest.raises(ModelLoadError, match=r"tokens: tokenizer.model says 691, and ggml-model.bin 480"):
        convert(path, tmp_path / "out.gguf", "gguf", {})
    swapped = [*pieces]
    swapped[300], swapped[301] = swapped[301], swapped[300]
    path, _ = made(tmp_path, "ggml", weights, tuple(swapped))
    with pytest.raises(ModelLoadError, match=r"token 300 is '.*' there and '.*' in ggml-model.bin"):
        convert(path, tmp_path / "out.gguf", "gguf", {})


@pytest.mark.parametrize(("form", "epsilon"), [("ggml", 1e-6), ("ggjt 2", 1e-6), ("ggjt 3", 5e-6)])
def test_sizes_are_those_of_the_shapes_and_the_rest_by_age(
    tmp_path: Path, weights: Weights, pieces: Pieces, form: str, epsilon: float
) -> None:
    path, _ = made(tmp_path, form, weights, pieces)
    convert(path, tmp_path / "out.gguf", "gguf", {})
    found = GgufHeader(tmp_path / "out.gguf", reader="this test").metadata
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(epsilon)
    assert found.get("llama.rope.freq_base", 10000.0) == 10000.0
    numbers = {"block_count": 1, "embedding_length": 64, "feed_forward_length": 192, "attention.head_count": 4,
               "attention.head_count_kv": 4, "rope.dimension_count": 16, "context_length": 2048}  # fmt: skip
    assert {key: found[f"llama.{key}"] for key in numbers} == numbers


def test_shared_keys_are_seen_in_the_shapes(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    shared = {name: a[:32] if ".wk." in name or ".wv." in name else a for name, a in weights.items()}
    path, held = made(tmp_path, "ggjt 3", shared, pieces, kind="Q8_0")
    convert(path, tmp_path / "out.gguf", "gguf", {})
    same(tmp_path / "out.gguf", held)
    assert GgufHeader(tmp_path / "out.gguf", reader="this test").metadata["llama.attention.head_count_kv"] == 2


def test_what_lies_beside_a_file_tells_what_it_does_not_say(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    path, _ = made(tmp_path, "ggjt 3", weights, pieces)
    said = {"hidden_size": 64, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(said))
    convert(path, tmp_path / "out.gguf", "gguf", {})
    found = GgufHeader(tmp_path / "out.gguf", reader="this test").metadata
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert found["llama.context_length"] == 4096
    (tmp_path / "config.json").write_text(json.dumps(said | {"hidden_size": 128}))
    with pytest.raises(ModelLoadError, match=r"width: config.json says 128, and ggml-model.bin 64"):
        convert(path, tmp_path / "other.gguf", "gguf", {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("layers.0.attention.wv.weight"), "layers.0.attention.wv.weight is not in it"),
        (lambda w: w.update({"layers.0.bias": w["norm.weight"]}), "layers.0.bias is no tensor of a LLaMA"),
        (lambda w: w.update({"output.weight": w["output.weight"][:479]}), r"output.weight has the shape \[479, 64\]"),
        (lambda w: w.update({"norm.weight": w["norm.weight"] * np.nan}), "norm.weight: it holds what is no number"),
    ],
)
def test_what_is_no_whole_llama_is_named(
    tmp_path: Path, weights: Weights, pieces: Pieces, change: object, told: str
) -> None:
    changed = dict(weights)
    change(changed)  # type: ignore[operator]
    path, _ = made(tmp_path, "ggjt 1", changed, pieces)
    before = sorted(file.name for file in tmp_path.iterdir())
    with pytest.raises(ModelLoadError, match=told):
        convert(path, tmp_path / "out.gguf", "f32", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_numbers_too_large_for_16_bits_are_not_made_infinite(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    large = dict(weights) | {"output.weight": weights["output.weight"].astype(np.float32) * 1e6}
    path, held = made(tmp_path, "ggjt 1", large, pieces, kind="F32")
    with pytest.raises(ModelLoadError, match=r"output.weight: it holds what is no number of 16 bits; give --to f32"):
        convert(path, tmp_path / "out.gguf", "f16", {})
    convert(path, tmp_path / "out.gguf", "f32", {})
    same(tmp_path / "out.gguf", held)


def test_damaged_files_are_told_in_words_and_leave_nothing(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    rng = random.Random(7)
    path, _ = made(tmp_path, "ggjt 1", weights, pieces, kind="Q4_0")
    whole = path.read_bytes()
    header = 8 + 28
    refused = 0
    for turn in range(60):
        data = bytearray(whole)
        if turn % 3 == 0:
            data = data[: rng.randrange(1, len(whole))]
        elif turn % 3 == 1:
            for _ in range(3):
                data[rng.randrange(header)] = rng.randrange(256)
        else:
            at = rng.randrange(len(whole) - 200)
            data[at : at + 200] = rng.randbytes(200)
        path.write_bytes(data)
        try:
            convert(path, tmp_path / "out.gguf", "f16", {})
            told = ""
        except ModelLoadError as error:
            told = str(error)
        there = [file for file in tmp_path.iterdir() if file.name.startswith("out.gguf")]
        assert len(there) == (0 if told else 2)
        assert not told or "ggml-model.bin" in told
        refused += bool(told)
        for file in there:
            file.unlink()
    assert refused > 40


def test_a_vocabulary_without_bytes_is_none_of_llamas(tmp_path: Path, weights: Weights, pieces: Pieces) -> None:
    texts = tuple((f"word{number}", -float(number), 1) for number in range(480))
    path, _ = made(tmp_path, "ggjt 3", weights, texts)
    told = r"tokens that are one byte: a LLaMA of SentencePiece says 256, and this file 0"
    with pytest.raises(ModelLoadError, match=told):
        convert(path, tmp_path / "out.gguf", "gguf", {})
    assert struct.unpack("<i", path.read_bytes()[8:12]) == (480,)
