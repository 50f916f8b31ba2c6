"""PEFT's LoRA adapters as changes of a model's tensors: what is added to them, and what takes their place.

An adapter that can't be merged, or changes nothing, is refused in words. What PEFT makes of a configuration: peft 0.3
to 0.21, tuners/lora. Reads an adapter's numbers when they are asked for; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import StoredTensor, Weights
from chatbridge.model_files.config_values import check_adapter_config
from chatbridge.model_files.description import ModelDescription, disagreement
from chatbridge.model_files.families import EMBEDDINGS, LLAMA_SIZES
from chatbridge.model_files.inspect import inspect_model, refuse_unsound
from chatbridge.model_files.peft_adapters import adapter_file, short_name
from chatbridge.model_files.reading import read_json_object

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Floats

VOCABULARY = (*EMBEDDINGS, "lm_head.weight", "embed_out.weight")
"""Ends of names of the matrices that have a row for each id."""

MAX_RANK = 4096
"""Of an adapter's matrices: hundreds are many, and memory is taken for its square."""

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_DOWN_EMBEDDING, _UP_EMBEDDING = ".lora_embedding_A", ".lora_embedding_B"
_ALIEN = ("lora_", "ia3_", "hada_", "lokr_", "vera_", "oft_", "boft_", "hra_", "original_module")
_BASE_LAYER = ".base_layer"
_PATIENCE = 1.0
"""Seconds for one regular expression of an adapter's, which may be written to take ages."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What is added to a matrix: `scale · up @ down`. `down`: [rank, in]; `up`: [out, rank]. `sideways`: the transpose,
    as embeddings have it, and layers whose weights lie [in, out]."""

    down: StoredTensor
    up: StoredTensor
    scale: float
    sideways: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that it is added to."""
        out, into = self.up.shape[0], self.down.shape[1]
        return (into, out) if self.sideways else (out, into)

    def rows(self, first: int, last: int) -> Floats:
        """Rows of it in float32: `(last - first, …)`. Raises ModelLoadError."""
        if self.sideways:
            product = self.down.floats()[:, first:last].T @ self.up.floats().T
        else:
            product = self.up.floats(first, last) @ self.down.floats()
        return product * np.float32(self.scale)

    def narrow(self) -> tuple[Floats, Floats]:
        """The two matrices that make it, [rank, in] and [out, rank], with the scale. Raises ModelLoadError."""
        down, up = self.down.floats(), self.up.floats() * np.float32(self.scale)
        return (up.T, down.T) if self.sideways else (down, up)

    def norm(self) -> float:
        """The Frobenius norm, told from the small matrices alone. Raises ModelLoadError."""
        down, up = self.down.floats().astype(np.float64), self.up.floats().astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            square = float(((up.T @ up) * (down @ down.T)).sum())
        return abs(self.scale) * (math.sqrt(abs(square)) if math.isfinite(square) else math.inf)


@dataclass(frozen=True, slots=True)
class Adapter:
    """`deltas`, `whole`: by names of the model's tensors. `notes`: what was found that is no fault."""

    path: Path
    file: Path
    about: ModelDescription
    config: Mapping[str, Any]
    deltas: Mapping[str, Delta]
    whole: Mapping[str, StoredTensor]
    notes: Sequence[str]

    @property
    def rows(self) -> int:
        """Ids of the vocabulary that it brings along; 0 for none."""
        return next((tensor.shape[0] for name, tensor in self.whole.items() if name.endswith(VOCABULARY)), 0)

    @property
    def base(self) -> str:
        """Which model it is for, as far as it tells: the one that it names, and whose sizes it has."""
        about = self.about.adapter
        named = about.base if about else ""
        size = LLAMA_SIZES.get((about.layers, about.width)) if about else None
        told = [repr(named) if named else "", f"of the sizes of LLaMA {size}" if size else ""]
        words = ", ".join(word for word in told if word)
        return f"the model that it was trained on{f' ({words})' if words else ''}"


def read_adapter(path: Path, files: ExitStack) -> Adapter:
    """The adapter at a path; its file is open as long as `files` is. Raises ModelLoadError for one that can't be
    merged: empty, partial, or of another kind than LoRA."""
    about = inspect_model(path)
    if about.layout != "peft":
        what = about.family or about.format or "a model"
        raise ModelLoadError(f"{path}: this is {what} and no PEFT adapter; give the folder with adapter_config.json")
    refuse_unsound(about)
    folder = about.path
    config = read_json_object(folder / "adapter_config.json")
    _check_config(folder, config)
    file = adapter_file(folder)
    assert file is not None  # or it would not be sound
    deltas, whole = _parted(folder, config, files.enter_context(Weights.of_files([file])))
    notes = [problem.message for problem in about.problems]
    return Adapter(folder, file, about, config, deltas, whole, notes)


