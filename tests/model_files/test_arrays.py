"""Tensors are read from their files as they lie there: whole, by rows, by slices, and turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chatbridge import ModelLoadError
from chatbridge.model_files.arrays import Weights, as_float32, from_float32, stored_type

from .writers import numbers, write_old_torch, write_safetensors, write_torch

COUNTED = np.arange(6, dtype="<f2")


def counted(path: Path) -> Path:
    """A file with the numbers from 0 to 5 as a matrix of three rows, at its end."""
    write_safetensors(path, {"one": (), "none": (0, 4), "x": (3, 2)})
    path.write_bytes(path.read_bytes()[:-12] + COUNTED.tobytes())
    return path


def test_rows_are_read_from_one_to_before_another(tmp_path: Path) -> None:
    with Weights.of_files([counted(tmp_path / "m.safetensors")]) as weights:
        assert (list(weights), len(weights)) == (["one", "none", "x"], 3)
        x, one, none = weights["x"], weights["one"], weights["none"]
        assert (x.rows, one.rows, none.rows) == (3, 1, 0)
        np.testing.assert_array_equal(x.read(), COUNTED.reshape(3, 2))
        np.testing.assert_array_equal(x.read(1), [[2, 3], [4, 5]])
        np.testing.assert_array_equal(x.read(1, 2), [[2, 3]])
        assert (one.read().shape, none.read().shape, x.floats(2, 3).dtype) == ((), (0, 4), np.float32)


@pytest.mark.parametrize(
    ("size", "slices"),
    [
        (1, [(0, 1), (1, 2), (2, 3)]),
        (7, [(0, 1), (1, 2), (2, 3)]),
        (8, [(0, 2), (2, 3)]),
        (12, [(0, 3)]),
        (99, [(0, 3)]),
    ],
)
def test_a_slice_has_as_many_rows_as_fit(tmp_path: Path, size: int, slices: list[tuple[int, int]]) -> None:
    with Weights.of_files([counted(tmp_path / "m.safetensors")]) as weights:
        assert list(weights["x"].slices(size)) == slices
        assert list(weights["x"].slices()) == [(0, 3)]
        assert (list(weights["none"].slices(size)), list(weights["one"].slices(size))) == ([], [(0, 1)])


def test_a_turned_tensor_at_the_end_of_a_file_is_read_whole(tmp_path: Path) -> None:
    whole = write_old_torch(tmp_path / "m.bin", {"x": (6,)}).read_bytes()
    turned = whole.replace(numbers((6,)) + numbers((1,)), numbers((3, 2)) + numbers((1, 3)))
    (tmp_path / "m.bin").write_bytes(turned[:-12] + COUNTED.tobytes())
    with Weights.of_files([tmp_path / "m.bin"]) as weights:
        np.testing.assert_array_equal(weights["x"].read(), [[0, 3], [1, 4], [2, 5]])
        np.testing.assert_array_equal(weights["x"].read(1, 2), [[1, 4]])
        assert list(weights["x"].slices(1)) == [(0, 3)]


def test_a_tensor_that_stands_for_more_than_its_file_is_refused(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "m.bin", {"x": (2,)})
    whole = path.read_bytes()
    size = len(whole) // 2
    assert len(whole) % 2 == 0
    wide = numbers((size,)) + numbers((0,))
    path.write_bytes(whole.replace(numbers((2,)) + numbers((1,)), wide))
    with Weights.of_files([path]) as weights:
        assert weights["x"].nbytes == len(whole)
    path.write_bytes(whole.replace(numbers((2,)) + numbers((1,)), numbers((size + 1,)) + numbers((0,))))
    with pytest.raises(ModelLoadError, match=r"x has .* bytes, more than the whole file"):
        Weights.of_files([path])


def test_a_name_in_two_files_is_the_first_where_they_are_alike(tmp_path: Path) -> None:
    first = counted(tmp_path / "a.safetensors")
    second = write_safetensors(tmp_path / "b.safetensors", {"x": (3, 2), "y": (1,)})
    with Weights.of_files([first, second]) as weights:
        assert list(weights) == ["one", "none", "x", "y"]
        assert (weights["x"].path, weights["y"].path) == (first, second)
    other = write_safetensors(tmp_path / "c.safetensors", {"x": (2, 3)})
    with pytest.raises(ModelLoadError, match=r"c\.safetensors: x is in a\.safetensors, too, with another shape"):
        Weights.of_files([first, other])


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = counted(tmp_path / "m.safetensors")
    with Weights.of_files([path]) as weights:
        path.write_bytes(path.read_bytes()[:-1])
        weights["x"].read(0, 2)
        with pytest.raises(ModelLoadError, match="the file has become shorter while it was read"):
            weights["x"].read()


def test_types_that_numpy_lacks_are_none() -> None:
    assert [stored_type(name) for name in ("bfloat16", "float16", "int64")] == [
        np.dtype(x) for x in ("<u2", "<f2", "<i8")
    ]
    assert stored_type("float8_e4m3fn") is None


def test_numbers_that_are_right_are_not_copied() -> None:
    some = np.ones(2, np.float32)
    assert as_float32(some, "float32") is some
    assert from_float32(some, "float32") is some
    with pytest.raises(ModelLoadError, match="it has numbers of int8: quantised or no weight"):
        as_float32(some, "int8", "it")


@pytest.mark.parametrize(("start", "end"), [(0, 2), (0, 1), (1, 2)])
def test_columns_are_read_alone_however_the_numbers_lie(tmp_path: Path, start: int, end: int) -> None:
    counted(tmp_path / "m.safetensors")
    turned = write_old_torch(tmp_path / "m.bin", {"x": (6,)}).read_bytes()
    turned = turned.replace(numbers((6,)) + numbers((1,)), numbers((3, 2)) + numbers((1, 3)))
    (tmp_path / "m.bin").write_bytes(turned[:-12] + COUNTED.reshape(3, 2).T.tobytes())
    for name in ("m.safetensors", "m.bin"):
        with Weights.of_files([tmp_path / name]) as weights:
            for first, last in ((0, 3), (1, 3), (1, 2)):
                found = weights["x"].columns(first, last, start, end)
                np.testing.assert_array_equal(found, COUNTED.reshape(3, 2)[first:last, start:end])
