"""A published model's tensors by the names of its table, tensor-parallel parts joined as they are read.

Rows are read slice by slice, and never more than was asked for. Knows forms by `tables.py`; changes no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import SLICE, StoredTensor, Weights, as_float32
from chatbridge.model_files.description import ModelDescription
from chatbridge.model_files.reading import files_in, weight_files
from chatbridge.model_tools.matrices import Joined, Matrix
from chatbridge.model_tools.tables import Axis, Form

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Array, Floats


class JoinedTensor:
    """One tensor of a model, of which each part has some rows or columns, or all. Raises ModelLoadError where parts
    don't fit together."""

    def __init__(self, name: str, parts: Sequence[StoredTensor], axis: Axis) -> None:
        self.name, self._parts = name, parts if axis != "whole" else parts[:1]
        shapes = [part.shape for part in self._parts]
        self.dtype = parts[0].dtype
        along = 0 if axis == "rows" else 1
        self.shape = shapes[0]
        if any(part.dtype != self.dtype for part in parts):
            raise self._unlike("types", [part.dtype for part in parts])
        if axis == "whole":
            if any(part.shape != self.shape for part in parts):
                raise self._unlike("shapes", [list(part.shape) for part in parts])
            self._check_copies(parts)
        elif any(len(shape) != 2 or shape[1 - along] != shapes[0][1 - along] for shape in shapes if len(shapes) > 1):
            raise self._unlike("shapes", [list(shape) for shape in shapes])
        self._whole: Matrix = Joined(self._parts, along) if len(shapes) > 1 else parts[0]
        self.shape = self._whole.shape
        self.path = parts[0].path

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    def read(self, first: int = 0, last: int | None = None) -> Array:
        """The rows from `first` to before `last`, as they are stored; see `StoredTensor.read`."""
        return self._whole.read(first, self.rows if last is None else last)

    def floats(self, first: int = 0, last: int | None = None) -> Floats:
        """The same in float32."""
        return as_float32(self.read(first, last), self.dtype, f"{self.path}: {self.name:.200}")

    def slices(self, size: int = SLICE) -> Iterator[tuple[int, int]]:
        """From which row to which it is read, so that a slice has about `size` bytes as it is stored."""
        if any(part.info.strides for part in self._parts):
            size = 1 << 62  # what does not lie row after row is read as a whole each time
        each = max(1, prod(self.shape[1:]) * self._parts[0].info.width)
        step = max(1, size // each)
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)

    def _check_copies(self, parts: Sequence[StoredTensor]) -> None:
        """Norms are the same in all parts of one model; as numbers of 16 or 32 bits, even where they are no number."""
        for part in parts[1:]:
            if part.nbytes < SLICE and part.read().tobytes() != parts[0].read().tobytes():
                raise ModelLoadError(
                    f"{part.path}: {self.name:.200} is another one than in {parts[0].path.name}, and should be the "
                    f"same; these are parts of two models: download all of them again, from one place"
                )

    def _unlike(self, what: str, found: Sequence[object]) -> ModelLoadError:
        several = " and ".join(map(str, dict.fromkeys(map(str, found))))
        return ModelLoadError(
            f"{self._parts[0].path.parent}: {self.name:.200} has the {what} {several} in its parts, which don't fit "
            f"together; download all of them again, from one place"
        )


class Checkpoint(Mapping[str, JoinedTensor]):
    """The tensors of a model by the names of its table; to be used in a `with`, which closes its files.

    `files`: of its weights. `layers`: how many it has. `width`: numbers of each channel; 0 where it has no such norm.
    """

    def __init__(self, source: ModelDescription, form: Form) -> None:
        self.files = files_of(source)
        parts = [[file] for file in self.files] if form.layout == "meta" else [self.files]
        self._open = ExitStack()
        self._parts: list[dict[str, StoredTensor]] = []
        try:
            for files in parts:
                weights = self._open.enter_context(Weights.of_files(files))
                self._parts.append({name.removeprefix(form.prefix): tensor for name, tensor in weights.items()})
        except BaseException:
            self._open.close()
            raise
        first = self._parts[0]
        layer = re.compile(re.escape(form.layer).replace(r"\{\}", r"(\d{1,6})"))
        numbers = {int(found[1]) for name in first if (found := layer.match(name))}
        self.layers = 1 + max(numbers, default=-1)
        if self.layers > len(numbers):
            self._open.close()
            lost = min(set(range(len(numbers) + 1)) - numbers)
            raise ModelLoadError(
                f"{source.path}: layer {lost:,} is not there, and layer {self.layers - 1:,} is; download all files of "
                f"the model again, from one place"
            )
        norm = first.get(form.width)
        self.width = norm.shape[0] if norm is not None and len(norm.shape) == 1 else 0
        self._axes: dict[str, Axis] = {}
        for name, entry in form.top.items():
            self._axes[name] = self._axis(name, entry.axis)
        for name, entry in form.block.items():
            self._axes[f"{form.layer}{name}"] = entry.axis
        self._numbered = re.compile(rf"(?<={re.escape(form.layer.split('{')[0])})\d+")

    def _axis(self, name: str, axis: Axis) -> Axis:
        if axis != "by width":
            return axis
        tensor = self._parts[0].get(name)
        return "rows" if tensor is not None and tensor.shape[1:] == (self.width,) else "columns"

    def __getitem__(self, name: str) -> JoinedTensor:
        """A tensor of all parts. Raises KeyError where no part has it, ModelLoadError where only some do."""
        found = [part[name] for part in self._parts if name in part]
        if not found:
            raise KeyError(name)
        if len(found) < len(self._parts):
            lacks = next(file.name for file, part in zip(self.files, self._parts, strict=True) if name not in part)
            raise ModelLoadError(f"{found[0].path}: {name:.200} is in it, and not in {lacks}; download all parts again")
        axis = self._axes.get(self._numbered.sub("{}", name, count=1), "whole")
        return JoinedTensor(name, found, axis)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for part in self._parts for name in part))

    def __len__(self) -> int:
        return len({name for part in self._parts for name in part})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()


def files_of(source: ModelDescription) -> list[Path]:
    """A model's files of weights, of each form that is converted here. Raises ModelLoadError where there are none."""
    if source.layout == "meta":
        found = [file for file in files_in(source.path) if re.fullmatch(r"consolidated\.\d{2}\.pth", file.name)]
    else:
        found = weight_files(source.path)
    if not found:
        raise ModelLoadError(f"{source.path}: there are no weights here; download them into this folder")
    return found
