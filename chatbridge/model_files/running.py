"""Which backend runs a model, by the form that it is published in, and how bots.yaml says so.

A plain table, since the answer is wanted most where a backend is not installed yet; a backend of somebody else's says
in `BackendType.runs` which forms it takes. Knows our backends by their names alone, and imports none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from chatbridge.model_files.description import ModelDescription

RUNS = {
    "llama_cpp": ("gguf", "gguf-adapter"),
    "numpy": ("gguf/llama",),
    "transformers": ("huggingface", "peft"),
    "glm": ("chatglm", "glm-130b", "ptuning"),
    "rwkv": ("rwkv",),
}
"""The layouts, or layouts and architectures, that each backend of ours runs, by `ModelDescription`'s words."""

REMEDIES = {
    "meta": (
        "no backend runs Meta's form as it is",
        "convert it by `chatbridge model convert`: --to f16 for `backend: llama_cpp`, --to hf for `backend: "
        "transformers`",
    ),
    "ggml": (
        "no backend runs files from before GGUF",
        "make a GGUF file of it by `chatbridge model convert --to gguf`, or --to f16 where that can't be",
    ),
    "ggml-other": (
        "it was written for another program",
        "take the model that it was made from, in Hugging Face's form or as a GGUF file",
    ),
    "xor": (
        "it is encrypted, and nothing can be told of what is inside",
        "decrypt it with the original LLaMA (chatbridge model decrypt), and inspect the result",
    ),
    "chatglm2": (
        "this is ChatGLM2, 3 or a GLM-4 with code of its own, which does not run with transformers 5",
        "take a GLM-4 whose name ends in -hf, or a GGUF file with `backend: llama_cpp`",
    ),
    "encoder-decoder": (
        "an encoder-decoder model goes on with no conversation",
        "take a causal model",
    ),
    "safetensors": (
        "no backend runs such a file alone",
        "give the folder with its config.json and tokenizer",
    ),
}
"""What is in the way of each layout that no backend of ours runs, and what to do."""

BASE = "the model that it was trained on"
"""Stands in an entry where the path of that model belongs."""


def backends_for(found: ModelDescription, others: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The backends that run it, ours first. `others`: what those of plugins run, by name."""
    words = {found.layout, f"{found.layout}/{found.architecture}"}
    return tuple(name for name, runs in {**RUNS, **others}.items() if found.layout and words.intersection(runs))


def chosen_backend(found: ModelDescription, installed: Collection[str]) -> str:
    """The best of its backends that is installed, else the best of all; it has one."""
    return next((name for name in found.backends if name in installed), found.backends[0])


def example_for(found: ModelDescription, backend: str) -> str:
    """An excerpt of bots.yaml with the model."""
    import yaml

    entry = entry_for(found, backend)
    return yaml.safe_dump(
        {"models": {name_for(found): entry}}, sort_keys=False, allow_unicode=True, width=1000
    ).rstrip()


def entry_for(found: ModelDescription, backend: str) -> dict[str, Any]:
    """The model's entry in bots.yaml, by its keys; of an adapter, with the model that it was trained on.

    The `path` of that is `BASE` where the adapter does not name it.
    """
    where = str(found.path.absolute())
    entry: dict[str, Any] = {"backend": backend, "path": where}
    if found.layout in ("peft", "gguf-adapter"):
        base = found.adapter.base if found.adapter else ""
        entry |= {"path": base or BASE, "lora": where}
    elif found.layout == "ptuning":
        entry |= {"path": BASE, "adapters": {"tuned": {"prefix": where}}}
    if found.preset and found.preset != "model":
        entry["template"] = found.preset
    return entry


def name_for(found: ModelDescription) -> str:
    """A name for it in bots.yaml: that of its file or folder."""
    return re.sub(r"[^\w.-]+", "-", found.path.stem).strip("-.")[:40] or "model"
