"""Importance matrices: both forms of llama-imatrix say the same, others are refused, and quantising goes by them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from chatbridge_llama_cpp.imatrix import check_imatrix, read_imatrix
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import Conversion, GgufHeader, ModelLoadError, inspect_model
from chatbridge.testing import Arrays

from .quantizing import NARROW, importance, write_imatrix, write_model, write_old_imatrix

Metadata = dict[str, Any]
DOWN = "blk.0.ffn_down.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, random_metadata: Metadata) -> Path:
    tokenizer = {key: value for key, value in random_metadata.items() if key.startswith("tokenizer.")}
    return write_model(tmp_path_factory.mktemp("source") / "wide.gguf", tokenizer)


def quantised(source: Path, output: Path, target: str, **options: object) -> Conversion:
    from chatbridge_llama_cpp.converters import converters

    work = Conversion(inspect_model(source), target, output, options)
    (convert,) = converters()
    assert convert.check is not None
    convert.check(work)
    convert.convert(work)
    return work


def test_both_forms_say_the_same(source: Path, tmp_path: Path) -> None:
    weights = importance(source)
    new = read_imatrix(write_imatrix(tmp_path / "new.gguf", weights))
    old = read_imatrix(write_old_imatrix(tmp_path / "old.dat", weights))
    assert (new.dataset, new.chunks) == (old.dataset, old.chunks) == ("text.txt", 5)
    assert new.values.keys() == old.values.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_allclose(new.values[name], values, rtol=1e-5)
        np.testing.assert_allclose(old.values[name], values, rtol=1e-5)


def test_of_experts_that_were_never_chosen_all_columns_weigh_the_same(tmp_path: Path) -> None:
    path = tmp_path / "experts.gguf"
    writer = gguf.GGUFWriter(path, "")
    for key, value in (("chunk_count", 1), ("chunk_size", 512)):
        writer.add_uint32(f"imatrix.{key}", value)
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_tensor("up.in_sum2", np.array([[4, 8], [0, 0], [9, 3]], np.float32))
    writer.add_tensor("up.counts", np.array([[4], [0], [3]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_imatrix(path).values["up"].tolist() == [1, 2, 1, 1, 3, 1]


def spoiled(name: str, folder: Path, source: Path) -> Path:
    weights = importance(source)
    path = folder / "spoiled"
    if name == "a model":
        return source
    if name == "a text":
        path.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    elif name == "cut short":
        path.write_bytes(write_old_imatrix(path, weights).read_bytes()[:-3000])
    elif name == "empty":
        path.touch()
    elif name == "of nothing":
        path.write_bytes(struct.pack("<i", 0))
    elif name == "no number":
        write_imatrix(path, weights | {DOWN: np.full(256, np.nan, np.float32)})
    elif name == "negative":
        write_old_imatrix(path, weights | {DOWN: np.full(256, -1, np.float32)})
    elif name == "without metadata":
        write_imatrix(path, weights, leave_out="imatrix.chunk_size")
    elif name == "a folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("a model", "it lacks imatrix.datasets"),
        ("a text", "no importance matrix of llama.cpp's, or it is cut short"),
        ("cut short", "cut short"),
        ("empty", "cut short"),
        ("of nothing", "the importance matrix is empty"),
        ("no number", f"the weights of {DOWN} hold what is no finite positive number"),
        ("negative", f"the weights of {DOWN} hold what is no finite positive number"),
        ("without metadata", "it lacks imatrix.chunk_size"),
        ("a folder", "this is a folder"),
        ("absent", "No such file"),
    ],
)
def test_another_file_is_refused_in_words(source: Path, tmp_path: Path, name: str, phrase: str) -> None:
    path = spoiled(name, tmp_path, source)
    with pytest.raises(ModelLoadError) as refused:
        read_imatrix(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert phrase in str(refused.value)


def test_damaged_matrices_are_read_or_refused_in_words(source: Path, tmp_path: Path) -> None:
    weights = importance(source)
    wholes = [
        write_imatrix(tmp_path / "new.gguf", weights).read_bytes(),
        write_old_imatrix(tmp_path / "old.dat", weights).read_bytes(),
    ]
    path = tmp_path / "damaged"

    @given(st.sampled_from(wholes), st.data())
    def damaged(whole: bytes, data: st.DataObject) -> None:
        copy = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
        for _ in range(data.draw(st.integers(0, 4)) if copy else 0):
            copy[data.draw(st.integers(0, min(len(copy), 2000) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(copy)
        said = ""
        try:
            read_imatrix(path)
        except ModelLoadError as error:
            said = str(error)
        assert not said or said.startswith(f"{path}: ")

    damaged()


def changes(source: Path, kind: str) -> dict[str, str]:
    tensors = GgufHeader(source, reader="a test").tensors.values()
    return {tensor.name: kind for tensor in tensors if len(tensor.shape) > 1}


Spoil = Callable[[Arrays], Arrays]


@pytest.mark.parametrize(
    ("spoil", "kind", "phrase"),
    [
        (
            lambda weights: weights | {DOWN: np.ones(96, np.float32)},
            "Q4_K",
            f"96 columns of {DOWN}, which has 256 here",
        ),
        (lambda weights: {f"other.{name}": values for name, values in weights.items()}, "Q4_K", "none of this model's"),
        (lambda weights: weights, "Q8_0", "no tensor would use an importance matrix: all become Q8_0"),
        (
            lambda weights: {k: v for k, v in weights.items() if k != DOWN},
            "IQ2_XS",
            f"lacks {DOWN}, which would become",
        ),
    ],
    ids=["other sizes", "other names", "unused", "lacking one that is needed"],
)
def test_a_matrix_that_does_not_belong_to_the_model_is_refused(
    source: Path, tmp_path: Path, spoil: Spoil, kind: str, phrase: str
) -> None:
    matrix = read_imatrix(write_imatrix(tmp_path / "imatrix.gguf", spoil(importance(source))))
    with pytest.raises(ModelLoadError, match=phrase):
        check_imatrix(matrix, GgufHeader(source, reader="a test").tensors, changes(source, kind))


def test_a_matrix_of_another_model_is_refused_before_anything_is_made(
    source: Path, tmp_path: Path, random_metadata: Metadata
) -> None:
    tokenizer = {key: value for key, value in random_metadata.items() if key.startswith("tokenizer.")}
    other = write_model(tmp_path / "other.gguf", tokenizer, NARROW)
    matrix = write_imatrix(tmp_path / "imatrix.gguf", importance(other))
    with pytest.raises(ModelLoadError, match="is of another model"):
        quantised(source, tmp_path / "made.gguf", "q4_k_m", imatrix=matrix)
    assert not list(tmp_path.glob("made*"))


def test_types_that_need_a_matrix_say_so(source: Path, tmp_path: Path) -> None:
    planned = quantised(source, tmp_path / "made.gguf", "iq2_xxs", dry_run=True).report.steps[0]
    assert planned["needs_imatrix"]
    with pytest.raises(ModelLoadError, match="iq2_xxs is useless without an importance matrix: make one with llama-im"):
        quantised(source, tmp_path / "made.gguf", "iq2_xxs")
    assert not list(tmp_path.iterdir())


def test_columns_that_weigh_more_lose_less(source: Path, tmp_path: Path) -> None:
    weights = importance(source)
    weights[DOWN] = np.where(np.arange(256) < 128, 100, 0.01).astype(np.float32)
    partly = {name: values for name, values in weights.items() if "attn_q" not in name}
    matrix = write_old_imatrix(tmp_path / "imatrix.dat", partly)
    lost = {}
    for name, options in (("with", {"imatrix": matrix}), ("without", {})):
        work = quantised(source, tmp_path / f"{name}.gguf", "q4_k_m", pure=True, **options)
        made = GgufHeader(work.output, reader="a test")
        before, after = (floats(path, GgufHeader(path, reader="a test")) for path in (source, work.output))
        lost[name] = np.square(after - before).mean(0)
        if options:
            assert made.metadata["quantize.imatrix.file"] == "imatrix.dat"
            assert made.metadata["quantize.imatrix.entries_count"] == len(partly)
            report = json.loads((tmp_path / "with.gguf.report.json").read_text())
            assert report["steps"][0]["without_importance"] == ["blk.0.attn_q.weight"]
            assert [Path(one["path"]).name for one in report["sources"]] == ["wide.gguf", "imatrix.dat"]
    assert lost["with"][:128].mean() < lost["without"][:128].mean()
    assert lost["with"][128:].mean() > lost["without"][128:].mean()


def floats(path: Path, header: GgufHeader) -> np.ndarray:
    tensor = header.tensors[DOWN]
    raw = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.start)
    found: np.ndarray = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.kind]).reshape(tensor.shape)
    return found
