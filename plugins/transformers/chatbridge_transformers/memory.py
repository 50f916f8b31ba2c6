"""How much memory a model needs, told from its files' sizes, and whether it is there. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatbridge import TensorInfo

PROGRAM = 400 << 20
"""What Python, torch and transformers take of main memory before there is a model; measured with transformers 5."""

SPARE = 512 << 20
"""What CUDA and torch's own allocator take on a card."""

STEP_TOKENS = 512
"""Tokens of a prompt that go through the model at a time, at most, as working memory is reckoned."""

LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""How configurations call the number of tokens that a model takes."""

WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
_PACKED = {"int8": 1.0, "nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64}
"""Bytes of a packed weight: 4-bit ones have a float32 scale for each 64."""


def needed(tensors: Mapping[str, TensorInfo], dtype: str, quantization: str | None) -> int:
    """Bytes that the weights take once they are loaded."""
    total = 0.0
    for name, tensor in tensors.items():
        packed = quantization is not None and len(tensor.shape) == 2 and not _unpacked(name)
        if tensor.dtype.startswith(("int", "uint")):  # packed by another program, and left as it is
            total += tensor.nbytes
            continue
        total += tensor.size * (_PACKED[quantization or "int8"] if packed else WIDTHS[dtype])
    return int(total)


def choose_dtype(tensors: Mapping[str, TensorInfo], published: str, on_card: bool, free: int) -> str:
    """The type for `auto`: as published on a card; on a processor float32 where that fits, which is faster there.

    `free`: bytes of main memory, 0 where they can't be told.
    """
    if on_card:
        return published if published in WIDTHS else "float16"
    return "float32" if not free or needed(tensors, "float32", None) < 0.8 * free else "bfloat16"


def cache_bytes(config: Mapping[str, Any], width: int) -> int:
    """Of one token in all layers, keys and values in numbers of that many bytes."""
    hidden, heads = (
        _number(config, "hidden_size", "n_embd", "d_model"),
        _number(config, "num_attention_heads", "n_head"),
    )
    head = _number(config, "head_dim") or hidden // max(1, heads)
    kv_heads = _number(config, "num_key_value_heads") or (1 if config.get("multi_query") else heads)
    return 2 * layers_of(config) * kv_heads * head * width


def working_bytes(config: Mapping[str, Any], width: int) -> int:
    """What a step takes besides, estimated: activations of one layer, and scores of the vocabulary."""
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    inner = _number(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    return width * STEP_TOKENS * (8 * hidden + 3 * inner) + 8 * _number(config, "vocab_size")


def layers_of(config: Mapping[str, Any]) -> int:
    return _number(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")


def trained_context(config: Mapping[str, Any]) -> int:
    """Tokens that the model takes; 0 where config.json does not say so."""
    return _number(config, *LENGTHS)


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of these that is there, also within the text part of a model of several; else 0."""
    within = config.get("text_config")
    for values in (config, within if isinstance(within, Mapping) else {}):
        for name in names:
            if isinstance(value := values.get(name), int) and 0 < value < 1 << 31:
                return value
    return 0


def resident() -> int:
    """Bytes of main memory that this process holds (Linux); 0 where it can't be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096


def gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _unpacked(name: str) -> bool:
    """Whether bitsandbytes leaves the matrix as it is: embeddings and the head."""
    return any(part in name for part in ("embed", "lm_head", "wte", "wpe"))
