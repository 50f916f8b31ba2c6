"""The container of a file that `torch.load` reads, for `write_tensors`: a zip archive of a pickle and of numbers.

Made without torch. The formats: torch/serialization.py, `_save`, and PKWARE's APPNOTE.TXT, 4.3. Reads nothing.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping, Sequence
from zlib import crc32

from chatbridge.model_tools.output import NewTensor

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
"""What torch calls the numbers of each type."""

_FOLDER = "archive"
_ALIGNMENT = 64
_WIDE = 0xFFFFFFFF
"""In a field of 32 bits: the number stands in the extra field, in 64."""

_DAY = (1980 - 1980) << 9 | 1 << 5 | 1
"""MS-DOS's first day, so that the same work makes the same bytes."""

Value = str | int | float | bool | None


class TorchFile:
    """`group`: the name under which the tensors stand, as SAT's "module"; "" for the top. `values`: more at the top.

    Raises ValueError for a type that torch's files don't have.
    """

    def __init__(
        self, tensors: Sequence[NewTensor], *, group: str = "", values: Mapping[str, Value] | None = None
    ) -> None:
        pickled = _pickled(tensors, group, values or {})
        small = [(f"{_FOLDER}/data.pkl", pickled), (f"{_FOLDER}/byteorder", b"little")]
        self._entries: list[_Entry] = []
        self._head = b""
        for name, data in small:
            entry = _Entry(name, len(data), len(self._head), crc32(data))
            self._entries.append(entry)
            self._head += entry.header() + data
        at = len(self._head)
        self._first = len(self._entries)
        for number, tensor in enumerate(tensors):
            entry = _Entry(f"{_FOLDER}/data/{number}", tensor.nbytes, at)
            self._entries.append(entry)
            at += len(entry.header()) + tensor.nbytes
        self._end = at

    def before(self, number: int) -> bytes:
        """The names and shapes, and the header of the tensor's entry, as yet without its check."""
        return (self._head if number == 0 else b"") + self._entries[self._first + number].header()

    def patch(self, number: int, check: int) -> tuple[int, bytes]:
        """The check in the header of the tensor's entry."""
        return self._entries[self._first + number].start + 14, struct.pack("<I", check)

    def after(self, checks: Sequence[int]) -> bytes:
        """The version, and the table of contents."""
        for entry, check in zip(self._entries[self._first :], checks, strict=True):
            entry.check = check
        version = _Entry(f"{_FOLDER}/version", 2, self._end, crc32(b"3\n"))
        tail = (b"" if checks else self._head) + version.header() + b"3\n"
        start = self._end + len(version.header()) + 2
        entries = [*self._entries, version]
        directory = b"".join(entry.listed() for entry in entries)
        # The end in wide numbers is there always, as torch writes it.
        total, length = len(entries), len(directory)
        wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, total, total, length, start)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + length, 1)
        count = min(total, 0xFFFF)
        end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, min(length, _WIDE), min(start, _WIDE), 0)
        return tail + directory + wide + locator + end


class _Entry:
    """One file of the archive: `start` is where its header begins, in bytes from the beginning."""

    def __init__(self, name: str, size: int, start: int, check: int = 0) -> None:
        self.name, self.size, self.start, self.check = name.encode(), size, start, check

    def header(self) -> bytes:
        """Followed by the data, which begin at a multiple of 64 bytes, as torch wants it for mapping."""
        wide = struct.pack("<HHQQ", 1, 16, self.size, self.size) if self.size >= _WIDE else b""
        begin = self.start + 30 + len(self.name) + len(wide) + 4
        extra = wide + struct.pack("<HH", 0x4246, -begin % _ALIGNMENT) + b"Z" * (-begin % _ALIGNMENT)
        size = min(self.size, _WIDE)
        return (
            struct.pack(
                "<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, _DAY, self.check, size, size, len(self.name), len(extra)
            )
            + self.name
            + extra
        )

    def listed(self) -> bytes:
        """Its line in the table of contents."""
        wide = [number for number in (self.size, self.size, self.start) if number >= _WIDE]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size, start, lengths = min(self.size, _WIDE), min(self.start, _WIDE), (len(self.name), len(extra))
        about = (45, 45, 0, 0, 0, _DAY, self.check, size, size, *lengths, 0, 0, 0, 0, start)
        return struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *about) + self.name + extra


def _pickled(tensors: Sequence[NewTensor], group: str, values: Mapping[str, Value]) -> bytes:
    """The dictionary as `torch.save` writes it: what torch makes tensors of, and plain values by the pickle module."""
    named = _dictionary({tensor.name: _tensor(number, tensor) for number, tensor in enumerate(tensors)})
    plain = {name: _plain(value) for name, value in values.items()}
    root = _dictionary({group: named, **plain}) if group else named[:-1] + _items(plain) + b"u" if plain else named
    return b"\x80\2" + root + b"."


def _dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + _items(items) + b"u"


def _items(items: Mapping[str, bytes]) -> bytes:
    return b"".join(_plain(name) + value for name, value in items.items())


def _tensor(number: int, tensor: NewTensor) -> bytes:
    if tensor.dtype not in STORAGES:
        raise ValueError(f"torch's files have no {tensor.dtype}")
    count, strides, step = 1, [], 1
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= max(size, 1)
        count *= size
    storage = (
        b"(" + _plain("storage") + b"ctorch\n" + STORAGES[tensor.dtype].encode() + b"\n" + _plain(str(number))
        + _plain("cpu") + _plain(count) + b"tQ"
    )  # fmt: skip
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _plain(0) + _tuple(tensor.shape)
        + _tuple(tensor.strides or strides[::-1]) + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_plain, numbers)) + b"t"


def _plain(value: Value) -> bytes:
    """A value as the pickle module writes it, without its frame. What it memorises is never asked for."""
    return pickle.dumps(value, protocol=2)[2:-1]
