"""Writes GGUF files for tests: of LLaMA checkpoints and adapters as they were published, or of random weights.

Reads PyTorch's files without PyTorch, by their headers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf.quants import quantize

from chatbridge.model_files.reading import read_tensors
from chatbridge.model_files.tensors import TensorInfo

if TYPE_CHECKING:
    import sentencepiece

Arrays = dict[str, np.ndarray]
"""Tensors by name."""


def read_torch(path: Path) -> Arrays:
    """The tensors of a `torch.save` file, by name. No bfloat16, which NumPy does not have. Raises ModelLoadError."""
    data = path.read_bytes()
    return {name: _array(data, tensor) for name, tensor in read_tensors(path).tensors.items()}


def _array(data: bytes, tensor: TensorInfo) -> np.ndarray:
    dtype = np.dtype(tensor.dtype)
    if not tensor.strides:
        return np.frombuffer(data, dtype, tensor.size, tensor.start).reshape(tensor.shape)
    steps = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(np.frombuffer(data, dtype, 1, tensor.start), tensor.shape, steps)


def read_meta_llama(path: Path) -> Arrays:
    """Meta's checkpoint under GGUF's names; its rotary pairs are neighbours already, as GGUF wants them."""
    names = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
    parts = {
        "attention.wq": "attn_q",
        "attention.wk": "attn_k",
        "attention.wv": "attn_v",
        "attention.wo": "attn_output",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "attention_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
    }
    renamed = {}
    for name, array in read_torch(path).items():
        stem = name.removesuffix(".weight")
        if stem in names:
            renamed[f"{names[stem]}.weight"] = array
        elif stem.startswith("layers."):
            _, number, part = stem.split(".", 2)
            renamed[f"blk.{number}.{parts[part]}.weight"] = array
    return renamed


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter of PEFT's under GGUF's names. `pairs`: matrices by the name of the tensor and .lora_a or .lora_b.

    `replaced`: whole tensors in the place of the model's.
    """

    pairs: Arrays
    replaced: Arrays
    rank: int
    alpha: float


def read_peft_adapter(folder: Path, *, heads: int) -> PeftAdapter:
    """The adapter in a folder, for a model of so many heads.

    Hugging Face rotates halves: the rows of q and k go back to neighbouring pairs, as in the model itself.
    """
    names = {"embed_tokens": "token_embd.weight", "lm_head": "output.weight"}
    parts = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "down_proj": "ffn_down",
        "up_proj": "ffn_up",
    }
    pairs: Arrays = {}
    replaced: Arrays = {}
    for name, array in read_torch(folder / "adapter_model.bin").items():
        words = name.removeprefix("base_model.model.").removesuffix(".weight").split(".")
        if words[-1] in names:
            replaced[names[words[-1]]] = array
            continue
        number, part, which = words[2], words[-2], words[-1].lower()
        if part in ("q_proj", "k_proj") and which == "lora_b":
            rows, rank = array.shape
            array = array.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)
        pairs[f"blk.{number}.{parts[part]}.weight.{which}"] = array
    told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return PeftAdapter(pairs, replaced, told["r"], told["lora_alpha"])


def llama_sizes(config: Path) -> dict[str, Any]:
    """The sizes in a config.json of Hugging Face's, as the functions here call them."""
    told = json.loads(config.read_text(encoding="utf-8"))
    return {
        "layers": told["num_hidden_layers"],
        "dim": told["hidden_size"],
        "hidden": told["intermediate_size"],
        "heads": told["num_attention_heads"],
        "kv_heads": told.get("num_key_value_heads", told["num_attention_heads"]),
        "context": told["max_position_embeddings"],
        "epsilon": told["rms_norm_eps"],
        "vocabulary": told["vocab_size"],
    }


def random_llama(
    *, layers: int, dim: int, hidden: int, heads: int, kv_heads: int, vocabulary: int, tied: bool = True, **_: Any
) -> Arrays:
    """Weights that say nothing, of the size asked for."""
    rng = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> np.ndarray:
        array: np.ndarray = (rng.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)
        return array

    kv = dim // heads * kv_heads
    arrays = {"token_embd.weight": matrix(vocabulary, dim) * 4, "output_norm.weight": np.ones(dim, np.float32)}
    if not tied:
        arrays["output.weight"] = matrix(vocabulary, dim) * 4
    for i in range(layers):
        shapes = {
            "attn_q": (dim, dim),
            "attn_k": (kv, dim),
            "attn_v": (kv, dim),
            "attn_output": (dim, dim),
            "ffn_gate": (hidden, dim),
            "ffn_up": (hidden, dim),
            "ffn_down": (dim, hidden),
        }
        arrays |= {f"blk.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        arrays |= {f"blk.{i}.{n}.weight": 1 + matrix(dim, 9)[:, 0] for n in ("attn_norm", "ffn_norm")}
    return arrays


def sentencepiece_metadata(
    processor: sentencepiece.SentencePieceProcessor, user_defined: Collection[str] = (), **more: Any
) -> dict[str, Any]:
    """`tokenizer.ggml.*` of a SentencePiece model, which does not tell which pieces are user-defined."""

    def kind(i: int) -> int:
        if processor.id_to_piece(i) in user_defined:
            return 4
        named = {3: processor.is_control, 2: processor.is_unknown, 6: processor.is_byte, 5: processor.is_unused}
        return next((kind for kind, asked in named.items() if asked(i)), 1)

    ids = range(processor.get_piece_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def byte_pair_metadata(tokenizer_json: str, pre: str) -> dict[str, Any]:
    """`tokenizer.ggml.*` of a byte-level tokenizer.json."""
    content = json.loads(tokenizer_json)
    ids = dict(content["model"]["vocab"])
    added = {token["content"]: token for token in content["added_tokens"]}
    ids |= {text: token["id"] for text, token in added.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            1 if token not in added else 3 if added[token]["special"] else 4 for token in tokens
        ],
        "tokenizer.ggml.merges": merges,
    }


def llama_metadata(
    *, layers: int, dim: int, hidden: int, heads: int, kv_heads: int, context: int, epsilon: float = 1e-5, **_: Any
) -> dict[str, Any]:
    """`llama.*` of a model of this size."""
    return {
        "llama.block_count": layers,
        "llama.context_length": context,
        "llama.embedding_length": dim,
        "llama.feed_forward_length": hidden,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": epsilon,
        "llama.rope.dimension_count": dim // heads,
    }


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    kind: str = "F32",
    architecture: str = "llama",
    alignment: int | None = None,
) -> Path:
    """A GGUF file; matrices as `kind`, everything else as f32. Values of metadata: int, float, bool, str, lists.

    A NumPy number is written as its own type, such as the uint16 of split.count; an int as uint32. `alignment`: what
    tensors begin at a multiple of, told in the file; unless given, 32 bytes.
    """
    writer = gguf.GGUFWriter(path, architecture)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, np.integer):
            writer.add_key_value(key, int(value), gguf.GGUFValueType[value.dtype.name.upper()])
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, array in arrays.items():
        floats = np.ascontiguousarray(array, np.float32)
        if floats.ndim == 2:
            writer.add_tensor(name, quantize(floats, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, floats)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_lora(path: Path, pairs: Mapping[str, np.ndarray], alpha: float) -> Path:
    """A LoRA adapter for LLaMA as a GGUF file. `pairs`: see `PeftAdapter`."""
    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(alpha)}
    return write_gguf(path, metadata, pairs)
