"""The rotary angles of a model, from its configuration to the keys of a GGUF file, or to factors of its frequencies.

Follows transformers' modeling_rope_utils.py, in the spelling of its versions 4 and 5. Knows no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Floats

USUAL_BASE = 10000.0

_SCALED: Mapping[str, Mapping[str, str]] = {
    "linear": {"factor": "rope.scaling.factor"},
    "yarn": {
        "factor": "rope.scaling.factor",
        "original_max_position_embeddings": "rope.scaling.original_context_length",
        "extrapolation_factor": "rope.scaling.yarn_ext_factor",
        "attention_factor": "rope.scaling.yarn_attn_factor",
        "beta_fast": "rope.scaling.yarn_beta_fast",
        "beta_slow": "rope.scaling.yarn_beta_slow",
    },
}
"""Ways to reach beyond the trained context that llama.cpp has keys for; by the names in a configuration."""

_WHOLE = ("rope.scaling.original_context_length",)


@dataclass(frozen=True, slots=True)
class Rotary:
    """`keys`: of a GGUF file, without the architecture. `factors`: by which each frequency is divided (Llama 3.1)."""

    keys: Mapping[str, float | int | str] = field(default_factory=dict)
    factors: Floats | None = None


def rotary_of(config: Mapping[str, Any], head: int) -> Rotary:
    """`head`: the width of one. Raises ValueError, in words, for what llama.cpp has no keys for."""
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    written = written if isinstance(written, dict) else {"rope_type": written}
    base = _number(written.get("rope_theta", config.get("rope_theta", USUAL_BASE)), "rope_theta")
    keys: dict[str, float | int | str] = {"rope.dimension_count": head, "rope.freq_base": base}
    kind = written.get("rope_type", written.get("type", "default"))
    if kind == "default":
        return Rotary(keys)
    if kind == "llama3":
        return Rotary(keys, _llama3(written, base, head))
    if (names := _SCALED.get(str(kind))) is None:
        raise ValueError(f"the rotary angles are scaled as {str(kind)[:100]!r}")
    told = {"original_max_position_embeddings": config.get("original_max_position_embeddings"), **written}
    keys["rope.scaling.type"] = str(kind)
    for name, key in names.items():
        if told.get(name) is not None:
            number = _number(told[name], name)
            keys[key] = int(number) if key in _WHOLE else number
    if missing := [name for name in ("factor", *(_ORIGINAL if kind == "yarn" else ())) if told.get(name) is None]:
        raise ValueError(f"the rotary angles are scaled as {kind!r}, and {missing[0]} is not said")
    return Rotary(keys)


_ORIGINAL = ("original_max_position_embeddings",)


def _llama3(written: Mapping[str, Any], base: float, head: int) -> Floats:
    """Long waves are stretched by a factor, short ones are kept, and those between get something of both."""
    factor, low, high, context = (
        _number(written.get(name, usual), name)
        for name, usual in (
            ("factor", 8), ("low_freq_factor", 1), ("high_freq_factor", 4), ("original_max_position_embeddings", 8192),
        )
    )  # fmt: skip
    if low == high:
        raise ValueError(f"low_freq_factor and high_freq_factor are both {low:g}")
    waves = 2 * math.pi * base ** (np.arange(0, head, 2, dtype=np.float64) / head)
    smooth = (context / waves - low) / (high - low)
    with np.errstate(divide="ignore"):  # where neither is asked for
        between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(waves < context / high, 1.0, np.where(waves > context / low, factor, between))
    return factors.astype(np.float32)


def _number(written: Any, name: str) -> float:
    if isinstance(written, bool) or not isinstance(written, int | float) or not 0 < written < 1e12:
        raise ValueError(f"{name} is {str(written)[:50]!r}")
    return float(written)
