"""Writes the file that the rwkv package calls converted: a model prepared for one strategy, which loads as it lies.

One tensor at a time, and gone on with where a killed run ended. Knows files; leaves what is made of each tensor to
`preparing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatbridge import (
    Conversion,
    ModelLoadError,
    NewTensor,
    StoredTensor,
    TorchFile,
    Weights,
    WorkProgress,
    check_space,
    hashed,
    write_tensors,
)
from chatbridge_rwkv import memory
from chatbridge_rwkv.checkpoint import Checkpoint, read
from chatbridge_rwkv.preparing import EMBEDDING, FIRST_NORM, VERSION, Preparation, rescale_layer
from chatbridge_rwkv.strategy import StrategyError, normal, parse


def check(work: Conversion) -> None:
    """Raises ModelLoadError for what can't be converted, or has no room."""
    checkpoint, strategy = _asked(work)
    check_space(work.output, new_size(checkpoint, strategy))


def convert(work: Conversion) -> None:
    """Write the file, and a report beside it. Raises ModelLoadError."""
    checkpoint, strategy = _asked(work)
    work.report.sources.extend(hashed([checkpoint.path], work.progress))
    digest = work.report.sources[-1].sha256
    total = write(checkpoint, strategy, work.output, digest, work.progress, work.report.check_sources)
    work.report.step(
        "prepare", strategy=strategy, rescale_layer=rescale_layer(strategy), model=checkpoint.name,
        layers=checkpoint.layers, nbytes=total,
    )  # fmt: skip
    work.report.write(work.output, ("torch", "numpy", "rwkv"))


def write(
    checkpoint: Checkpoint,
    strategy: str,
    path: Path,
    digest: str,
    progress: WorkProgress,
    last: Callable[[], None] | None = None,
) -> int:
    """Write a model prepared for a strategy, in the package's own spelling. `digest`: of the model's file.
    `last`: called before the file gets its name.

    Returns the bytes of its tensors. Raises ModelLoadError.
    """
    with Weights.of_files([checkpoint.path]) as weights:
        tensors = _New(weights, _preparation(checkpoint, strategy)).tensors()
        total = sum(tensor.nbytes for tensor in tensors)
        progress.begin("converting", total)
        values: dict[str, str | int] = {
            "_strategy": strategy,
            "_rescale_layer": rescale_layer(strategy),
            "_version": VERSION,
        }
        key = repr((digest, values))
        write_tensors(path, TorchFile(tensors, values=values), tensors, key, progress, last)
    return total


def new_size(checkpoint: Checkpoint, strategy: str) -> int:
    """Bytes of all tensors once they are prepared."""
    with Weights.of_files([checkpoint.path]) as weights:
        return sum(tensor.nbytes for tensor in _New(weights, _preparation(checkpoint, strategy)).tensors())


def _asked(work: Conversion) -> tuple[Checkpoint, str]:
    checkpoint = read(work.source.path)
    if checkpoint.version == 7:
        raise ModelLoadError(
            f"{checkpoint.path}: this is RWKV-7, which the package maps into memory as it is: it has no converted form"
        )
    if checkpoint.converted is not None:
        raise ModelLoadError(
            f"{checkpoint.path}: this file was converted already, for the strategy {checkpoint.converted!r}; take the "
            "file that it was made from"
        )
    try:
        strategy = normal(parse(work.target))
        memory.slots_for(checkpoint, strategy)
    except StrategyError as error:
        raise ModelLoadError(f"--to: {error}") from error
    if work.output.suffix != ".pth":
        raise ModelLoadError(f"{work.output}: the package wants a name that ends in .pth; write {work.output.name}.pth")
    return checkpoint, strategy


def _preparation(checkpoint: Checkpoint, strategy: str) -> Preparation:
    exponents = any(".time_faaaa" in name for name in checkpoint.tensors)
    slots = memory.slots_for(checkpoint, strategy)
    return Preparation(checkpoint.version, checkpoint.heads, slots, rescale_layer(strategy), exponents)


@dataclass(slots=True)
class _New:
    """The tensors of the new file. Holds what one of the old ones became until all of that is written."""

    weights: Weights
    preparation: Preparation
    _made: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> Sequence[NewTensor]:
        found = []
        for name, stored in self.weights.items():
            for form in self.preparation.forms(name, stored.shape) if name not in FIRST_NORM else ():
                nbytes = prod(form.shape) * getattr(torch, form.dtype).itemsize
                make = partial(self._bytes, name, form.name)
                found.append(NewTensor(form.name, form.shape, form.dtype, nbytes, make, form.strides))
        return found

    def _bytes(self, name: str, own: str) -> Iterator[memoryview]:
        """The numbers of a new tensor in the order in which they lie."""
        if own not in self._made:
            self._made.clear()  # before the next is read; a run that goes on has made more than it needs
            self._made = self._prepared(name)
        tensor = self._made.pop(own)
        flat = tensor.as_strided((tensor.numel(),), (1,))
        raw: memoryview = flat.view(torch.uint8).numpy().data
        yield raw

    def _prepared(self, name: str) -> dict[str, Any]:
        norm = [_numbers_of(self.weights[other]) for other in FIRST_NORM] if name == EMBEDDING else []
        return self.preparation.prepared(name, _numbers_of(self.weights[name]), norm)


def _numbers_of(stored: StoredTensor) -> Any:
    array = stored.read()
    if stored.dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
