"""A LLaMA model's numbers, from the metadata of a GGUF file; whatever the backend can't honour is an error here.

Knows the meaning of `llama.*` keys; knows no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import ModelLoadError

_USED = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
    # Known already from the others or from the tensors:
    "vocab_size",
    "tensor_data_layout",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
}
# Keys that change the arithmetic, with the values at which they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.causal": (True,),
    "rope.scaling.attn_factor": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Params:
    """The sizes of a model.

    `head_dim`: numbers in one head; `rope_dim`: how many of them are rotated, in pairs. `rope_theta`: base of the
    rotations; `rope_scale`: what positions are divided by. `context_length`: in tokens, as trained. `ignored`: keys of
    the metadata that nothing here reads.
    """

    layers: int
    dim: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    epsilon: float
    rope_theta: float
    rope_scale: float
    context_length: int
    ignored: tuple[str, ...] = ()

    def frequencies(self, factors: NDArray[np.float32] | None) -> NDArray[np.float64]:
        """Radians that each pair is rotated by per position, [rope_dim / 2]; `factors`: llama 3's divisors."""
        exponents = -np.arange(0, self.rope_dim, 2, dtype=np.float64) / self.rope_dim
        frequencies = self.rope_theta**exponents / self.rope_scale
        return frequencies if factors is None else frequencies / factors.astype(np.float64)


def read_params(metadata: Mapping[str, Any], path: Path) -> Params:
    """The sizes in `metadata`. Raises ModelLoadError where one is missing, impossible or beyond this backend."""
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelLoadError(
            f"{path}: the architecture is {architecture!r}, and the numpy backend runs only 'llama'; the plugin "
            f"llama_cpp runs others"
        )
    if metadata.get("general.type") == "adapter":
        raise ModelLoadError(f"{path}: this is an adapter, not a model; give it as lora: beside the path: of its model")
    if metadata.get("split.count", 0) not in (0, 1):
        raise ModelLoadError(
            f"{path}: this is one of {metadata['split.count']} parts; join them with llama.cpp's "
            f"`llama-gguf-split --merge`, or use backend: llama_cpp"
        )
    keys = _Keys(metadata, path)
    keys.refuse_changed_arithmetic()
    dim, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    head_dim = keys.count("attention.key_length", dim // heads)
    params = Params(
        layers=keys.count("block_count"),
        dim=dim,
        hidden=keys.count("feed_forward_length"),
        heads=heads,
        kv_heads=keys.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_dim=keys.count("rope.dimension_count", head_dim),
        epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("rope.freq_base", 10000.0),
        rope_scale=keys.rope_scale(),
        context_length=keys.count("context_length"),
        ignored=keys.ignored(),
    )
    if keys.count("attention.value_length", head_dim) != head_dim:
        raise keys.wrong("attention.value_length", "differs from key_length, which the numpy backend can't run")
    if params.heads % params.kv_heads:
        raise keys.wrong("attention.head_count_kv", f"does not divide the {params.heads} heads")
    if params.rope_dim % 2 or params.rope_dim > head_dim or head_dim % 2:
        raise keys.wrong("rope.dimension_count", f"is no even number of at most {head_dim}")
    return params


class _Keys:
    """`llama.*` values, each checked when it is read. The methods raise ModelLoadError."""

    def __init__(self, metadata: Mapping[str, Any], path: Path) -> None:
        llama = {key: value for key, value in metadata.items() if key.startswith("llama.")}
        self._values = {key.removeprefix("llama."): _scalar(value) for key, value in llama.items()}
        self._path = path

    def wrong(self, key: str, why: str) -> ModelLoadError:
        return ModelLoadError(f"{self._path}: llama.{key} is {self._values.get(key)!r}: it {why}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if value is None:
            raise ModelLoadError(f"{self._path}: the metadata lack llama.{key}; convert the model again")
        if isinstance(value, np.ndarray):
            raise self.wrong(key, "differs between layers, which the numpy backend can't run; use llama_cpp")
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self.wrong(key, "should be a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._values.get(key, default)
        if value is None:
            raise ModelLoadError(f"{self._path}: the metadata lack llama.{key}; convert the model again")
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.wrong(key, "should be a number above 0")
        return float(value)

    def rope_scale(self) -> float:
        kind = self._values.get("rope.scaling.type")
        if kind is None:  # files of 2023 have the factor alone
            return self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        if kind == "none":
            return 1.0
        if kind == "linear":
            return self.number("rope.scaling.factor")
        raise self.wrong("rope.scaling.type", "is one the numpy backend can't compute; use backend: llama_cpp")

    def refuse_changed_arithmetic(self) -> None:
        for key, neutral in _NEUTRAL.items():
            value = self._values.get(key, neutral[0])
            if isinstance(value, np.ndarray) or value not in neutral:
                raise self.wrong(key, "changes the arithmetic in a way the numpy backend lacks; use llama_cpp")
        context = self.count("context_length")
        if self._values.get("attention.sliding_window") and self.count("attention.sliding_window") < context:
            raise self.wrong("attention.sliding_window", "is shorter than the context; use backend: llama_cpp")

    def ignored(self) -> tuple[str, ...]:
        """Keys that nothing here reads; `ModelInfo.details` lists them."""
        known = _USED | _NEUTRAL.keys() | {"attention.sliding_window"}
        return tuple(f"llama.{key}" for key in self._values if key not in known)


def _scalar(value: Any) -> Any:
    """A single value where a file has one for each layer and all are equal; else what the file has."""
    if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
        return value[0].item()
    return value
