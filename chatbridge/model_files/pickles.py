"""Reads the pickle inside torch's files and runs nothing of it: it makes names, numbers and descriptions of tensors.

An interpreter of its own for the instructions that `torch.save` writes. Python's unpickler would do what the file
says, and takes memory for lengths that a file only claims to have. Knows no container; see `torch_files.py`.
Instructions: Lib/pickletools.py of CPython; which of them torch writes: torch/_weights_only_unpickler.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.tensors import MAX_DIMENSIONS, MAX_NAME, WIDTHS

MAX_STEPS = 2_000_000
"""Instructions of one pickle; a model of 10,000 tensors has about 500,000."""

MAX_STACK = 100_000
"""Values that wait for their container: torch writes a thousand at a time."""

MAX_FOREIGN = 100
"""Names of what is no weight that are remembered."""

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
}  # fmt: skip

_HARMLESS = {
    "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set", "collections.Counter", "torch.Tensor",
    "torch.device", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
}  # fmt: skip
"""What torch itself takes from a file that may hold weights only, and what is no tensor."""

_OF_TORCH = re.compile(
    r"torch\.(?:u?int|bits|qu?int|b?float|complex|bool)[\dx_a-z]*|torch\._utils\._rebuild_\w+|torch\.storage\.\w+"
    r"|torch\.(?:cuda\.)?(?:sparse\.)?\w+(?:Tensor|Storage)|torch\.per_(?:tensor|channel)_\w+"
)
"""Types of numbers, tensors and storages of each, and other kinds of tensors than those that models have."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of numbers in the file, by its key there; several tensors may lie in one."""

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A tensor: where in its storage it begins and how it lies there, in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def in_rows(self) -> bool:
        """Whether its numbers lie row after row, without gaps."""
        wanted, step = [], 1
        for size in reversed(self.shape):
            wanted.append(step)
            step *= size
        return all(size == 1 or a == b for size, a, b in zip(self.shape, self.strides, wanted[::-1], strict=True))


@dataclass(frozen=True, slots=True)
class _Name:
    """Something that the file names, as `collections.OrderedDict`."""

    name: str


class _Other:
    """What a file makes besides tensors, names and numbers: it is remembered that there is something, no more."""

    __slots__ = ()


_OTHER = _Other()


