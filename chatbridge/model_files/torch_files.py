"""Reads the headers of torch's files: zip archives, and the row of pickles that torch wrote before version 1.6.

Checks that each tensor's bytes are there, and reads none of them. Runs nothing; what a file names besides weights is
told in `TensorFile.foreign`. The formats: torch/serialization.py, `_save` and `_legacy_save`. Knows no model.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.pickles import Pickle, PickledTensor, damaged_torch, read_pickle, wants_code
from chatbridge.model_files.tensors import MAX_TENSORS, WIDTHS, Scalar, TensorFile, TensorInfo

MAX_PICKLE = 64 << 20
"""Bytes of a file's names and shapes; those of a model of 10,000 tensors have about 2 MiB."""

MAX_DIRECTORY = 32 << 20
"""Bytes of the table of contents at the end of a zip archive."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_END, _END_64, _LOCATOR_64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_TAIL = (1 << 16) + 22
"""Bytes that the end of an archive has with the longest comment."""

_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, OSError, ValueError, RuntimeError, EOFError, LookupError, struct.error,
    zlib.error, OverflowError,
)  # fmt: skip
"""What Python's zip reader may raise for a damaged archive."""


def read_torch_zip(path: Path) -> TensorFile:
    """The header of a file of torch 1.6 or newer. Raises ModelLoadError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        _check_end(path, file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except _ZIP_ERRORS as error:
            raise damaged_torch(path, f"its table of contents can't be read: {error}") from error
        by_name = {entry.filename: entry for entry in entries}
        apart = {name.lower() for name in by_name}  # torch takes the one for the other
        if len(entries) > MAX_TENSORS or len(apart) < len(entries):
            raise damaged_torch(path, f"{len(entries):,} entries with {len(apart):,} names")
        folder = next(iter(by_name), "").partition("/")[0] + "/"  # torch, too, asks the first entry
        pickled = f"{folder}data.pkl"
        if pickled not in by_name or f"{folder}constants.pkl" in by_name:
            raise ModelLoadError(f"{path}: {_no_weights(by_name)}")
        start, length = _place(path, file, size, by_name[pickled])
        if length > MAX_PICKLE:
            raise damaged_torch(path, f"its names and shapes take {length:,} bytes; {MAX_PICKLE:,} are the most")
        file.seek(start)
        found = read_pickle(path, file.read(length))
        places = {}
        for key, storage in found.storages.items():
            entry = by_name.get(f"{folder}data/{key}")
            if entry is None:
                raise damaged_torch(path, f"it has no data for the storage {key!r}")
            places[key], there = _place(path, file, size, entry)
            if there < storage.nbytes:
                raise damaged_torch(path, f"the storage {key!r} has {there:,} of {storage.nbytes:,} bytes")
    return _described(path, "torch", size, found, places)


def read_torch_old(path: Path) -> TensorFile:
    """The header of a file of torch before 1.6, or of another pickle. Raises ModelLoadError."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = read_pickle(path, data)
        if first.root != _MAGIC:
            if first.foreign:
                raise wants_code(path, next(iter(first.foreign)))
            raise ModelLoadError(f"{path}: this is a pickle of Python's and no file of torch's: no weights by name")
        version = read_pickle(path, data, first.end)
        if version.root != _PROTOCOL:
            raise ModelLoadError(f"{path}: this is a file of a torch that is not known; save it anew with torch.save")
        about = read_pickle(path, data, version.end)
        found = read_pickle(path, data, about.end)
        keys = read_pickle(path, data, found.end)
        places, at = {}, keys.end
        for key in keys.root if isinstance(keys.root, list) else []:
            storage = found.storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise damaged_torch(path, "it lists a storage of no tensor")
            places[key], at = at + 8, at + 8 + storage.nbytes
            if at > size:
                raise _half(path, size, found)
            if int.from_bytes(data[places[key] - 8 : places[key]], "little") != storage.count:
                raise damaged_torch(
                    path, f"the storage {key!r} does not have the {storage.count:,} numbers of its tensors"
                )
        if missing := found.storages.keys() - places.keys():
            raise damaged_torch(path, f"it has no data for the storage {min(missing)!r}")
    return _described(path, "torch before 1.6", size, found, places)


def check_torch_zip(path: Path) -> None:
    """Raise ModelLoadError where the end of an archive is missing, which has its table of contents."""
    with path.open("rb") as file:
        _check_end(path, file, path.stat().st_size)


