"""Says what a loaded model is: the `ModelInfo` with everything that is really in use. Runs nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np
from pydantic import ValidationError

from chatbridge import ModelInfo, Sampling, chat_template_of
from chatbridge_numpy.gguf_file import GgufFile
from chatbridge_numpy.lora import Lora
from chatbridge_numpy.params import Params
from chatbridge_numpy.tokenizer import GgufTokenizer
from chatbridge_numpy.weights import Weights

MAX_BATCH = 32
"""Conversations in one step. Measured at the guide's size: with 32 most tokens come, 64 only wait twice as long."""


def describe(
    file: GgufFile,
    lora: Lora | None,
    params: Params,
    weights: Weights,
    tokenizer: GgufTokenizer,
    context_length: int,
) -> ModelInfo:
    """The `ModelInfo` of a loaded model. `lora`: the adapter in it, if there is one; `context_length`: in tokens."""
    vocabulary = tokenizer.vocabulary
    per_token = 8 * params.layers * params.kv_heads * params.head_dim
    parameters = sum(int(np.prod(tensor.shape)) for tensor in file.tensors.values())
    details = {
        "file": str(file.path),
        "quantisation": _quantisation(file),
        "parameters": f"{parameters / 1e6:,.1f} M" if parameters < 1e9 else f"{parameters / 1e9:,.2f} B",
        "memory": f"{weights.nbytes / 2**20:,.1f} MiB of weights as float32, "
        f"{per_token / 2**10:,.1f} KiB a token of context",
        "threads": os.environ.get("OPENBLAS_NUM_THREADS", "as the BLAS library chooses"),
        "blas": blas(),
        "tokenizer": tokenizer.kind,
        **chat_template_of(file.metadata).details,
    }
    if lora is not None:
        details["lora"] = str(lora)
    if params.ignored:
        details["ignored metadata"] = ", ".join(params.ignored)
    return ModelInfo(
        name=str(file.metadata.get("general.name") or file.path.stem),
        architecture="llama",
        context_length=context_length,
        vocab_size=vocabulary.size,
        fingerprint=f"numpy-{_fingerprint(file, lora)}",
        vocabulary=vocabulary.fingerprint,
        eos=vocabulary.eos,
        bos=vocabulary.bos,
        add_bos=vocabulary.add_bos,
        max_batch=MAX_BATCH,
        specials=vocabulary.specials,
        controls=vocabulary.controls,
        lstrip=vocabulary.named(vocabulary.rules.lstrip),
        rstrip=vocabulary.named(vocabulary.rules.rstrip),
        chat_template=vocabulary.chat_template,
        sampling=recommended(file.metadata),
        details=details,
    )


def _fingerprint(file: GgufFile, lora: Lora | None) -> str:
    if lora is None:
        return file.fingerprint()
    return blake2b(f"{file.fingerprint()}+{lora.fingerprint()}".encode(), digest_size=16).hexdigest()


def _quantisation(file: GgufFile) -> str:
    """The type of most weights, then the other types, as text."""
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.kind.lower()] += int(np.prod(tensor.shape))
    (main, _), *others = sizes.most_common()
    return f"{main} (with {', '.join(kind for kind, _ in others)})" if others else main


_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "penalty_window",
}
"""Keys `general.sampling.*` of GGUF files, and the names that the core has for them."""


def recommended(metadata: Mapping[str, Any]) -> Sampling | None:
    """The sampling that the file recommends, or None; impossible values are left out."""
    given = {name: metadata.get(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
    found = Sampling()
    for name, value in given.items():
        if value is not None:
            with suppress(ValidationError):
                found = found.merged(Sampling.model_validate({name: value}))
    return found if found.model_fields_set else None


def blas() -> str:
    """Name and version of the library that NumPy multiplies matrices with, or "unknown"."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}"
    except (KeyError, TypeError):  # a build of NumPy that tells less
        return "unknown"
