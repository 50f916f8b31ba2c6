"""What a GLM model is like: sizes, special ids, and the few choices by which ChatGLM-6B and GLM-130B differ.

Reads config.json of a Hugging Face folder; the sizes of SAT checkpoints come from their shards. Knows no weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError

RESIDUAL_LAYERS = 28
"""ChatGLM's code weighs residuals by sqrt(2 * 28), whatever number of layers a model has."""


MAX_SIZE = 1 << 24
"""What no size of a model comes near; a file that says more is damaged."""


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a model, in the words of the original code.

    `residual_layers`: the number under the root of the residual's weight. `two_dimensional`: positions have two
    channels, one for each half of a head. `glu`: the MLP is GEGLU with erf (GLM-130B), else a plain one with tanh-GELU.
    `quantization_bit`: 0, 4 or 8, of the weights in the file. `pre_seq_len`: of a P-Tuning prefix; 0 for none.
    `sop`: the id up to which a prompt is read in both directions. `masks`: ids of `[gMASK]`, `[MASK]`, `[sMASK]`, those
    that there are; the first of them in a prompt's text says where the answer belongs. `counts_on`: with `[gMASK]` the
    only position channel goes on behind `sop`.
    """

    architecture: str
    layers: int
    hidden_size: int
    heads: int
    inner_hidden_size: int
    vocab_size: int
    max_sequence_length: int
    layernorm_epsilon: float
    residual_layers: int
    two_dimensional: bool
    glu: bool
    sop: int
    ends: tuple[int, ...]
    gmask: int
    masks: tuple[int, ...]
    quantization_bit: int = 0
    pre_seq_len: int = 0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.heads

    @property
    def rotary_width(self) -> int:
        """The width over which positions are turned: half a head where there are two channels."""
        return self.head_size // 2 if self.two_dimensional else self.head_size

    @property
    def residual_weight(self) -> float:
        return math.sqrt(2 * self.residual_layers)


def read_config(path: Path) -> Config:
    """The config.json of a ChatGLM-6B folder. Raises ModelLoadError for what is another model, or none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: this is no config.json of a model: {error}") from error
    if not isinstance(values, dict):
        raise ModelLoadError(f"{path}: this is no config.json of a model: it holds a {type(values).__name__}")
    _refuse_others(path, values)
    try:
        return config_of(values)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelLoadError(f"{path}: the entry {error} is missing or no number that could be") from error


def config_of(values: Mapping[str, Any]) -> Config:
    """The configuration that config.json's entries make. Raises KeyError, TypeError or ValueError."""
    gmask, mask = int(values["gmask_token_id"]), int(values["mask_token_id"])
    config = Config(
        architecture="ChatGLM-6B",
        layers=int(values["num_layers"]),
        hidden_size=int(values["hidden_size"]),
        heads=int(values["num_attention_heads"]),
        inner_hidden_size=int(values["inner_hidden_size"]),
        vocab_size=int(values["vocab_size"]),
        max_sequence_length=int(values["max_sequence_length"]),
        layernorm_epsilon=float(values["layernorm_epsilon"]),
        residual_layers=RESIDUAL_LAYERS,
        two_dimensional=bool(values.get("position_encoding_2d", True)),
        glu=False,
        sop=int(values["bos_token_id"]),
        ends=(int(values["eos_token_id"]),),
        gmask=gmask,
        masks=(gmask, mask),
        quantization_bit=int(values.get("quantization_bit") or 0),
        pre_seq_len=int(values.get("pre_seq_len") or 0),
    )
    for name, ours in _SIZES.items():
        if not 0 < getattr(config, ours) < MAX_SIZE:
            raise ValueError(name)
    if not 0 < config.layernorm_epsilon < 1:
        raise ValueError("layernorm_epsilon")
    if config.hidden_size % config.heads or config.head_size % 4:
        raise ValueError("num_attention_heads")
    return config


_SIZES = {
    "num_layers": "layers", "hidden_size": "hidden_size", "num_attention_heads": "heads",
    "inner_hidden_size": "inner_hidden_size", "max_sequence_length": "max_sequence_length",
}  # fmt: skip


def _refuse_others(path: Path, values: Mapping[str, Any]) -> None:
    kind = str(values.get("model_type", ""))
    given = values.get("architectures")
    names = [str(name) for name in given] if isinstance(given, list) else []
    if "multi_query_attention" in values or "padded_vocab_size" in values:
        raise ModelLoadError(
            f"{path}: this is ChatGLM2, ChatGLM3 or a later GLM, another architecture; take `backend: llama_cpp` with "
            "a GGUF file of it, or `backend: transformers`"
        )
    if kind != "chatglm" and not any(name.startswith("ChatGLM") for name in names):
        what = f"a model of type {kind!r}" if kind else "a model that does not say its type"
        raise ModelLoadError(f"{path}: this is {what}, and no ChatGLM-6B; take `backend: transformers`")
    if (bits := values.get("quantization_bit") or 8) not in (4, 8):
        raise ModelLoadError(f"{path}: quantization_bit is {bits}; there are 4 and 8")


def sat_config(
    layers: int, hidden_size: int, heads: int, inner_hidden_size: int, vocab_size: int, values: Mapping[str, Any]
) -> Config:
    """GLM-130B by the sizes of its shards; `values`: special ids and lengths where they are not GLM-130B's own."""
    ids = {**GLM_130B_IDS, **values.get("special_ids", {})}
    return Config(
        architecture="GLM-130B",
        layers=layers,
        hidden_size=hidden_size,
        heads=heads,
        inner_hidden_size=inner_hidden_size,
        vocab_size=vocab_size,
        max_sequence_length=int(values.get("max_sequence_length", 2048)),
        layernorm_epsilon=float(values.get("layernorm_epsilon", 1e-5)),
        residual_layers=layers,
        two_dimensional=False,
        glu=True,
        sop=ids["sop"],
        ends=(ids["eop"], ids["eos"]),
        gmask=ids["[gMASK]"],
        masks=(ids["[gMASK]"], ids["[MASK]"], ids["[sMASK]"]),
    )


GLM_130B_IDS = {
    "[MASK]": 150000, "[gMASK]": 150001, "[sMASK]": 150002, "eod": 150003, "sop": 150004, "eop": 150005,
    "ENC": 150006, "dBLOCK": 150007, "eos": 20002,
}  # fmt: skip
