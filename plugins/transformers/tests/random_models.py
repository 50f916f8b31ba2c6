"""Small models of random weights, of architectures that nothing was recorded of, with the recorded BLOOM's words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from .conftest import BLOOM

SIZE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
OTHERS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "head_dim": 16},
    "gemma3_text": {"sliding_window": 8, "head_dim": 16},
    "gpt_oss": {"sliding_window": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16},
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.5},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
}
"""What a configuration says besides: windows shorter than the texts that are read, above all."""


def random_model(folder: Path, kind: str, *, seed: int = 1, **config: Any) -> Path:
    """A model's folder, with safetensors. `config`: keys that differ from SIZE and OTHERS."""
    folder.mkdir(parents=True)
    made = transformers.AutoConfig.for_model(kind, **{**SIZE, **OTHERS.get(kind, {}), **config})
    torch.manual_seed(seed)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.6 if "embed" in name or "wte" in name else 0.15)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(BLOOM / "hf" / name, folder / name)
    return folder
