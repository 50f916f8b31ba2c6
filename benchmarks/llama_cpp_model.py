"""Writes LLaMA models of random weights, for measuring: as GGUF, with a vocabulary of real size. Knows no engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

VOCABULARY = 32000
SIZES = {"15M": (256, 8, 8, 704), "110M": (768, 12, 12, 2048)}
"""Width, layers, heads and hidden size."""


def write_model(path: Path, size: str, kind: str) -> Path:
    """A LLaMA of random weights with a vocabulary of real size."""
    dim, layers, heads, hidden = SIZES[size]
    rng = np.random.default_rng(7)
    packed = GGMLQuantizationType[kind.upper()]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"piece{i}" for i in range(VOCABULARY - len(pieces))]
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (VOCABULARY - 259)])

    def add(name: str, *shape: int) -> None:
        weights = (rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)).astype(np.float32)
        writer.add_tensor(name, quantize(weights, packed), raw_dtype=packed)

    add("token_embd.weight", VOCABULARY, dim)
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}.weight", dim, dim)
        add(f"blk.{i}.ffn_gate.weight", hidden, dim)
        add(f"blk.{i}.ffn_up.weight", hidden, dim)
        add(f"blk.{i}.ffn_down.weight", dim, hidden)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(dim, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
