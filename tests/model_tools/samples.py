"""Models in the forms that are converted to GGUF, small and always the same, and how tests read what is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.cli.model.convert import convert
from chatbridge.model_files.gguf import GgufHeader, GgufStrings
from chatbridge.testing import fixtures, hub_arrays, hub_config, write_hub

LLAMA = fixtures() / "llama"
BLOOM = fixtures() / "belle-bloom"

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2, LLAMA3 = _WORDS % "", _WORDS % "{1,3}"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def byte_level(folder: Path, pattern: str, *, bos: bool = False, **config: Any) -> Path:
    """A byte-level tokenizer of 500 ids that cuts words by a pattern. `bos`: it puts `<s>` before each text."""
    folder.mkdir(parents=True, exist_ok=True)
    written = json.loads((BLOOM / "hf" / "tokenizer.json").read_text(encoding="utf-8"))
    steps = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
             {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]  # fmt: skip
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    written["model"]["merges"] = [merge.split(" ") for merge in written["model"]["merges"]]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    written["added_tokens"] += [
        {**plain, "id": 500, "content": "<tool\u2581call>", "special": False},
        {**plain, "id": 501, "content": "<|endoftext|>", "special": True},  # transformers adds it to what Qwen has
    ]
    if bos:
        token, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        pair = [token, text, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
        special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        written["post_processor"] = {"type": "TemplateProcessing", "single": [token, text], "pair": pair,
                                     "special_tokens": special}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def llama(folder: Path) -> Path:
    return LLAMA / "hf"


def bloom(folder: Path) -> Path:
    return BLOOM / "hf"


def chinese(folder: Path) -> Path:
    """A SentencePiece tokenizer with a token beside it, and more rows than tokens."""
    config = hub_config(vocab_size=704, pad_token_id=691)
    return write_hub(folder, config, hub_arrays(config), tokenizer=LLAMA / "chinese-alpaca-lora")


def linear(folder: Path) -> Path:
    """Scaled rotary angles, heads of a width of their own, biases, and a template."""
    scaling = {"type": "linear", "factor": 4.0}
    config = hub_config("mistral", head_dim=32, rope_theta=1e6, rope_scaling=scaling, attention_bias=True)
    write_hub(folder, config, hub_arrays(config), tokenizer=LLAMA / "hf", dtype="float32")
    told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    written = json.dumps({**told, "chat_template": TEMPLATE, "add_prefix_space": False})
    (folder / "tokenizer_config.json").write_text(written, encoding="utf-8")
    return folder


def qwen2(folder: Path) -> Path:
    config = hub_config("qwen2", vocab_size=512, tie_word_embeddings=True, rope_theta=1e6)
    tokenizer = byte_level(folder, QWEN2, chat_template=TEMPLATE, eos_token="<pad>")
    return write_hub(tokenizer, config, hub_arrays(config))


def qwen3(folder: Path) -> Path:
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "rope_theta": 1e6}
    config = hub_config("qwen3", vocab_size=512, head_dim=32, rope_parameters=yarn)
    return write_hub(byte_level(folder, QWEN2), config, hub_arrays(config), dtype="bfloat16", shards=3)


def llama3(folder: Path) -> Path:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    config = hub_config(vocab_size=512, rope_theta=5e5, rope_scaling=scaling)
    return write_hub(byte_level(folder, LLAMA3, bos=True), config, hub_arrays(config), dtype="bfloat16")


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "llama": llama, "bloom": bloom, "chinese": chinese, "linear": linear, "qwen2": qwen2, "qwen3": qwen3,
    "llama3": llama3,
}  # fmt: skip
"""By name: each writes its model into a folder that is given, or says where it lies, and returns where."""

PRE = {"bloom": "bloom", "qwen2": "qwen2", "qwen3": "qwen2", "llama3": "llama-bpe"}
"""llama.cpp's names for how the byte-level ones cut words."""


def made(folder: Path, tmp_path: Path, target: str = "f16") -> GgufHeader:
    """The header of what is made of a folder; the file is called TARGET.gguf."""
    return GgufHeader(convert(folder, tmp_path / f"{target}.gguf", target, {}), reader="this test")


def array(header: GgufHeader, name: str, dtype: str = "<f4") -> np.ndarray:
    tensor = header.tensors[name]
    raw = header.path.read_bytes()[tensor.start : tensor.start + tensor.nbytes]
    return np.frombuffer(raw, dtype).reshape(tensor.shape if dtype != "u1" else (tensor.shape[0], -1))


def texts(header: GgufHeader, key: str = "tokens") -> list[str]:
    found = header.metadata[f"tokenizer.ggml.{key}"]
    assert isinstance(found, GgufStrings)
    return [text.decode() for text in found]
