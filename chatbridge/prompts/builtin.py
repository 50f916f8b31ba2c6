"""The templates that come with chatbridge, read from presets.yaml when first asked for, and which one fits a model.

Knows what models say about themselves; renders nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from chatbridge.errors import TemplateError
from chatbridge.prompts.template import OWN, Template, resolve
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
        named = named_preset(info.chat_template)
        if named is None:
            return "model"
        if named:
            return named
    words = f"{info.name} {info.architecture} {' '.join(info.details.values())}".lower().replace("_", "-")
    for preset, hints in _BY_TOKENS.items():
        if all(token in info.specials for token in hints):
            return "glm-130b" if preset == "chatglm-6b" and "130b" in words else preset
    if {"[INST]", "[/INST]"} <= info.specials.keys():
        return "mistral-v3-tekken" if info.vocab_size >= _TEKKEN_VOCABULARY else "mistral-v3"
    if "rwkv" in words and (info.vocab_size >= _WORLD_VOCABULARY or "world" in words):
        return "rwkv-world"
    for preset, alternatives in _BY_NAME.items():
        if any(all(word in words for word in alternative) for alternative in alternatives):
            return preset
    return None


def named_preset(chat_template: str) -> str | None:
    """The preset that stands where a chat template should: some converters write llama.cpp's name of a built-in one.

    "" for a name that no preset has, None for a template.
    """
    name = chat_template.strip()
    if not _NAME.fullmatch(name):
        return None
    return name if name in presets() and name != OWN else _NAMES.get(name, "")


def for_model(template: Template, info: ModelInfo) -> Template:
    """`template`, or, where it stands for the model's own and the model just names one, the preset of that name.

    Raises TemplateError where the model has neither.
    """
    if template.jinja != OWN:
        return template
    named = named_preset(info.chat_template or "")
    if named is None and info.chat_template:
        return template
    if not named:
        fits = suggest_preset(info)
        hint = f"template: {fits} fits it" if fits else "set `template:` (chatbridge templates lists them)"
        brings = f"names the chat template {info.chat_template!r}, which is unknown" if info.chat_template else (
            "brings no chat template of its own"
        )  # fmt: skip
        raise TemplateError(f"the model {info.name!r} {brings}; {hint}")
    own = {field: getattr(template, field) for field in template.model_fields_set - {"jinja", "summary", "extends"}}
    return presets()[named].model_copy(update=own)


def nearest_preset(info: ModelInfo) -> str | None:
    """The preset that writes most of what the model's chat template writes, apart from words; None where none fits.

    For models whose own template can't be used.
    """
    source = info.chat_template or ""
    best, most = None, 0
    for name, preset in presets().items():
        tokens, marks = _marks(preset.user + preset.assistant)
        if preset.jinja or not tokens <= info.specials.keys() or not marks.isdisjoint(info.specials):
            continue
        system = set[str]().union(*_marks(preset.system_turn))
        # Two that are equal but for the system text differ by that.
        length = sum(map(len, tokens | marks)) + sum(len(mark) if mark in source else -1 for mark in system)
        if length > most and all(mark in source for mark in tokens | marks):
            best, most = name, length
    return best


def _marks(formats: str) -> tuple[set[str], set[str]]:
    """What formats write besides words: control tokens, and pieces of lines with a sign in them."""
    pieces = {piece.strip() for piece in re.split(r"\{[^}]*\}|\n", formats)}
    signs = {piece for piece in pieces if re.search(r"\w", piece) and re.search(r"[^\w\s]", piece)}
    return set(re.findall(r"\{token:([^}]*)\}", formats)), signs


_NAME = re.compile(r"[A-Za-z][\w.-]*")

_NAMES = {
    "llama2": "llama-2", "llama2-sys": "llama-2", "llama2-sys-bos": "llama-2", "llama2-sys-strip": "llama-2",
    "llama3": "llama-3", "llama4": "llama-4", "mistral-v1": "mistral", "phi3": "phi-3", "phi4": "phi-4",
    "deepseek": "deepseek-coder", "deepseek3": "deepseek", "chatglm4": "glm-4", "granite-4.0": "granite",
    "granite-4.1": "granite",
}  # fmt: skip
"""llama.cpp's names (src/llama-chat.cpp) that are not those of presets, or are those of others."""

_WORLD_VOCABULARY = 65525
"""RWKV World models have 65536 rows; Raven and Pile models 50277."""

_TEKKEN_VOCABULARY = 100_000
"""Mistral's newer vocabulary has 131072 ids, the one before 32768."""

# The first that matches wins: those with more tokens stand before those whose tokens they contain.
_BY_TOKENS = {
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "llama-4": ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    "phi-4": ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "glm-4": ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
    "chatglm-6b": ("[gMASK]", "<sop>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "command-r": ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    "deepseek": ("<｜User｜>", "<｜Assistant｜>"),
    "granite": ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    "phi-3": ("<|user|>", "<|assistant|>", "<|end|>"),
    "mistral-v7-tekken": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]"),
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
    "zephyr": (("zephyr",), ("tinyllama", "chat")),
    "mistral": (("mistral", "instruct"), ("mixtral", "instruct")),
    "llama-3": (("llama-3", "instruct"), ("llama3", "instruct")),
    "chatml": (("chatml",), ("qwen",)),
}
