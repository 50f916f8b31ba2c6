"""LoRA adapters and control vectors: lays them over a context's model, and sees that each changes what it says.

Knows their files and llama.cpp's calls for them; knows no conversation. A context has one overlay at a time, so
conversations with different adapters are computed one overlay after another.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import GgufHeader, ModelLoadError
from chatbridge_llama_cpp.files import open_gguf
from chatbridge_llama_cpp.native import lib, log
from chatbridge_llama_cpp.options import Adapter, LlamaOptions

_A, _B = ".lora_a", ".lora_b"
_HOW = "make one with llama.cpp's convert_lora_to_gguf.py"


@dataclass(frozen=True, slots=True)
class Applied:
    """An adapter in use. `kind`: "lora" or "control vector". `tensors`: how many of the model's it changes."""

    kind: str
    file: str
    scale: float
    tensors: int
    fingerprint: str
    about: str = ""

    def __str__(self) -> str:
        what = "layers" if self.kind == "control vector" else "tensors"
        return f"{self.file} on {self.tensors} {what}{self.about}, scale {self.scale:g}"


@dataclass(frozen=True, slots=True)
class Overlay:
    """What lies over the weights at a time: LoRA files with scales, and the sum of control vectors, [layers, dim]."""

    loras: tuple[tuple[Path, float], ...] = ()
    vectors: NDArray[np.float32] | None = None
    applied: tuple[Applied, ...] = ()

    def plus(self, other: Overlay) -> Overlay:
        vectors = self.vectors if other.vectors is None else other.vectors
        if self.vectors is not None and other.vectors is not None:
            vectors = self.vectors + other.vectors
        return Overlay(self.loras + other.loras, vectors, self.applied + other.applied)


class Overlays:
    """The model's own overlay, whose name is empty, and the named ones, each of which has the model's own in it.

    Raises ModelLoadError for an adapter that can't be applied, or that does nothing.
    """

    def __init__(self, options: LlamaOptions, model: Any, context: Any, base: GgufHeader) -> None:
        self._model = model
        self._context = context
        self._base = base
        self._handles: dict[Path, tuple[Any, int, str]] = {}
        self._plain: NDArray[np.float32] | None = None
        self._now = ""
        own = self._read(options.lora, options.control_vectors)
        self._overlays = {"": own}
        for name, adapter in options.adapters.items():
            self._overlays[name] = own.plus(self._read(adapter.lora, adapter.control_vectors))
        self._lay(own)

    @property
    def own(self) -> Sequence[Applied]:
        """What is in use whatever a request asks for."""
        return self._overlays[""].applied

    @property
    def named(self) -> Mapping[str, Sequence[Applied]]:
        """What each named one adds to that."""
        skip = len(self.own)
        return {name: overlay.applied[skip:] for name, overlay in self._overlays.items() if name}

    @property
    def marks(self) -> Mapping[str, str]:
        """What stands for the arithmetic of each named one, beside that of the model."""
        told = {name: "|".join(one.fingerprint for one in applied) for name, applied in self.named.items()}
        return {name: blake2b(said.encode(), digest_size=8).hexdigest() for name, said in told.items()}

    def in_turn(self, names: Iterable[str]) -> list[str]:
        """The names, each once, the one that is in use first: changing costs a new plan of the whole computation."""
        return sorted(set(names), key=lambda name: (name != self._now, name))

    def use(self, name: str) -> None:
        """Lay this one over the model."""
        if name != self._now:
            self._lay(self._overlays[name])
            self._now = name

    def _read(self, lora: Sequence[Adapter], vectors: Sequence[Adapter]) -> Overlay:
        """Each one is tried alone: what changes no logit is not the adapter that somebody wanted."""
        loras, applied = [], []
        for adapter in lora:
            applied.append(self._load_lora(adapter))
            loras.append((adapter.path, adapter.scale))
            self._refuse_without_effect(Overlay((loras[-1],)), adapter, "lora")
        if not vectors:
            return Overlay(tuple(loras), None, tuple(applied))
        total, told_of = _read_vectors(vectors, self._model, self._base)
        self._refuse_without_effect(Overlay(vectors=total), vectors[0], "control_vectors")
        return Overlay(tuple(loras), total, (*applied, *told_of))

    def _lay(self, overlay: Overlay) -> None:
        scales: dict[Path, float] = {}
        for path, scale in overlay.loras:  # llama.cpp takes each adapter once
            scales[path] = scales.get(path, 0.0) + scale
        array = (lib.llama_adapter_lora_p_ctypes * len(scales))(*(self._handles[path][0] for path in scales))
        if lib.llama_set_adapters_lora(
            self._context, array, len(scales), (ctypes.c_float * len(scales))(*scales.values())
        ):
            raise ModelLoadError("llama.cpp did not take the adapters")
        layers, dim = _vector_shape(self._model)
        pointer, size = None, 0
        if overlay.vectors is not None:
            pointer = overlay.vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            size = overlay.vectors.size
        if lib.llama_set_adapter_cvec(self._context, pointer, size, dim, 1, layers):
            raise ModelLoadError("llama.cpp did not take the control vectors")

    def _load_lora(self, adapter: Adapter) -> Applied:
        """The file is loaded once, however many overlays have it in them."""
        if adapter.path not in self._handles:
            self._handles[adapter.path] = _open_lora(adapter.path, self._model, self._base)
        _, tensors, about = self._handles[adapter.path]
        mark = _mark(open_gguf(adapter.path), adapter)
        return Applied("lora", str(adapter.path), adapter.scale, tensors, mark, about)

    def _refuse_without_effect(self, overlay: Overlay, adapter: Adapter, key: str) -> None:
        if self._plain is None:
            self._lay(Overlay())
            self._plain = _probe(self._model, self._context)
        self._lay(overlay)
        if np.array_equal(self._plain, _probe(self._model, self._context)):
            raise ModelLoadError(
                f"{adapter.path}: this changes nothing that the model says (an untrained adapter, or scale 0); leave "
                f"it out of {key}, or give the right file"
            )


