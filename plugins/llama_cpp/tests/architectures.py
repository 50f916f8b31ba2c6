"""GGUF files of random weights, of architectures that have another memory than LLaMA's KV cache.

Names and shapes of tensors are those of llama.cpp's src/models. Weights are larger than trained ones, so that what a
model has read shows in the next token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.testing import Arrays, random_llama, write_gguf

VOCABULARY, DIM, HIDDEN, LAYERS, WINDOW = 480, 128, 96, 2, 12
HEADS, KV_HEADS, HEAD = 4, 2, 32
INNER, STATE, RANK, KERNEL = 2 * DIM, 16, 4, 4
"""Of Mamba: channels, numbers kept of each, rank of the time steps, width of the convolution."""
WKV_HEAD, LOW_RANK = 64, 8
SHORT_KERNEL = 3

Metadata = dict[str, Any]


class Random:
    """Weights by shape, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def matrix(self, rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (self._rng.standard_normal((rows, columns)) * scale * columns**-0.5).astype(np.float32)

    def vector(self, count: int, low: float, high: float) -> np.ndarray:
        return self._rng.uniform(low, high, count).astype(np.float32)

    def norm(self, name: str, size: int = DIM, *, bias: bool = False) -> Arrays:
        arrays = {f"{name}.weight": self.vector(size, 0.8, 1.2)}
        return arrays | {f"{name}.bias": self.vector(size, -0.1, 0.1)} if bias else arrays

    def ends(self, *, biased: bool = False, output_norm: str = "output_norm") -> Arrays:
        """The embedding, and what comes after the last layer."""
        embedding = {"token_embd.weight": self.matrix(VOCABULARY, DIM, 4)}
        return embedding | self.norm(output_norm, bias=biased)

    def feed_forward(self, at: str) -> Arrays:
        return self.norm(f"{at}.ffn_norm") | {
            f"{at}.ffn_gate.weight": self.matrix(HIDDEN, DIM),
            f"{at}.ffn_up.weight": self.matrix(HIDDEN, DIM),
            f"{at}.ffn_down.weight": self.matrix(DIM, HIDDEN),
        }

    def attention(self, at: str) -> Arrays:
        return {
            f"{at}.attn_q.weight": self.matrix(HEADS * HEAD, DIM, 2),
            f"{at}.attn_k.weight": self.matrix(KV_HEADS * HEAD, DIM, 2),
            f"{at}.attn_v.weight": self.matrix(KV_HEADS * HEAD, DIM),
            f"{at}.attn_output.weight": self.matrix(DIM, HEADS * HEAD, 2),
        }

    def mamba(self, at: str) -> Arrays:
        return {
            f"{at}.ssm_in.weight": self.matrix(2 * INNER, DIM, 2),
            f"{at}.ssm_conv1d.weight": self.matrix(INNER, KERNEL),
            f"{at}.ssm_conv1d.bias": np.zeros(INNER),
            f"{at}.ssm_x.weight": self.matrix(RANK + 2 * STATE, INNER),
            f"{at}.ssm_dt.weight": self.matrix(INNER, RANK),
            f"{at}.ssm_dt.bias": np.zeros(INNER),
            f"{at}.ssm_a": -np.tile(np.arange(1, STATE + 1) / 20, (INNER, 1)),
            f"{at}.ssm_d": np.ones(INNER),
            f"{at}.ssm_out.weight": self.matrix(DIM, INNER, 2),
        }


def mamba() -> tuple[Metadata, Arrays]:
    """Mamba (Gu and Dao 2023, arXiv 2312.00752): recurrent layers only."""
    random = Random(5)
    arrays = random.ends()
    for i in range(LAYERS):
        arrays |= random.norm(f"blk.{i}.attn_norm") | random.mamba(f"blk.{i}")
    return _MAMBA | {"feed_forward_length": 0, "attention.head_count": 0}, arrays


def jamba() -> tuple[Metadata, Arrays]:
    """Jamba (Lieber et al. 2024, arXiv 2403.19887): layers of Mamba, and one that attends."""
    random = Random(6)
    arrays = random.ends()
    for i in range(LAYERS):
        at = f"blk.{i}"
        arrays |= random.norm(f"{at}.attn_norm") | random.feed_forward(at)
        if i == LAYERS - 1:
            arrays |= random.attention(at)
            continue
        arrays |= random.mamba(at) | random.norm(f"{at}.ssm_dt_norm", RANK)
        arrays |= random.norm(f"{at}.ssm_b_norm", STATE) | random.norm(f"{at}.ssm_c_norm", STATE)
    return _MAMBA | _ATTENDS_LAST, arrays


def lfm2() -> tuple[Metadata, Arrays]:
    """LFM2 (Liquid AI 2025): short convolutions, and one layer that attends."""
    random = Random(7)
    arrays = random.ends(output_norm="token_embd_norm")
    for i in range(LAYERS):
        at = f"blk.{i}"
        arrays |= random.norm(f"{at}.attn_norm") | random.feed_forward(at)
        if i == LAYERS - 1:
            arrays |= random.attention(at)
            arrays |= random.norm(f"{at}.attn_q_norm", HEAD) | random.norm(f"{at}.attn_k_norm", HEAD)
            continue
        arrays |= {
            f"{at}.shortconv.conv.weight": random.matrix(DIM, SHORT_KERNEL, 2),
            f"{at}.shortconv.in_proj.weight": random.matrix(3 * DIM, DIM, 2),
            f"{at}.shortconv.out_proj.weight": random.matrix(DIM, DIM, 2),
        }
    return _SHARED | _ATTENDS_LAST | {"shortconv.l_cache": SHORT_KERNEL}, arrays


def rwkv6() -> tuple[Metadata, Arrays]:
    """RWKV-6 (Peng et al. 2024, arXiv 2404.05892)."""
    random = Random(8)
    arrays = random.ends(biased=True) | {"output.weight": random.matrix(VOCABULARY, DIM, 4)}
    arrays |= random.norm("token_embd_norm", bias=True)
    for i in range(LAYERS):
        at = f"blk.{i}"
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            arrays |= random.norm(f"{at}.{name}", bias=True)
        for name in ("time_mix_lerp_x", "channel_mix_lerp_k", "channel_mix_lerp_r"):
            arrays[f"{at}.{name}.weight"] = random.vector(DIM, 0, 1)
        for name in ("key", "value", "receptance", "gate", "output"):
            arrays[f"{at}.time_mix_{name}.weight"] = random.matrix(DIM, DIM, 2)
        arrays |= {
            f"{at}.time_mix_lerp_fused.weight": random.vector(5 * DIM, 0, 1).reshape(5, 1, 1, DIM),
            f"{at}.time_mix_w1.weight": random.matrix(5 * LOW_RANK, DIM),
            f"{at}.time_mix_w2.weight": random.matrix(5 * DIM, LOW_RANK).reshape(5, DIM, LOW_RANK),
            f"{at}.time_mix_first.weight": random.matrix(DIM // WKV_HEAD, WKV_HEAD),
            f"{at}.time_mix_decay.weight": random.vector(DIM, -4, -1),
            f"{at}.time_mix_decay_w1.weight": random.matrix(LOW_RANK, DIM),
            f"{at}.time_mix_decay_w2.weight": random.matrix(DIM, LOW_RANK),
            f"{at}.channel_mix_key.weight": random.matrix(HIDDEN, DIM),
            f"{at}.channel_mix_value.weight": random.matrix(DIM, HIDDEN),
            f"{at}.channel_mix_receptance.weight": random.matrix(DIM, DIM),
        }
    return _RWKV | {"time_mix_extra_dim": LOW_RANK, "time_decay_extra_dim": LOW_RANK}, arrays


def rwkv7() -> tuple[Metadata, Arrays]:
    """RWKV-7 (Peng et al. 2025, arXiv 2503.14456)."""
    random = Random(9)
    arrays = random.ends(biased=True) | {"output.weight": random.matrix(VOCABULARY, DIM, 4)}
    arrays |= random.norm("token_embd_norm", bias=True)
    for i in range(LAYERS):
        at = f"blk.{i}"
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            arrays |= random.norm(f"{at}.{name}", bias=True)
        for name in ("w", "a", "v", "g"):
            arrays[f"{at}.time_mix_{name}1.weight"] = random.matrix(LOW_RANK, DIM)
            arrays[f"{at}.time_mix_{name}2.weight"] = random.matrix(DIM, LOW_RANK)
        for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k"):
            arrays[f"{at}.time_mix_{name}.weight"] = random.vector(DIM, -1, 1)
        for name in ("key", "value", "receptance", "output"):
            arrays[f"{at}.time_mix_{name}.weight"] = random.matrix(DIM, DIM, 2)
        arrays |= {
            f"{at}.time_mix_lerp_fused.weight": random.vector(6 * DIM, 0, 1).reshape(6, 1, 1, DIM),
            f"{at}.channel_mix_lerp_k.weight": random.vector(DIM, 0, 1),
            f"{at}.channel_mix_key.weight": random.matrix(HIDDEN, DIM),
            f"{at}.channel_mix_value.weight": random.matrix(DIM, HIDDEN),
        }
    ranks = {f"attention.{name}_lora_rank": LOW_RANK for name in ("decay", "iclr", "value_residual_mix", "gate")}
    return _RWKV | ranks, arrays


def gemma2() -> tuple[Metadata, Arrays]:
    """Gemma 2 (2024, arXiv 2408.00118): every other layer sees only the last tokens."""
    size = {"layers": LAYERS, "dim": DIM, "hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS}
    arrays = random_llama(**size, vocabulary=VOCABULARY)
    for i in range(LAYERS):
        arrays |= {f"blk.{i}.{name}.weight": np.ones(DIM) for name in ("post_attention_norm", "post_ffw_norm")}
    metadata = {
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.sliding_window": WINDOW,
    }
    return _SHARED | metadata, arrays


ARCHITECTURES: dict[str, Callable[[], tuple[Metadata, Arrays]]] = {
    "gemma2": gemma2,
    "jamba": jamba,
    "lfm2": lfm2,
    "mamba": mamba,
    "rwkv6": rwkv6,
    "rwkv7": rwkv7,
}


def write_architecture(folder: Path, architecture: str, tokenizer: Metadata) -> Path:
    """A model of that architecture as an f32 file in `folder`, with a tokenizer of `VOCABULARY` tokens."""
    metadata, arrays = ARCHITECTURES[architecture]()
    named = {f"{architecture}.{key}": value for key, value in metadata.items()}
    return write_gguf(folder / f"{architecture}.gguf", named | tokenizer, arrays, architecture=architecture)


_SHARED: Metadata = {
    "context_length": 512,
    "embedding_length": DIM,
    "block_count": LAYERS,
    "feed_forward_length": HIDDEN,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
_MAMBA: Metadata = _SHARED | {
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": INNER,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": RANK,
}
_ATTENDS_LAST: Metadata = {
    "attention.head_count": HEADS,
    "attention.head_count_kv": [0] * (LAYERS - 1) + [KV_HEADS],
}
_RWKV: Metadata = _SHARED | {
    "attention.head_count": 0,
    "attention.layer_norm_epsilon": 1e-5,
    "wkv.head_size": WKV_HEAD,
}