def turned_sideways(delta: Delta) -> Delta:
    """The same for a layer whose weights lie [in, out], as GPT-2's do."""
    return Delta(delta.down, delta.up, delta.scale, sideways=not delta.sideways)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    file = folder / "adapter_config.json"
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        raise ModelLoadError(f"{folder}: this is an adapter of the type {kind:.50}, and only LoRA is merged here")
    check_adapter_config(file, config)
    for name in ("use_dora", "lora_bias", "target_parameters", "layer_replication", "megatron_config"):
        if config.get(name):
            raise ModelLoadError(f"{file}: it sets {name}, which is not merged here; merge it with PEFT")


def _parted(
    folder: Path, config: Mapping[str, Any], weights: Weights
) -> tuple[dict[str, Delta], dict[str, StoredTensor]]:
    deltas: dict[str, Delta] = {}
    whole: dict[str, StoredTensor] = {}
    named = {short_name(name): tensor for name, tensor in weights.items()}
    for name, tensor in named.items():
        if name.endswith((_DOWN, _DOWN_EMBEDDING)):
            sideways = name.endswith(_DOWN_EMBEDDING)
            layer = name.removesuffix(_DOWN_EMBEDDING if sideways else _DOWN)
            up = named.get(layer + (_UP_EMBEDDING if sideways else _UP))
            if up is None or len(up.shape) != 2 or len(tensor.shape) != 2 or up.shape[1] != tensor.shape[0]:
                raise ModelLoadError(f"{folder}: {layer:.200} has no pair of matrices that go together")
            if tensor.shape[0] > MAX_RANK:
                raise ModelLoadError(
                    f"{folder}: {layer:.200} has the rank {tensor.shape[0]:,}; {MAX_RANK:,} is the most"
                )
            scale = _scale(folder, config, layer, tensor.shape[0])
            deltas[f"{layer.removesuffix(_BASE_LAYER)}.weight"] = Delta(tensor, up, scale, sideways)
        elif not name.endswith((_UP, _UP_EMBEDDING)):
            if any(part in name for part in _ALIEN):
                raise ModelLoadError(f"{folder}: {name:.200} is no part of an adapter that is merged here")
            whole[name.replace(_BASE_LAYER, "")] = tensor
    return deltas, whole


def _scale(folder: Path, config: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) (rsLoRA)."""
    if rank < 1:
        raise ModelLoadError(f"{folder}: {layer:.200} has the rank 0; download the adapter again")
    said = _own(folder, config, "rank_pattern", layer, config["r"])
    if said != rank:
        told = disagreement(f"rank of {layer:.200}", ("adapter_config.json", said), ("the tensors", rank))
        raise ModelLoadError(f"{folder}: {told}; take the file that was saved with the adapter")
    alpha = _own(folder, config, "alpha_pattern", layer, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _own(folder: Path, config: Mapping[str, Any], patterns: str, layer: str, usual: Any) -> Any:
    """What a layer has, by the first key that names it; PEFT's rule is in utils/other.py, `get_pattern_key`."""
    for key, value in (config.get(patterns) or {}).items():
        try:
            if regex.match(rf"(?:.*\.)?({key})$", layer, timeout=_PATIENCE) is not None:
                return value
        except (regex.error, TimeoutError) as error:
            why = str(error) or "it takes too long"
            raise ModelLoadError(
                f"{folder / 'adapter_config.json'}: {patterns}: {key!r:.100} can't be used: {why:.200}; write the "
                f"layer's name in its place"
            ) from error
    return usual


def norm_of(adapter: Adapter) -> float:
    """How large all is that it adds (Frobenius norm); its numbers are read, once it is known that they fit a model.

    Raises ModelLoadError for numbers that are none, and for an adapter that changes nothing.
    """
    norms = {name: delta.norm() for name, delta in adapter.deltas.items()}
    broken = [name for name, norm in norms.items() if norm == math.inf]
    for name, tensor in adapter.whole.items() if not broken else ():
        if not all(np.isfinite(tensor.floats(first, last)).all() for first, last in tensor.slices()):
            broken.append(name)
            break
    if broken:
        raise ModelLoadError(
            f"{adapter.path}: {broken[0]:.200} holds numbers that are none (NaN or infinite); train it again, or take "
            f"another copy"
        )
    if not any(norms.values()) and not adapter.whole:
        raise ModelLoadError(
            f"{adapter.path}: the adapter changes nothing: all its matrices (lora_B) are zero, or alpha is 0; it was "
            f"saved before it was trained: leave it out, or give the right one"
        )
    return math.hypot(*norms.values())
