"""LoRA adapters and control vectors: applies them to a context, and checks that each changes the model's logits.

Knows their files and llama.cpp's calls for them; knows no conversation. A context has one set of adapters at a time, so
conversations with different adapters are computed one set after another.
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
_HOW = "make one of PEFT's folder by `chatbridge model convert`"


@dataclass(frozen=True, slots=True)
class Applied:
    """An adapter in use. `kind`: "lora" or "control vector". `tensors`: how many of the model's tensors it changes."""

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
class AdapterSet:
    """What is applied to a context at a time: LoRA files with scales, and the sum of control vectors, [layers, dim]."""

    loras: tuple[tuple[Path, float], ...] = ()
    vectors: NDArray[np.float32] | None = None
    applied: tuple[Applied, ...] = ()

    def plus(self, other: AdapterSet) -> AdapterSet:
        """Both sets together."""
        vectors = self.vectors if other.vectors is None else other.vectors
        if self.vectors is not None and other.vectors is not None:
            vectors = self.vectors + other.vectors
        return AdapterSet(self.loras + other.loras, vectors, self.applied + other.applied)


class Adapters:
    """The set of the model's own adapters, by the empty name, and the named sets, each of which has these in it, too.

    Raises ModelLoadError for an adapter that can't be applied, or that does nothing.
    """

    def __init__(self, options: LlamaOptions, model: Any, context: Any, base: GgufHeader) -> None:
        self._model = model
        self._context = context
        self._base = base
        self._handles: dict[Path, tuple[Any, int, str]] = {}
        self._base_logits: NDArray[np.float32] | None = None
        self._in_use = ""
        own = self._read(options.lora, options.control_vectors)
        self._sets = {"": own}
        for name, adapter in options.adapters.items():
            self._sets[name] = own.plus(self._read(adapter.lora, adapter.control_vectors))
        self._apply(own)

    @property
    def own(self) -> Sequence[Applied]:
        """The model's own, in use whatever a request asks for."""
        return self._sets[""].applied

    @property
    def named(self) -> Mapping[str, Sequence[Applied]]:
        """What each named set adds to `own`."""
        skip = len(self.own)
        return {name: one.applied[skip:] for name, one in self._sets.items() if name}

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """A hash of what each named set adds to the model's arithmetic; states with another one can't be used."""
        joined = {name: "|".join(one.fingerprint for one in applied) for name, applied in self.named.items()}
        return {name: blake2b(text.encode(), digest_size=8).hexdigest() for name, text in joined.items()}

    def in_order(self, names: Iterable[str]) -> list[str]:
        """The names, each once, the one in use first: with another one, llama.cpp has to plan the computation anew."""
        return sorted(set(names), key=lambda name: (name != self._in_use, name))

    def use(self, name: str) -> None:
        """Apply the set of that name, in the place of the one in use."""
        if name != self._in_use:
            self._apply(self._sets[name])
            self._in_use = name

    def _read(self, lora: Sequence[Adapter], vectors: Sequence[Adapter]) -> AdapterSet:
        """The set of these, each of which is tried alone: one that changes no logit is not what somebody wanted."""
        loras, applied = [], []
        for adapter in lora:
            applied.append(self._load_lora(adapter))
            loras.append((adapter.path, adapter.scale))
            self._refuse_without_effect(AdapterSet((loras[-1],)), adapter, "lora")
        if not vectors:
            return AdapterSet(tuple(loras), None, tuple(applied))
        total, vectors_applied = _read_vectors(vectors, self._model, self._base)
        self._refuse_without_effect(AdapterSet(vectors=total), vectors[0], "control_vectors")
        return AdapterSet(tuple(loras), total, (*applied, *vectors_applied))

    def _apply(self, adapters: AdapterSet) -> None:
        scales: dict[Path, float] = {}
        for path, scale in adapters.loras:  # llama.cpp takes each adapter once
            scales[path] = scales.get(path, 0.0) + scale
        array = (lib.llama_adapter_lora_p_ctypes * len(scales))(*(self._handles[path][0] for path in scales))
        if lib.llama_set_adapters_lora(
            self._context, array, len(scales), (ctypes.c_float * len(scales))(*scales.values())
        ):
            raise ModelLoadError("llama.cpp did not take the adapters")
        layers, dim = _vector_shape(self._model)
        pointer, size = None, 0
        if adapters.vectors is not None:
            pointer = adapters.vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            size = adapters.vectors.size
        if lib.llama_set_adapter_cvec(self._context, pointer, size, dim, 1, layers):
            raise ModelLoadError("llama.cpp did not take the control vectors")

    def _load_lora(self, adapter: Adapter) -> Applied:
        """Load the file, once however many sets have it in them."""
        if adapter.path not in self._handles:
            self._handles[adapter.path] = _open_lora(adapter.path, self._model, self._base)
        _, tensors, about = self._handles[adapter.path]
        fingerprint = _fingerprint(open_gguf(adapter.path), adapter)
        return Applied("lora", str(adapter.path), adapter.scale, tensors, fingerprint, about)

    def _refuse_without_effect(self, adapters: AdapterSet, adapter: Adapter, key: str) -> None:
        """Raise ModelLoadError where the logits are the model's own. `key`: the option that `adapter` is under."""
        if self._base_logits is None:
            self._apply(AdapterSet())
            self._base_logits = _probe(self._model, self._context)
        self._apply(adapters)
        if np.array_equal(self._base_logits, _probe(self._model, self._context)):
            raise ModelLoadError(
                f"{adapter.path}: this changes nothing that the model says (an untrained adapter, or scale 0); leave "
                f"it out of {key}, or give the right file"
            )


def _open_lora(path: Path, model: Any, base: GgufHeader) -> tuple[Any, int, str]:
    """The adapter in llama.cpp, how many tensors it changes, and its rank and alpha as text."""
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
    with log().capture() as output:
        handle = lib.llama_adapter_lora_init(model, os.fsencode(path))
    if not handle:
        reasons = [line.split("lora adapter: ", 1)[-1] for line in output.problems]
        why = "; ".join(reasons) or "it did not say why"
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
        applied.append(
            Applied("control vector", str(vector.path), vector.scale, len(directions), _fingerprint(file, vector))
        )
    return total, applied


def _vector_shape(model: Any) -> tuple[int, int]:
    """Layers that control vectors reach, which are all but the first, and numbers in each."""
    return lib.llama_model_n_layer(model) - 1, lib.llama_model_n_embd(model)


def _probe(model: Any, context: Any) -> NDArray[np.float32]:
    """The logits after a few tokens, [vocabulary]; sequence 0 is empty before and after."""
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    tokens = (ctypes.c_int32 * 4)(*(i * size // 5 for i in range(1, 5)))
    memory = lib.llama_get_memory(context)
    if lib.llama_decode(context, lib.llama_batch_get_one(tokens, 4)):
        raise ModelLoadError("llama.cpp failed to compute a first step with this model")
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (size,)).copy()
    lib.llama_memory_seq_rm(memory, 0, -1, -1)
    return logits


def _fingerprint(file: GgufHeader, adapter: Adapter) -> str:
    return f"{file.fingerprint()}*{adapter.scale!r}"
