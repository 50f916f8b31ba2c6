"""Reads importance matrices as llama-imatrix writes them, GGUF or the older .dat, and holds them against a model.

Runs nothing; llama.cpp is given the numbers (`llama_model_imatrix_data`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import GgufHeader, GgufStrings, GgufTensor, ModelLoadError

UNUSED_BY = frozenset({"F32", "F16", "BF16", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"})
"""Types that are computed without one, whatever is given (ggml-quants.c)."""

NEEDED_BY = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
"""Types that become garbage without one, but for both ends (`tensor_requires_imatrix` in llama-quant.cpp)."""

_ENDS = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_NAME = 256
_Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """`values`: for each tensor how much each column weighs, experts one after another; `chunks`: read for it."""

    path: Path
    values: Mapping[str, NDArray[np.float32]]
    dataset: str
    chunks: int


def read_imatrix(path: Path) -> ImportanceMatrix:
    """The matrix in a file. Raises ModelLoadError for another file, and an empty, damaged or shortened one."""
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
            file.seek(0)
            with np.errstate(all="ignore"):  # what is not finite is found below
                found = _read_gguf(path) if is_gguf else _read_dat(path, file)
    except OSError as error:
        why = "this is a folder" if path.is_dir() else f"it can't be read: {error.strerror or error}"
        raise ModelLoadError(f"{path}: {why}; give a file that llama-imatrix made") from error
    if not found.values:
        raise ModelLoadError(f"{path}: the importance matrix is empty; make it again with llama-imatrix")
    for name, values in found.values.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise _damaged(path, f"the weights of {name} hold what is no finite positive number")
    return found


def check_imatrix(matrix: ImportanceMatrix, tensors: Mapping[str, GgufTensor], types: Mapping[str, str]) -> list[str]:
    """The tensors that it has no weights for and that would use them. Raises ModelLoadError for another model's matrix.

    `tensors`: the model's; `types`: what each becomes, in capitals, of those that change.
    """
    wanted = [name for name, kind in types.items() if kind not in UNUSED_BY and name not in _ENDS]
    if not wanted:
        kinds = ", ".join(sorted(set(types.values())))
        raise ModelLoadError(
            f"{matrix.path}: no tensor would use an importance matrix: all become {kinds}; leave it out"
        )
    for name, values in matrix.values.items():
        tensor = tensors.get(name)
        if tensor is None or name == "token_embd.weight":
            continue
        columns = tensor.shape[-1] * (tensor.shape[-3] if len(tensor.shape) > 2 else 1)
        if len(values) != columns:
            raise ModelLoadError(
                f"{matrix.path}: this importance matrix is of another model: it weighs {len(values):,} columns of "
                f"{name}, which has {columns:,} here"
            )
    lacking = [name for name in wanted if name not in matrix.values]
    if len(lacking) == len(wanted):
        raise ModelLoadError(
            f"{matrix.path}: this importance matrix is of another model: it has {next(iter(matrix.values))!r}, and "
            f"none of this model's tensors, as {wanted[0]!r}"
        )
    for name in lacking:
        if types[name] in NEEDED_BY:
            raise ModelLoadError(
                f"{matrix.path}: the importance matrix lacks {name}, which would become {types[name]}, and that is "
                f"garbage without it; make the matrix again from a longer text, or take a larger type"
            )
    return lacking


def _read_gguf(path: Path) -> ImportanceMatrix:
    header = GgufHeader(path, reader="an importance matrix")
    metadata = header.metadata
    lacking = [key for key in ("datasets", "chunk_count", "chunk_size") if f"imatrix.{key}" not in metadata]
    if lacking:
        raise ModelLoadError(
            f"{path}: this GGUF file is no importance matrix: it lacks imatrix.{lacking[0]}; give a file that "
            f"llama-imatrix made"
        )
    values: _Arrays = {}
    for name, sums in header.tensors.items():
        if not name.endswith(_SUMS):
            continue
        stem = name.removesuffix(_SUMS)
        counts = header.tensors.get(f"{stem}{_COUNTS}")
        if counts is None or (sums.kind, counts.kind) != ("F32", "F32") or sums.size % counts.size:
            raise _damaged(path, f"{stem} has sums without fitting counts")
        # Of experts that were never chosen nothing is known: each of their columns weighs the same.
        each = _floats(path, counts).round()[:, None]
        seen = _floats(path, sums).reshape(counts.size, -1)
        values[stem] = np.where(each > 0, seen / np.maximum(each, 1), 1).astype(np.float32).ravel()
    datasets = metadata["imatrix.datasets"]
    names = list(datasets) if isinstance(datasets, GgufStrings) else []
    return ImportanceMatrix(path, values, names[0].decode("utf-8", "replace") if names else "", _int(metadata))


def _int(metadata: Mapping[str, Any]) -> int:
    chunks = metadata["imatrix.chunk_count"]
    return chunks if isinstance(chunks, int) else 0


def _floats(path: Path, tensor: GgufTensor) -> NDArray[np.float32]:
    return np.fromfile(path, "<f4", tensor.size, offset=tensor.start)


def _read_dat(path: Path, file: IO[bytes]) -> ImportanceMatrix:
    """The form before 2025: number of entries, then of each its name, calls and sums; then chunks and dataset."""
    left = os.fstat(file.fileno()).st_size

    def take(size: int) -> bytes:
        nonlocal left
        if not 0 <= size <= left:
            raise ModelLoadError(
                f"{path}: this is no importance matrix of llama.cpp's, or it is cut short; give a file that "
                f"llama-imatrix made"
            )
        left -= size
        return file.read(size)

    def number() -> int:
        found: int = struct.unpack("<i", take(4))[0]
        return found

    def entries() -> Iterator[tuple[str, NDArray[np.float32]]]:
        for _ in range(number()):
            length = number()
            name = take(length if length <= _MAX_NAME else -1).decode("utf-8", "replace")
            calls = number()
            sums = np.frombuffer(take(4 * number()), "<f4")
            yield name, (sums / max(calls, 1)).astype(np.float32)

    values = dict(entries())
    chunks = number() if left else 0
    dataset = take(number()).decode("utf-8", "replace") if left else ""
    return ImportanceMatrix(path, values, dataset, chunks)


def _damaged(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(f"{path}: the importance matrix is damaged: {what}; make it again with llama-imatrix")
