"""A model's tensors with LoRA adapters in them, computed slice by slice in float32 when they are read.

An adapter is held against the model before: names, shapes, vocabulary. Knows no files and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import from_float32
from chatbridge.model_files.families import EMBEDDINGS
from chatbridge.model_tools.matrices import Matrix, floats
from chatbridge.model_tools.merging.lora import VOCABULARY, Adapter, Delta, turned_sideways
from chatbridge.model_tools.merging.model_folders import OpenModel

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Array, Floats

SIDEWAYS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Models whose layers lie [in, out]; PEFT goes by the layer's class, and so by this, whatever `fan_in_fan_out` says."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(slots=True)
class _Change:
    """A tensor while adapters change it."""

    source: Matrix
    dtype: str
    deltas: list[Delta] = field(default_factory=list)


class Merged:
    """A tensor with what adapters add to it; in the type of the model's own."""

    def __init__(self, name: str, change: _Change) -> None:
        self._name, self._source, self._deltas = name, change.source, change.deltas
        self.shape, self.dtype = change.source.shape, change.dtype

    def read(self, first: int, last: int) -> Array:
        """Raises ModelLoadError where the sum is no number that the type can hold."""
        if not self._deltas and self._source.dtype == self.dtype:
            return self._source.read(first, last)
        values = floats(self._source, first, last)
        if self._deltas:
            values = values + self._deltas[0].rows(first, last)
        for delta in self._deltas[1:]:
            values += delta.rows(first, last)
        made = from_float32(values, self.dtype)
        numbers = made.view(np.uint16) & 0x7F80 != 0x7F80 if self.dtype == "bfloat16" else np.isfinite(made)
        if not numbers.all():
            raise ModelLoadError(
                f"{self._name}: merged, it holds numbers that are too large for {self.dtype}, or none; the adapter is "
                f"damaged, or for another model"
            )
        return made

    def parted(self) -> tuple[Matrix, list[tuple[Floats, Floats]]]:
        """See `WithNarrow`."""
        return self._source, [delta.narrow() for delta in self._deltas]


def adapted(model: OpenModel, adapters: Sequence[Adapter], dtype: str | None = None) -> tuple[dict[str, Merged], int]:
    """The model's tensors with all adapters in them, to be computed when they are read; and the vocabulary's rows.

    Raises ModelLoadError for an adapter of another model.
    """
    changes = {
        name: _Change(matrix, dtype if dtype and matrix.dtype in _FLOATS else matrix.dtype)
        for name, matrix in model.tensors.items()
    }
    for adapter in adapters:
        _check_vocabulary(model, adapter, changes)
        for name, tensor in adapter.whole.items():
            found = _found(model, adapter, name, changes, or_head=True)
            kept = changes[found].dtype if found in changes else dtype or tensor.dtype
            changes[found] = _Change(tensor, _float(adapter.path, found, kept))
        for name, delta in adapter.deltas.items():
            found = _found(model, adapter, name, changes)
            change, given = changes[found], delta
            if model.about.architecture in SIDEWAYS:
                given = turned_sideways(delta)
            if change.source.shape != given.shape:
                raise ModelLoadError(
                    f"{adapter.path}: the adapter is for another model: its {name} has the shape {list(given.shape)}, "
                    f"and that of {model.folder} {list(change.source.shape)}; take {adapter.base}"
                )
            _float(model.folder, found, change.dtype)
            change.deltas.append(given)
    tensors = {name: Merged(name, change) for name, change in changes.items()}
    return tensors, _rows(changes)


def _found(
    model: OpenModel, adapter: Adapter, name: str, changes: Mapping[str, _Change], *, or_head: bool = False
) -> str:
    """What the model calls a tensor that an adapter changes: some models are published without the first word."""
    for found in (name, name.partition(".")[2]):
        if found in changes:
            return found
    if or_head and name == "lm_head.weight":  # the embedding is the head of the model, and no longer
        return name
    sizes = f"{model.about.family or 'a model'}, {model.about.layers} layers with a width of {model.about.width:,}"
    raise ModelLoadError(
        f"{adapter.path}: the adapter changes {name:.200}, which {model.folder} ({sizes}) does not have; take "
        f"{adapter.base}"
    )


def _float(path: Path, name: str, dtype: str) -> str:
    if dtype not in _FLOATS:
        raise ModelLoadError(
            f"{path}: {name:.200} has numbers of {dtype}: it is quantised; take the model in float16, merge, and "
            f"quantise what comes out"
        )
    return dtype


def _rows(changes: Mapping[str, _Change]) -> int:
    return next((one.source.shape[0] for name, one in changes.items() if name.endswith(EMBEDDINGS)), 0)


def _check_vocabulary(model: OpenModel, adapter: Adapter, changes: Mapping[str, _Change]) -> None:
    """That an adapter's vocabulary goes with the model's, and with the tokenizer beside it."""
    rows, present = adapter.rows, _rows(changes)
    for name, tensor in adapter.whole.items():
        there = changes.get(name) or changes.get(name.partition(".")[2])
        if there is None:
            continue
        ours, theirs = there.source.shape, tensor.shape
        if len(ours) != len(theirs) or ours[1:] != theirs[1:] or (not name.endswith(VOCABULARY) and ours != theirs):
            raise ModelLoadError(
                f"{adapter.path}: the adapter is for another model: its {name} has the shape {list(theirs)}, and that "
                f"of {model.folder} {list(ours)}; take {adapter.base}"
            )
    if not rows:
        return
    if rows < present:
        raise ModelLoadError(
            f"{adapter.path}: this adapter is for a vocabulary of {rows:,} ids, and the model has {present:,} by then: "
            f"it is for another model, or its work is in the model already"
        )
    tokens = adapter.about.tokens
    if tokens != rows != present:  # a vocabulary that was there may be larger than its tokenizer
        what = f"its tokenizer has {tokens:,} ids" if tokens else "there is no tokenizer beside it"
        raise ModelLoadError(
            f"{adapter.path}: its embedding has {rows:,} rows, and {what}; each adapter has a tokenizer of its own: "
            f"take the one that was published with it"
        )
    brought = {name.endswith(EMBEDDINGS) for name in adapter.whole if name.endswith(VOCABULARY)}
    tied = not any(name.endswith(VOCABULARY) and not name.endswith(EMBEDDINGS) for name in changes)
    if rows > present and len(brought) < 2 and not (tied and True in brought):
        raise ModelLoadError(
            f"{adapter.path}: its vocabulary has {rows:,} ids, the model's {present:,}, and it brings only one of the "
            f"two matrices that would have to grow (embed_tokens, lm_head)"
        )
