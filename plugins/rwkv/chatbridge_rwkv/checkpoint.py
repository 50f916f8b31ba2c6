"""What an RWKV file is, told from its names and shapes alone: version, sizes, vocabulary, conversion, fingerprint.

Reads no weights but a few bytes of each. Knows BlinkDL's keys and those that the rwkv package writes; computes nothing.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError, TensorInfo, read_tensors

_SAMPLE = 256
"""Bytes of each tensor that count for the fingerprint, besides its size and checksum."""

_NAMES = {4.0: "RWKV-4", 5.0: "RWKV-5", 5.1: "RWKV-5.1", 5.2: "RWKV-5.2", 6.0: "RWKV-6", 7.0: "RWKV-7"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An RWKV model in a file.

    `version` is the package's own number; `head_size` is 0 where the state has no heads (RWKV-4). `converted`: the
    strategy that the package converted the file for. `deep_embedding`: it has tables that the package reads only when
    it is told to. `fingerprint` stands for the contents.
    """

    path: Path
    version: float
    layers: int
    width: int
    attention_width: int
    heads: int
    head_size: int
    vocab_size: int
    tensors: Mapping[str, TensorInfo]
    converted: str | None
    deep_embedding: bool
    fingerprint: str

    @property
    def name(self) -> str:
        return _NAMES[self.version]

    @property
    def parameters(self) -> int:
        return sum(tensor.size for name, tensor in self.tensors.items() if not name.endswith(_SCALES))


_SCALES = ("_mx", "_my", "_rx", "_ry")


def read(path: Path) -> Checkpoint:
    """Look at a file. Raises ModelLoadError for what is no RWKV model."""
    path = _there(path)
    found = read_tensors(path, mapped=True)
    if found.format == "safetensors":
        raise ModelLoadError(f"{path}: this is a safetensors file; take BlinkDL's .pth, or write one by torch.save")
    tensors = found.tensors
    _refuse_others(path, tensors)
    converted = found.values.get("_strategy")
    return of(path, tensors, converted if isinstance(converted, str) else None, _fingerprint(path))


def of(path: Path, tensors: Mapping[str, TensorInfo], converted: str | None, fingerprint: str) -> Checkpoint:
    """What tensors of these names and shapes are; `converted` and `fingerprint` as in `Checkpoint`."""
    version = _version(tensors)
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    vocab_size, width = tensors["emb.weight"].shape
    key = tensors["blocks.0.att.key.weight"].shape
    attention = key[1] if converted is not None else key[0]
    heads = _heads(version, tensors)
    return Checkpoint(
        path=path,
        version=version,
        layers=layers,
        width=width,
        attention_width=attention,
        heads=heads,
        head_size=attention // heads if heads else 0,
        vocab_size=vocab_size,
        tensors=tensors,
        converted=converted,
        deep_embedding="blocks.0.ffn.s_emb.weight" in tensors,
        fingerprint=fingerprint,
    )


def trained_context(path: Path) -> int | None:
    """How many tokens the model was trained to look back on, as BlinkDL writes it into names: `…-ctx4096.pth`."""
    found = re.search(r"ctx-?(\d{3,7})", path.stem)
    return int(found[1]) if found else None


def load_entries(path: Path, device: str) -> dict[str, Any]:
    """Everything in a file of torch's, with tensors on `device` ("meta" reads no weights). Raises ModelLoadError."""
    import torch

    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=device == "meta")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelLoadError(f"{path}: the file is damaged, or holds more than weights: {why}") from None
    return found if isinstance(found, dict) else {"": found}


def _there(path: Path) -> Path:
    """The package leaves `.pth` off for some versions, so a name without it is understood."""
    if not path.exists() and path.with_name(f"{path.name}.pth").exists():
        path = path.with_name(f"{path.name}.pth")
    if path.is_dir():
        raise ModelLoadError(f"{path} is a folder; name the .pth file in it")
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such file; take one of https://huggingface.co/BlinkDL")
    return path


def _refuse_others(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    if {"emb.weight", "blocks.0.att.key.weight", "head.weight"} <= tensors.keys():
        shape = tensors["emb.weight"].shape
        if len(shape) == 2:
            return
        raise ModelLoadError(f"{path}: emb.weight has the shape {list(shape)}, and should have two sizes")
    if any(name.endswith("att.time_state") for name in tensors):
        raise ModelLoadError(
            f"{path}: this is an initial state and no model; give it under adapters: NAME: init_state:"
        )
    if any("lora_" in name for name in tensors):
        raise ModelLoadError(f"{path}: this is a LoRA adapter and no model; merge it into its model first")
    if any(name.startswith("rwkv.blocks.") for name in tensors):
        raise ModelLoadError(
            f"{path}: this is Hugging Face's form of an RWKV model; take BlinkDL's .pth of the same model"
        )
    raise ModelLoadError(
        f"{path}: this is no RWKV model: it has no {'emb.weight' if 'emb.weight' not in tensors else 'blocks'}"
    )


def _version(tensors: Mapping[str, TensorInfo]) -> float:
    """As the package tells them apart."""
    if "blocks.0.att.r_k" in tensors:
        return 7.0
    if any("time_maa" in name for name in tensors):
        return 6.0
    if not any("ln_x" in name for name in tensors):
        return 4.0
    decay = tensors["blocks.0.att.time_decay"].shape
    if len(decay) > 1 and decay[1] > 1:
        return 5.2
    return 5.1 if any("gate.weight" in name for name in tensors) else 5.0


def _heads(version: float, tensors: Mapping[str, TensorInfo]) -> int:
    if version == 4:
        return 0
    if version == 7:
        return tensors["blocks.0.att.r_k"].shape[0]
    if version == 6:
        first = tensors.get("blocks.0.att.time_faaaa") or tensors["blocks.0.att.time_first"]
        return first.shape[0]
    return tensors["blocks.0.att.time_decay"].shape[0]


def _fingerprint(path: Path) -> str:
    """A hash of names, sizes, checksums and a few bytes of everything in the file; its name does not count."""
    digest = blake2b(digest_size=16)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            digest.update(f"{name} {entry.file_size} {entry.CRC}\n".encode())
            with archive.open(entry) as file:
                digest.update(file.read(-1 if name == "data.pkl" else _SAMPLE))
    return digest.hexdigest()