class Bytes(Protocol):
    """Bytes in memory or a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


@dataclass(slots=True)
class Pickle:
    """What a pickle holds. `end`: the byte after it. `storages`: by their keys. `foreign`: see `TensorFile`."""

    root: Any = None
    end: int = 0
    storages: dict[str, Storage] = field(default_factory=dict)
    foreign: dict[str, None] = field(default_factory=dict)


def read_pickle(path: Path, data: Bytes, at: int = 0) -> Pickle:
    """The pickle in `data` at `at`, of the file `path`. Raises ModelLoadError."""
    machine = _Machine(path, data, at)
    try:
        return machine.run()
    except (IndexError, TypeError, ValueError, struct.error) as error:
        raise machine.damaged(str(error) or type(error).__name__) from error


def damaged_torch(path: Path, what: str) -> ModelLoadError:
    """The error for a torch file that contradicts itself."""
    return ModelLoadError(f"{path}: the file is damaged, or only a part of it: {what}; download it again")


def wants_code(path: Path, name: str) -> ModelLoadError:
    """The error for a file that names what is no weight, and that only code would read."""
    return ModelLoadError(
        f"{path}: this file wants to run code ({name:.200}) and not only to hold weights, so it is not read; take the "
        f"model as safetensors, from somebody whom you trust"
    )


class _Machine:
    """One run over a pickle: a stack of values, marks in it, and the values that are named again (the memo)."""

    def __init__(self, path: Path, data: Bytes, at: int) -> None:
        self.path, self.data, self.at, self.protocol = path, data, at, 2
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0
        self.found = Pickle()

    def run(self) -> Pickle:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == b".":
                self.found.root, self.found.end = self.stack.pop(), self.at
                return self.found
            step = _STEPS.get(code)
            if step is None and self.protocol > 3:
                raise ModelLoadError(
                    f"{self.path}: it was written with Python's pickle protocol {self.protocol}, which torch reads "
                    f"only by running what the file says; take the model as safetensors, or from somebody whom you "
                    f"trust torch.load it with weights_only=False, and torch.save it as it does by itself"
                )
            if step is None:
                raise self.damaged(f"the pickle has the instruction {code!r}, which torch.save does not write")
            step(self)
            if len(self.stack) > MAX_STACK or len(self.marked) > 1000:
                raise self.damaged(f"more than {MAX_STACK:,} values wait for their container")
        raise self.damaged(f"its pickle has more than {MAX_STEPS:,} instructions")

    def damaged(self, what: str) -> ModelLoadError:
        return damaged_torch(self.path, f"{what} (before byte {self.at:,} of its pickle)")

    # --- reading -------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.damaged("it ends inside its pickle")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, form: str) -> str:
        """A text with its length before it; of damaged letters something remains."""
        return self.take(self.number(form)).decode("utf-8", "backslashreplace")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME)
        if end == -1:
            raise self.damaged(f"it names something in more than {MAX_NAME} letters")
        return self.take(end + 1 - self.at)[:-1].decode("utf-8", "backslashreplace")

    # --- instructions --------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def top(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError("a value is missing")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def name(self) -> None:
        module, name = self.line(), self.line()
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        known = full in _BUILDERS or full in _HARMLESS or full in _STORAGE_NAMES or _OF_TORCH.fullmatch(full)
        if not known and len(self.found.foreign) < MAX_FOREIGN:
            self.found.foreign[full] = None
        self.push(_Name(full))

    def call(self) -> None:
        function, arguments = self.top(2)
        build = _BUILDERS.get(function.name) if isinstance(function, _Name) else None
        self.push(build(self, arguments) if build is not None and isinstance(arguments, tuple) else _OTHER)

    def begin(self) -> None:
        (self.protocol,) = self.take(1)

    def build(self) -> None:
        self.stack.pop()  # attributes of what is below, as a state dict's `_metadata`
        if isinstance(self.stack[-1], PickledTensor):
            raise self.damaged("it makes another tensor of one, which torch.save does not write")

    def storage(self) -> None:
        identity = self.stack.pop()
        if isinstance(identity, tuple) and identity[:1] == ("module",):  # a class with its source, by old torch
            return self.push(_OTHER)
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise self.damaged("it names a storage in a way that torch does not")
        _, kind, key, _, count = identity[:5]
        dtype = _STORAGE_NAMES.get(kind.name) if isinstance(kind, _Name) else None
        if dtype is None or not isinstance(key, str) or not _natural(count):
            kind = kind.name if isinstance(kind, _Name) else "none that has a name"
            raise self.damaged(f"a storage is of a kind that is not known: {kind}")
        found = self.found.storages.setdefault(key, Storage(key, dtype, count))
        if (found.dtype, found.count) != (dtype, count):
            raise self.damaged(f"the storage {key!r:.100} is said to be two things")
        return self.push(found)

    def set_items(self, items: Sequence[Any]) -> None:
        into = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str) and len(key) > MAX_NAME:
                raise self.damaged(f"a name has {len(key):,} characters, and {MAX_NAME:,} are the most")
            if isinstance(into, dict) and isinstance(key, str | int | float | None):
                into[key] = value  # any other key is of no tensor, and might take ages to hash

    def append(self, items: Sequence[Any]) -> None:
        if isinstance(into := self.stack[-1], list):
            into.extend(items)

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def again(self, number: int) -> None:
        if number not in self.memo:
            raise self.damaged(f"it names the value {number}, which there is not")
        self.push(self.memo[number])


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _dtype(full: str) -> str | None:
    name = full.removeprefix("torch.")
    return name if full.startswith("torch.") and name in WIDTHS else None


_STORAGE_NAMES = {
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": "uint8",
    "torch.storage._UntypedStorage": "uint8",
}

# --- what names make: (machine, arguments) to a value ----------------------------------------------------------------


def _tensor(machine: _Machine, arguments: tuple[Any, ...]) -> PickledTensor:
    storage, offset, shape, strides = arguments[:4]
    given = arguments[6] if len(arguments) > 6 else None  # _rebuild_tensor_v3 says the type
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise machine.damaged("a tensor has no storage, or no shape")
    dtype = (_dtype(given.name) if isinstance(given, _Name) else None) or storage.dtype
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise machine.damaged(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    if not all(map(_natural, (offset, *shape, *strides))) or prod(shape) >= 1 << 62:
        raise machine.damaged("a tensor has sizes that no tensor has")
    last = offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if prod(shape) and last * WIDTHS[dtype] > storage.nbytes:
        raise machine.damaged(
            f"a tensor of the shape {list(shape)} needs {last:,} numbers of the storage {storage.key!r:.100}, which "
            f"has {storage.nbytes // WIDTHS[dtype]:,}"
        )
    return PickledTensor(storage, offset, shape, strides, dtype)


def _ordered(machine: _Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An OrderedDict; Python 2 wrote its items as a list of pairs."""
    given = arguments[0] if arguments and isinstance(arguments[0], list) else []
    machine.copied += len(given)  # the same list may be named again and again
    if machine.copied > MAX_STEPS:
        raise machine.damaged(f"more than {MAX_STEPS:,} items in its dictionaries")
    made: dict[Any, Any] = {}
    machine.push(made)
    for pair in given:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            machine.set_items(pair)
    machine.stack.pop()
    return made


def _of_type(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    """`_rebuild_from_type_v2(function, type, arguments, state)`."""
    build = _BUILDERS.get(arguments[0].name) if isinstance(arguments[0], _Name) else None
    return build(machine, arguments[2]) if build not in (None, _of_type) and isinstance(arguments[2], tuple) else _OTHER


def _sizes(_: _Machine, arguments: tuple[Any, ...]) -> Any:
    given = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ()
    return tuple(given[:MAX_DIMENSIONS])


def _first(_: _Machine, arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


_BUILDERS: dict[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": _sizes,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}

_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": _Machine.begin,
    b"(": _Machine.mark,
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
    b"X": lambda m: m.push(m.text("<I")),
    b"U": lambda m: m.push(m.text("<B")),
    b"T": lambda m: m.push(m.text("<I")),
    b"t": lambda m: m.push(tuple(m.to_mark())),
    b"\x85": lambda m: m.push(m.top(1)),
    b"\x86": lambda m: m.push(m.top(2)),
    b"\x87": lambda m: m.push(m.top(3)),
    b"l": lambda m: m.push(m.to_mark()),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"h": lambda m: m.again(m.number("<B")),
    b"j": lambda m: m.again(m.number("<I")),
    b"c": _Machine.name,
    b"Q": _Machine.storage,
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"b": _Machine.build,
    b"s": lambda m: m.set_items(m.top(2)),
    b"u": lambda m: m.set_items(m.to_mark()),
    b"a": lambda m: m.append(m.top(1)),
    b"e": lambda m: m.append(m.to_mark()),
}
