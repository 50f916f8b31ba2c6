"""The templates that come with chatbridge, read from presets.yaml when first asked for, and which one fits a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from chatbridge.prompts.template import Template, resolve
from chatbridge.types import ModelInfo


@cache
def presets() -> Mapping[str, Template]:
    """Every preset by its name, complete with what it inherits."""
    source = files("chatbridge.prompts").joinpath("presets.yaml").read_text(encoding="utf-8")
    written = {name: Template.model_validate(fields) for name, fields in yaml.safe_load(source).items()}
    return MappingProxyType({name: resolve(name, template, written) for name, template in written.items()})


def suggest_preset(info: ModelInfo) -> str | None:
    """The preset that fits best to what a model says about itself, or None if it says too little."""
    if info.chat_template:
        return "model"
    words = f"{info.name} {info.architecture} {' '.join(info.details.values())}".lower().replace("_", "-")
    for preset, hints in _BY_TOKENS.items():
        if all(token in info.specials for token in hints):
            return "glm-130b" if preset == "chatglm-6b" and "130b" in words else preset
    if "rwkv" in words and (info.vocab_size >= _WORLD_VOCABULARY or "world" in words):
        return "rwkv-world"
    for preset, alternatives in _BY_NAME.items():
        if any(all(word in words for word in alternative) for alternative in alternatives):
            return preset
    return None


_WORLD_VOCABULARY = 65525
"""RWKV World models have 65536 rows; Raven and Pile models 50277."""

_BY_TOKENS = {
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "chatglm-6b": ("[gMASK]", "<sop>"),
}
# The first that matches wins: narrow names stand before those that they contain.
_BY_NAME: dict[str, tuple[tuple[str, ...], ...]] = {
    "glm-130b": (("glm-130b",), ("glm130b",)),
    "chatglm-6b": (("chatglm-6b",),),
    "llama-2": (("llama-2", "chat"), ("llama2", "chat"), ("chinese", "alpaca-2")),
    "chinese-alpaca": (("chinese", "alpaca"),),
    "alpaca-lora": (("alpaca-lora",),),
    "alpaca": (("alpaca",),),
    "belle-llama-ext": (("belle", "ext"),),
    "belle-bloom": (("belle",), ("bloom",)),
    "rwkv-raven-zh": (("rwkv", "chn"), ("rwkv", "chinese"), ("raven", "-zh")),
    "rwkv-raven": (("rwkv",), ("raven",)),
    "vicuna": (("vicuna",),),
    "mistral": (("mistral", "instruct"), ("mixtral", "instruct")),
    "llama-3": (("llama-3", "instruct"), ("llama3", "instruct")),
    "chatml": (("chatml",), ("qwen",)),
}