def _check_end(path: Path, file: BinaryIO, size: int) -> None:
    """The archive's end is there, and its table of contents is none that would fill the memory, or that a program
    would look for elsewhere: Python counts back from the end, and torch from the beginning."""
    begin = max(0, size - _TAIL)
    file.seek(begin)
    tail = file.read(_TAIL)
    at = tail.rfind(_END)
    if at == -1 or len(tail) - at < 22:
        raise _half_zip(path, file, size)
    length, start = struct.unpack_from("<II", tail, at + 12)
    end = begin + at
    if tail[at - 20 : at - 16] == _LOCATOR_64:  # the same in wide numbers, as torch always writes it
        end -= 76
        wide = tail[at - 76 : at - 20]
        if wide[:4] != _END_64 or int.from_bytes(tail[at - 12 : at - 4], "little") != end:
            raise damaged_torch(path, "its end is not where it says")
        length, start = struct.unpack_from("<QQ", wide, 40)
    if length > min(size, MAX_DIRECTORY):
        raise damaged_torch(path, f"its table of contents has {length:,} bytes; {MAX_DIRECTORY:,} are the most")
    if start + length != end:
        raise damaged_torch(
            path, f"its table of contents should end at byte {start + length:,}, and ends at byte {end:,}"
        )


def _half_zip(path: Path, file: BinaryIO, size: int) -> ModelLoadError:
    """What the beginning promises: torch writes names and shapes first."""
    file.seek(0)
    begin = file.read(30)
    try:
        name, extra = struct.unpack_from("<HH", begin, 26)
        if file.read(name).endswith(b"/data.pkl"):
            file.seek(extra, 1)
            return _half(path, size, read_pickle(path, file.read(min(size, MAX_PICKLE))))
    except (ModelLoadError, struct.error):  # the names are cut short, too
        pass
    return _half(path, size, Pickle())


def _half(path: Path, size: int, found: Pickle) -> ModelLoadError:
    promised = sum(storage.nbytes for storage in found.storages.values())
    more = f"its tensors alone take {promised:,}" if promised > size else "its end is missing"
    return ModelLoadError(
        f"{path}: only a part of the file was downloaded: {size:,} bytes are there, and {more}; download it again"
    )


def _place(path: Path, file: BinaryIO, size: int, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of an entry begin, and how many there are."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ModelLoadError(
            f"{path}: {entry.filename:.200} is compressed or encrypted, which torch never does: another program has "
            f"packed the file anew; take the original, or torch.load and torch.save it once"
        )
    file.seek(min(entry.header_offset, size))  # wide numbers may be larger than any place
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise damaged_torch(path, f"{entry.filename:.200} is not where the table of contents says")
    start = entry.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
    if start + entry.file_size > size:
        raise damaged_torch(path, f"{entry.filename:.200} should end at byte {start + entry.file_size:,} of {size:,}")
    return start, entry.file_size


def _described(path: Path, kind: Any, size: int, found: Pickle, places: Mapping[str, int]) -> TensorFile:
    root = found.root if isinstance(found.root, dict) else {"": found.root}
    values: dict[str, Scalar] = {}
    groups, seen = {}, set()
    for name, value in root.items():
        if isinstance(value, str | int | float | bool | None):
            values[str(name)] = value
        elif isinstance(value, dict) and id(value) not in seen:  # the same may be there a million times
            seen.add(id(value))
            if group := _tensors(value, places):
                groups[str(name)] = group
    return TensorFile(path, kind, size, _tensors(root, places), groups, values, tuple(found.foreign))


def _tensors(named: Mapping[Any, Any], places: Mapping[str, int]) -> dict[str, TensorInfo]:
    return {str(name): _info(value, places) for name, value in named.items() if isinstance(value, PickledTensor)}


def _info(tensor: PickledTensor, places: Mapping[str, int]) -> TensorInfo:
    width = WIDTHS[tensor.dtype]
    return TensorInfo(
        tensor.shape,
        tensor.dtype,
        nbytes=prod(tensor.shape) * width,
        start=places[tensor.storage.key] + tensor.offset * width,
        strides=() if tensor.in_rows else tensor.strides,
    )


def _no_weights(names: Mapping[str, object]) -> str:
    if any(name.endswith("/constants.pkl") for name in names):
        return "this is a TorchScript program and no weights by name; take the file that it was made from"
    if any(name.endswith(".npy") for name in names):
        return "this is an archive of NumPy's (.npz) and no model"
    return "this is a zip archive and no file of torch's (it has no data.pkl); if it was downloaded so, unpack it"
