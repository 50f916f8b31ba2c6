"""The sizes of well-known models by name, so that what they take can be told without their files.

Data, and how tensors are named in each form of publication. Counted by hand from the projects' configurations; knows
no backend, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatbridge.model_files.tensors import WIDTHS, TensorInfo
from chatbridge.model_tools.tables import LLAMA_LAYER, LLAMA_TOP
from chatbridge.suggest import meant

if TYPE_CHECKING:
    from chatbridge.model_files.gguf import GgufHeader

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published model. `layout`, `architecture`: as `ModelDescription` has them.

    `config`: what config.json says where the form has one, by its keys; for GLM-130B and RWKV the same sizes by those
    of LLaMA. `dtype`: what it is published in. `shards`: tensor-parallel parts.
    """

    name: str
    layout: str
    architecture: str
    config: Mapping[str, Any] = field(repr=False)
    dtype: str = "float16"
    shards: int = 1

    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor as its files would have it; of a model in parts, those of the first one."""
        shapes = _SHAPES[self.architecture](self.config)
        return {name: TensorInfo(shape, self.dtype, prod(shape) * WIDTHS[self.dtype]) for name, shape in shapes}

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.size for tensor in self.tensors().values()) * self.shards

    @property
    def runs_as_gguf(self) -> bool:
        """Whether there is a form of it for llama.cpp in this table."""
        return self.layout == "huggingface" and self.architecture == "llama"

    def gguf(self) -> GgufHeader:
        """The header of a GGUF file of it in half precision. Raises ValueError where `runs_as_gguf` is false."""
        from chatbridge.model_files.gguf import GgufHeader, GgufStrings, GgufTensor

        if not self.runs_as_gguf:
            raise ValueError(f"{self.name} is not known as a GGUF file")
        c = self.config
        metadata = {
            "general.architecture": self.architecture,
            "llama.block_count": c["num_hidden_layers"], "llama.context_length": c["max_position_embeddings"],
            "llama.embedding_length": c["hidden_size"], "llama.feed_forward_length": c["intermediate_size"],
            "llama.attention.head_count": c["num_attention_heads"],
            "llama.attention.head_count_kv": c["num_key_value_heads"], "llama.attention.layer_norm_rms_epsilon": 1e-6,
            "tokenizer.ggml.tokens": GgufStrings(c["vocab_size"], b""),
        }  # fmt: skip
        tensors = {}
        for name, shape in _llama_gguf(c):
            kind, width = ("F16", 2) if len(shape) > 1 else ("F32", 4)
            tensors[name] = GgufTensor(name, shape, kind, 0, prod(shape) * width)
        return GgufHeader.of(Path(self.name), metadata, tensors)


def known_model(name: str) -> KnownModel | None:
    """The model of that name, however it is written ("LLaMA-7B"); None for any other."""
    found = meant(name.rpartition("/")[2], MODELS)
    return MODELS[found] if found is not None else None


# --- how tensors are called ------------------------------------------------------------------------------------------


def _llama(c: Mapping[str, Any]) -> Shapes:
    width, inner, rows = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = width // c["num_attention_heads"] * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", (rows, width)
    for number in range(c["num_hidden_layers"]):
        at = f"model.layers.{number}"
        yield f"{at}.input_layernorm.weight", (width,)
        for name, size in (("q", width), ("k", kv), ("v", kv)):
            yield f"{at}.self_attn.{name}_proj.weight", (size, width)
        yield f"{at}.self_attn.o_proj.weight", (width, width)
        yield f"{at}.post_attention_layernorm.weight", (width,)
        yield f"{at}.mlp.gate_proj.weight", (inner, width)
        yield f"{at}.mlp.up_proj.weight", (inner, width)
        yield f"{at}.mlp.down_proj.weight", (width, inner)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (rows, width)


def _llama_gguf(c: Mapping[str, Any]) -> Shapes:
    names = {one.hub: one.gguf for one in (*LLAMA_TOP, *LLAMA_LAYER)}
    for name, shape in _llama(c):
        bare = name.removeprefix("model.").removesuffix(".weight")
        if bare.startswith("layers."):
            _, number, part = bare.split(".", 2)
            yield f"blk.{number}.{names[part]}.weight", shape
        else:
            yield f"{names[bare]}.weight", shape


def _bloom(c: Mapping[str, Any]) -> Shapes:
    width = c["hidden_size"]
    yield "word_embeddings.weight", (c["vocab_size"], width)
    norms = ["word_embeddings_layernorm", "ln_f"]
    for number in range(c["n_layer"]):
        at = f"h.{number}"
        norms += [f"{at}.input_layernorm", f"{at}.post_attention_layernorm"]
        products = (
            ("self_attention.query_key_value", 3, 1), ("self_attention.dense", 1, 1), ("mlp.dense_h_to_4h", 4, 1),
            ("mlp.dense_4h_to_h", 1, 4),
        )  # fmt: skip
        for name, rows, columns in products:
            yield f"{at}.{name}.weight", (rows * width, columns * width)
            yield f"{at}.{name}.bias", (rows * width,)
    for norm in norms:
        yield f"{norm}.weight", (width,)
        yield f"{norm}.bias", (width,)


def _glm(c: Mapping[str, Any], prefix: str, glu: int, shards: int) -> Shapes:
    width, inner = c["hidden_size"], c["inner_hidden_size"]
    yield f"{prefix}word_embeddings.weight", (c["vocab_size"] // shards, width)
    norms = [f"{prefix}final_layernorm"]
    for number in range(c["num_layers"]):
        at = f"{prefix}layers.{number}"
        norms += [f"{at}.input_layernorm", f"{at}.post_attention_layernorm"]
        by_rows = (("attention.query_key_value", 3 * width), ("mlp.dense_h_to_4h", glu * inner))
        by_columns = (("attention.dense", width), ("mlp.dense_4h_to_h", inner))
        for name, rows in by_rows:
            yield f"{at}.{name}.weight", (rows // shards, width)
            yield f"{at}.{name}.bias", (rows // shards,)
        for name, columns in by_columns:
            yield f"{at}.{name}.weight", (width, columns // shards)
            yield f"{at}.{name}.bias", (width,)
    for norm in norms:
        yield f"{norm}.weight", (width,)
        yield f"{norm}.bias", (width,)


def _rwkv_4(c: Mapping[str, Any]) -> Shapes:
    width = c["hidden_size"]
    yield from _rwkv_ends(c)
    for number in range(c["num_hidden_layers"]):
        at = f"blocks.{number}"
        for name in ("time_decay", "time_first"):
            yield f"{at}.att.{name}", (width,)
        for name in ("att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "ffn.time_mix_k", "ffn.time_mix_r"):
            yield f"{at}.{name}", (1, 1, width)
        for name in ("att.key", "att.value", "att.receptance", "att.output", "ffn.receptance"):
            yield f"{at}.{name}.weight", (width, width)
        yield f"{at}.ffn.key.weight", (4 * width, width)
        yield f"{at}.ffn.value.weight", (width, 4 * width)


def _rwkv_7(c: Mapping[str, Any]) -> Shapes:
    """By RWKV-LM's RWKV-v7/train_temp/src/model.py, which rounds the ranks of its small products to 32."""
    width = c["hidden_size"]

    def rank(factor: float, power: float) -> int:
        return max(32, int(round(factor * width**power / 32) * 32))

    ranks = {"w": rank(1.8, 0.5), "a": rank(1.8, 0.5), "v": rank(1.3, 0.5), "g": rank(0.6, 0.8)}
    yield from _rwkv_ends(c)
    for number in range(c["num_hidden_layers"]):
        at = f"blocks.{number}.att"
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "w0", "a0", *(("v0",) if number else ())):
            yield f"{at}.{name}", (1, 1, width)
        for name, size in ranks.items():
            if number or name != "v":
                yield f"{at}.{name}1", (width, size)
                yield f"{at}.{name}2", (size, width)
        yield f"{at}.r_k", (width // 64, 64)
        for name in ("receptance", "key", "value", "output"):
            yield f"{at}.{name}.weight", (width, width)
        for end in ("weight", "bias"):
            yield f"{at}.ln_x.{end}", (width,)
        yield f"blocks.{number}.ffn.x_k", (1, 1, width)
        yield f"blocks.{number}.ffn.key.weight", (4 * width, width)
        yield f"blocks.{number}.ffn.value.weight", (width, 4 * width)


def _rwkv_ends(c: Mapping[str, Any]) -> Shapes:
    width = c["hidden_size"]
    yield "emb.weight", (c["vocab_size"], width)
    yield "head.weight", (c["vocab_size"], width)
    layers = (f"blocks.{number}.{norm}" for number in range(c["num_hidden_layers"]) for norm in ("ln1", "ln2"))
    for norm in ("blocks.0.ln0", "ln_out", *layers):
        for end in ("weight", "bias"):
            yield f"{norm}.{end}", (width,)


_SHAPES = {
    "llama": _llama,
    "bloom": _bloom,
    "chatglm": lambda c: _glm(c, "transformer.", 1, 1),
    "glm-130b": lambda c: _glm(c, "transformer.", 2, 8),
    "rwkv-4": _rwkv_4,
    "rwkv-7": _rwkv_7,
}

# --- the models ------------------------------------------------------------------------------------------------------

_LLAMA = {"7b": (32, 4096, 32, 11008), "13b": (40, 5120, 40, 13824), "30b": (60, 6656, 52, 17920),
          "33b": (60, 6656, 52, 17920), "65b": (80, 8192, 64, 22016), "70b": (80, 8192, 64, 28672)}  # fmt: skip
"""Layers, width, heads and inner width."""

_LLAMA_LIKE: tuple[tuple[str, tuple[str, ...], int, int], ...] = (
    ("llama", ("7b", "13b", "30b", "33b", "65b"), 32000, 2048),
    ("llama-2", ("7b", "13b", "70b"), 32000, 4096),
    ("alpaca", ("7b", "13b", "30b"), 32001, 2048),
    ("chinese-llama", ("7b", "13b", "33b"), 49953, 2048),
    ("chinese-alpaca", ("7b", "13b", "33b"), 49954, 2048),
    ("chinese-llama-2", ("7b", "13b"), 55296, 4096),
    ("chinese-alpaca-2", ("7b", "13b"), 55296, 4096),
    ("belle-llama-7b", ("",), 32000, 2048),
    ("belle-llama-ext-7b", ("",), 79458, 2048),
)
"""Name, sizes, rows of the vocabulary, and context."""

_RWKV = {"169m": (12, 768), "430m": (24, 1024), "1b5": (24, 2048), "3b": (32, 2560), "7b": (32, 4096),
         "14b": (40, 5120), "0.1b": (12, 768), "0.4b": (24, 1024), "1.5b": (24, 2048), "2.9b": (32, 2560)}  # fmt: skip
"""Layers and width."""

_RWKV_LIKE: tuple[tuple[str, tuple[str, ...], str, int], ...] = (
    ("rwkv-4", ("169m", "430m", "1b5", "3b", "7b", "14b"), "rwkv-4", 50277),
    ("rwkv-4-raven", ("1b5", "3b", "7b", "14b"), "rwkv-4", 50277),
    ("rwkv-4-world", ("0.1b", "0.4b", "1b5", "3b", "7b"), "rwkv-4", 65536),
    ("rwkv-7", ("0.1b", "0.4b", "1.5b", "2.9b"), "rwkv-7", 65536),
)
"""Name, sizes, architecture, and rows of the vocabulary."""

_CHATGLM: dict[str, Any] = {
    "model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32,
    "inner_hidden_size": 16384, "vocab_size": 130528, "max_sequence_length": 2048, "layernorm_epsilon": 1e-5,
    "position_encoding_2d": True, "mask_token_id": 130000, "gmask_token_id": 130001, "bos_token_id": 130004,
    "eos_token_id": 130005,
}  # fmt: skip

_GLM_130B: dict[str, Any] = {
    "num_layers": 70, "hidden_size": 12288, "num_attention_heads": 96, "inner_hidden_size": 32768,
    "vocab_size": 150528, "max_sequence_length": 2048,
}  # fmt: skip


def _all() -> Iterator[KnownModel]:
    for form, bits in (("", 0), ("-int8", 8), ("-int4", 4)):
        yield KnownModel(f"chatglm-6b{form}", "chatglm", "chatglm", _CHATGLM | {"quantization_bit": bits})
    yield KnownModel("glm-130b", "glm-130b", "glm-130b", _GLM_130B, shards=8)
    for name, sizes, rows, context in _LLAMA_LIKE:
        for size in sizes:
            layers, width, heads, inner = _LLAMA[size or "7b"]
            config = {
                "model_type": "llama", "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
                "num_key_value_heads": 8 if size == "70b" else heads, "intermediate_size": inner, "vocab_size": rows,
                "max_position_embeddings": context, "torch_dtype": "float16",
            }  # fmt: skip
            yield KnownModel(f"{name}-{size}".rstrip("-"), "huggingface", "llama", config)
    for name in ("bloom-7b1", "bloomz-7b1", "belle-7b"):
        config = {
            "model_type": "bloom", "n_layer": 30, "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 250880,
            "seq_length": 2048, "torch_dtype": "float16",
        }  # fmt: skip
        yield KnownModel(name, "huggingface", "bloom", config)
    for name, sizes, architecture, rows in _RWKV_LIKE:
        for size in sizes:
            layers, width = _RWKV[size]
            config = {"num_hidden_layers": layers, "hidden_size": width, "vocab_size": rows}
            dtype = "bfloat16" if architecture == "rwkv-7" else "float16"
            yield KnownModel(f"{name}-{size}", "rwkv", architecture, config, dtype)


MODELS: Mapping[str, KnownModel] = {model.name: model for model in _all()}
