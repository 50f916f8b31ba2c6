"""The tensors of an adapter's files, and hashes of a model's. No code runs.

Knows safetensors and torch's files; knows no architecture.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from chatbridge import ModelLoadError, TensorInfo, read_tensors

_SAMPLES, _SAMPLE = 64, 4096
"""Parts of each file that count for the fingerprint, and bytes of each, besides the file's size and header."""


def tensors(path: Path) -> dict[str, Any]:
    """The tensors themselves, in main memory. Raises ModelLoadError."""
    if read_tensors(path).format != "safetensors":
        return _torch(path)
    try:
        found: dict[str, Any] = load_file(path)
        return found
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"{path}: the file is damaged ({error}); download it again") from error


def fingerprint(files: Sequence[Path]) -> str:
    """A hash of sizes, headers and samples of the files; their names don't count."""
    digest = blake2b(digest_size=16)
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        if path.suffix == ".safetensors":
            digest.update(repr(read_tensors(path).tensors).encode())
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    digest.update(f"{entry.filename.partition('/')[2]} {entry.file_size} {entry.CRC}\n".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(size * number // _SAMPLES)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def rows(found: Mapping[str, TensorInfo]) -> int | None:
    """Ids that the embedding has a row for, told from the names that models give it; None where there is no such."""
    for name, tensor in found.items():
        if name.endswith(("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight")):
            return tensor.shape[0]
    return None


def _torch(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickles' versions; what can't be read is an error below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:  # the header is sound, so this is of weights, or of what torch reads otherwise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelLoadError(f"{path}: the file is damaged, or only a part of it: {why}; download it again") from None
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: this holds {type(found).__name__}, and no tensors by name")
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}


_DAMAGED = (
    pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, IndexError,
)  # fmt: skip
