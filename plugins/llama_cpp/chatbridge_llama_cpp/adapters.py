"""LoRA adapters and control vectors: puts them on a context, and sees that each changes what the model says.

Knows their files and llama.cpp's calls for them; knows no conversation.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import ModelLoadError
from chatbridge_llama_cpp.gguf_file import GgufFile
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


def apply(options: LlamaOptions, model: Any, context: Any, base: GgufFile) -> list[Applied]:
    """Put the options' adapters on the context. Raises ModelLoadError for one that can't be, or that does nothing."""
    if not options.lora and not options.control_vectors:
        return []
    # Each one is tried alone first: what changes no logit is not the adapter that somebody wanted.
    plain = _probe(model, context)
    handles, applied = [], []
    for adapter in options.lora:
        handle, told = _load_lora(adapter, model, base)
        _set_lora(context, [handle], [adapter.scale])
        _refuse_without_effect(plain, model, context, adapter, "lora")
        handles.append(handle)
        applied.append(told)
    _set_lora(context, handles, [adapter.scale for adapter in options.lora])
    if options.control_vectors:
        if options.lora:
            plain = _probe(model, context)
        data, vectors = _read_vectors(options.control_vectors, model, base)
        layers, dim = data.shape
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if lib.llama_set_adapter_cvec(context, pointer, data.size, dim, 1, layers):
            raise ModelLoadError(f"{options.control_vectors[0].path}: llama.cpp did not take this control vector")
        _refuse_without_effect(plain, model, context, options.control_vectors[0], "control_vectors")
        applied += vectors
    return applied


def _load_lora(adapter: Adapter, model: Any, base: GgufFile) -> tuple[Any, Applied]:
    file = GgufFile(adapter.path)
    metadata = file.metadata
    if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
        raise ModelLoadError(f"{adapter.path}: this GGUF file is no LoRA adapter; {_HOW}, and give it as lora:")
    if file.architecture != base.architecture:
        raise ModelLoadError(
            f"{adapter.path}: this adapter is for {file.architecture!r}, and the model is {base.architecture!r}"
        )
    alpha = metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ModelLoadError(f"{adapter.path}: adapter.lora.alpha is {alpha!r}, no number above 0; {_HOW} again")
    names = {name.removesuffix(_A) for name in file.tensors if name.endswith(_A)}
    with log().hearing() as said:
        handle = lib.llama_adapter_lora_init(model, os.fsencode(adapter.path))
    if not handle:
        whys = [line.split("lora adapter: ", 1)[-1] for line in said.complaints]
        why = "; ".join(whys) or "it did not say why"
        raise ModelLoadError(
            f"{adapter.path}: the adapter does not fit {base.path.name}: {why}; take the model that it was trained on"
        )
    ranks = sorted({file.tensors[name + _A].shape[0] for name in names})
    about = f", rank {', '.join(map(str, ranks))}, alpha {alpha:g}"
    return handle, Applied("lora", str(adapter.path), adapter.scale, len(names), _mark(file, adapter), about)


def _read_vectors(vectors: Sequence[Adapter], model: Any, base: GgufFile) -> tuple[NDArray[np.float32], list[Applied]]:
    """The sum of all vectors, [layers, dim] from layer 1 on, as llama.cpp adds them up."""
    layers, dim = lib.llama_model_n_layer(model) - 1, lib.llama_model_n_embd(model)
    total = np.zeros((layers, dim), np.float32)
    applied = []
    for vector in vectors:
        file = GgufFile(vector.path)
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


def _set_lora(context: Any, handles: Sequence[Any], scales: Sequence[float]) -> None:
    array = (lib.llama_adapter_lora_p_ctypes * len(handles))(*handles)
    if lib.llama_set_adapters_lora(context, array, len(handles), (ctypes.c_float * len(handles))(*scales)):
        raise ModelLoadError("llama.cpp did not take the adapters")


def _refuse_without_effect(plain: NDArray[np.float32], model: Any, context: Any, adapter: Adapter, key: str) -> None:
    if np.array_equal(plain, _probe(model, context)):
        raise ModelLoadError(
            f"{adapter.path}: this changes nothing that the model says (an untrained adapter, or scale 0); leave it "
            f"out of {key}, or give the right file"
        )


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


def _mark(file: GgufFile, adapter: Adapter) -> str:
    return f"{file.fingerprint()}*{adapter.scale!r}"
