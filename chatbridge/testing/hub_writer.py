"""Writes small models of random weights in Hugging Face's form, for tests: LLaMA and its relatives.

Needs neither torch nor transformers. Knows nothing of what becomes of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.model_files.arrays import from_float32
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.safetensors_file import SafetensorsFile

Arrays = dict[str, np.ndarray]

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "chat_template.jinja")  # fmt: skip


def hub_config(kind: str = "llama", **settings: Any) -> dict[str, Any]:
    """A config.json for two layers with grouped queries, 64 wide; `settings` say otherwise."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 480, "max_position_embeddings": 512}  # fmt: skip
    more = {"model_type": kind, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
            "architectures": [f"{kind.capitalize()}ForCausalLM"], "torch_dtype": "float16"}  # fmt: skip
    return {**sizes, **more, "bos_token_id": 1, "eos_token_id": 2, **settings}


def hub_arrays(config: Mapping[str, Any], seed: int = 7) -> Arrays:
    """Random weights for that configuration, under transformers' names, in float32."""
    rng = np.random.default_rng(seed)
    width, inner, rows = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    head = config.get("head_dim") or width // config["num_attention_heads"]
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]

    def matrix(rows: int, columns: int, scale: float = 1) -> np.ndarray:
        array: np.ndarray = (rng.standard_normal((rows, columns)) * scale * columns**-0.5).astype(np.float32)
        return array

    def row(size: int, around: float) -> np.ndarray:
        return (around + rng.standard_normal(size) / 4).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(rows, width, 4)}
    for number in range(config["num_hidden_layers"]):
        shapes = {"self_attn.q_proj": (q, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
                  "self_attn.o_proj": (width, q), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
                  "mlp.down_proj": (width, inner)}  # fmt: skip
        before = f"model.layers.{number}"
        found |= {f"{before}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        found |= {f"{before}.{name}.weight": row(width, 1) for name in ("input_layernorm", "post_attention_layernorm")}
        if config["model_type"] == "qwen2" or config.get("attention_bias"):
            found |= {f"{before}.{name}.bias": row(shapes[name][0], 0) for name in list(shapes)[:3]}
        if config["model_type"] == "qwen3":
            found |= {f"{before}.self_attn.{name}_norm.weight": row(head, 1) for name in "qk"}
    found["model.norm.weight"] = row(width, 1)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = matrix(rows, width, 4)
    return found


def write_hub(
    folder: Path, config: Mapping[str, Any], arrays: Arrays, *, tokenizer: Path | None = None, dtype: str = "float16",
    shards: int = 1,
) -> Path:  # fmt: skip
    """A folder with these weights as safetensors. `tokenizer`: a folder whose tokenizer is taken over."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if tokenizer is not None and (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
    stored = {name: from_float32(np.asarray(array, np.float32), dtype) for name, array in arrays.items()}
    names = list(stored)
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        own = [_tensor(name, dtype, stored[name]) for name in names[number::shards]]
        write_tensors(folder / file, SafetensorsFile(own), own, "")
        index |= {tensor.name: file for tensor in own}
    if shards > 1:
        written = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(written, encoding="utf-8")
    return folder


def _tensor(name: str, dtype: str, array: np.ndarray) -> NewTensor:
    return NewTensor(name, array.shape, dtype, array.nbytes, lambda: [array.tobytes()])
