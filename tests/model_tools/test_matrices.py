"""Views of matrices read what is asked for: parts joined, heads turned, rows and columns cut out, slice by slice."""

from __future__ import annotations

import numpy as np
import pytest

from chatbridge.model_tools.matrices import Cut, Joined, Turned, floats, nbytes, spans, to_write


class Known:
    """A matrix in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, str(array.dtype)

    def read(self, first: int, last: int) -> np.ndarray:
        assert 0 <= first < last <= len(self.array)
        return self.array[first:last]


def counted(rows: int, columns: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + rows * columns, dtype=np.float32).reshape(rows, columns)


@pytest.mark.parametrize(
    ("size", "multiple", "found"),
    [
        (1, 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (15, 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (16, 1, [(0, 2), (2, 4), (4, 5)]),
        (31, 2, [(0, 2), (2, 4), (4, 5)]),
        (1, 3, [(0, 3), (3, 5)]),
        (40, 1, [(0, 5)]),
        (999, 2, [(0, 5)]),
    ],
)
def test_a_slice_has_about_so_many_bytes(size: int, multiple: int, found: list[tuple[int, int]]) -> None:
    assert list(spans(Known(counted(5, 2)), size, multiple)) == found


def test_little_and_nothing_are_one_slice_or_none() -> None:
    assert list(spans(Known(np.float32(5).reshape(())))) == [(0, 1)]
    assert list(spans(Known(np.zeros((0, 4), np.float32)))) == []
    assert list(spans(Known(counted(5, 2)))) == [(0, 5)]
    assert nbytes(Known(counted(5, 2).astype(np.float16))) == 20


def test_numbers_are_written_as_they_are_and_computed_with_in_float32() -> None:
    halves = counted(3, 2).astype(np.float16)
    found = to_write("x", Known(halves))
    assert (found.name, found.shape, found.dtype, found.nbytes) == ("x", (3, 2), "float16", 12)
    assert b"".join(found.make()) == halves.tobytes()
    assert floats(Known(halves), 1, 3).dtype == np.float32
    np.testing.assert_array_equal(floats(Known(halves), 1, 3), halves[1:])


@pytest.mark.parametrize(("axis", "sizes"), [(0, (2, 3, 1)), (1, (2, 2))])
def test_parts_are_read_as_one(axis: int, sizes: tuple[int, ...]) -> None:
    parts = [counted(*((size, 2) if axis == 0 else (4, size)), start=100 * at) for at, size in enumerate(sizes)]
    whole = np.concatenate(parts, axis=axis)
    joined = Joined([Known(part) for part in parts], axis)
    assert (joined.shape, joined.dtype) == (whole.shape, "float32")
    for first in range(len(whole)):
        for last in range(first + 1, len(whole) + 1):
            np.testing.assert_array_equal(joined.read(first, last), whole[first:last])


def test_heads_are_turned_there_and_back() -> None:
    rows = counted(12, 2)
    halves = Turned(Known(rows), 3, to_halves=True)
    order = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11]
    for first in range(12):
        for last in range(first + 1, 13):
            np.testing.assert_array_equal(halves.read(first, last), rows[order][first:last])
    six = counted(6, 1)
    to_halves = Turned(Known(six), 1, to_halves=True).read(0, 6)
    np.testing.assert_array_equal(to_halves[:, 0], [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(Turned(Known(to_halves), 1, to_halves=False).read(0, 6), six)
    assert (halves.shape, halves.dtype) == ((12, 2), "float32")


def test_rows_and_columns_are_cut_out() -> None:
    whole = counted(5, 4)
    rows, columns = Cut(Known(whole), 0, 1, 4), Cut(Known(whole), 1, 1, 3)
    assert (rows.shape, columns.shape, rows.dtype) == ((3, 4), (5, 2), "float32")
    np.testing.assert_array_equal(rows.read(1, 3), whole[2:4])
    np.testing.assert_array_equal(columns.read(1, 3), whole[1:3, 1:3])


def test_columns_are_asked_of_whoever_can_read_them_alone() -> None:
    class Columns(Known):
        def columns(self, first: int, last: int, start: int, end: int) -> np.ndarray:
            return -self.array[first:last, start:end]

    whole = counted(5, 4)
    np.testing.assert_array_equal(Cut(Columns(whole), 1, 1, 3).read(1, 3), -whole[1:3, 1:3])
    np.testing.assert_array_equal(Cut(Known(whole), 1, 1, 3).read(1, 3), whole[1:3, 1:3])