def _open_lora(path: Path, model: Any, base: GgufHeader) -> tuple[Any, int, str]:
    """The adapter in llama.cpp, how many tensors it changes, and its rank and alpha in words."""
    file = open_gguf(path)
    metadata = file.metadata
    if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
        raise ModelLoadError(f"{path}: this GGUF file is no LoRA adapter; {_HOW}, and give it as lora:")
    if file.architecture != base.architecture:
        raise ModelLoadError(
            f"{path}: this adapter is for {file.architecture!r}, and the model is {base.architecture!r}"
        )
    alpha = metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ModelLoadError(f"{path}: adapter.lora.alpha is {alpha!r}, no number above 0; {_HOW} again")
    names = {name.removesuffix(_A) for name in file.tensors if name.endswith(_A)}
    with log().hearing() as said:
        handle = lib.llama_adapter_lora_init(model, os.fsencode(path))
    if not handle:
        whys = [line.split("lora adapter: ", 1)[-1] for line in said.complaints]
        why = "; ".join(whys) or "it did not say why"
        raise ModelLoadError(
            f"{path}: the adapter does not fit {base.path.name}: {why}; take the model that it was trained on"
        )
    ranks = sorted({file.tensors[name + _A].shape[0] for name in names})
    return handle, len(names), f", rank {', '.join(map(str, ranks))}, alpha {alpha:g}"


def _read_vectors(
    vectors: Sequence[Adapter], model: Any, base: GgufHeader
) -> tuple[NDArray[np.float32], list[Applied]]:
    """The sum of all vectors, [layers, dim] from layer 1 on, as llama.cpp adds them up."""
    layers, dim = _vector_shape(model)
    total = np.zeros((layers, dim), np.float32)
    applied = []
    for vector in vectors:
        file = open_gguf(vector.path)
        directions = {name: tensor for name, tensor in file.tensors.items() if name.startswith("direction.")}
        if file.architecture != "controlvector" or not directions:
            raise ModelLoadError(
                f"{vector.path}: this is no control vector; make one with llama.cpp's llama-cvector-generator"
            )
        hint = file.metadata.get("controlvector.model_hint")
        if hint and hint != base.architecture:
            raise ModelLoadError(
                f"{vector.path}: this control vector is for {hint!r}, and the model is {base.architecture!r}"
            )
        for name, tensor in directions.items():
            number = name.removeprefix("direction.")
            if not number.isdigit() or not 1 <= int(number) <= layers or tensor.kind != "F32" or tensor.shape != (dim,):
                raise ModelLoadError(
                    f"{vector.path}: {name} ({tensor.kind}, {list(tensor.shape)}) fits no layer of {base.path.name}, "
                    f"whose layers 1 to {layers} take {dim} numbers of F32"
                )
            values = np.fromfile(vector.path, "<f4", dim, offset=tensor.start)
            total[int(number) - 1] += np.float32(vector.scale) * values
        applied.append(Applied("control vector", str(vector.path), vector.scale, len(directions), _mark(file, vector)))
    return total, applied


def _vector_shape(model: Any) -> tuple[int, int]:
    """Layers, from the second on, and numbers in each."""
    return lib.llama_model_n_layer(model) - 1, lib.llama_model_n_embd(model)


def _probe(model: Any, context: Any) -> NDArray[np.float32]:
    """The logits after a few tokens."""
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    tokens = (ctypes.c_int32 * 4)(*(i * size // 5 for i in range(1, 5)))
    memory = lib.llama_get_memory(context)
    if lib.llama_decode(context, lib.llama_batch_get_one(tokens, 4)):
        raise ModelLoadError("llama.cpp failed to compute a first step with this model")
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (size,)).copy()
    lib.llama_memory_seq_rm(memory, 0, -1, -1)
    return logits


def _mark(file: GgufHeader, adapter: Adapter) -> str:
    return f"{file.fingerprint()}*{adapter.scale!r}"
