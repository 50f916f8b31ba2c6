"""Real vocabularies and chat templates that nobody here made, where they are at hand; their prompts beside llama.cpp's.

Templates are looked for in the folder `templates` beside the vocabularies.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chatbridge_llama_cpp.files import open_gguf
from chatbridge_llama_cpp.loading import _overrides
from chatbridge_llama_cpp.native import lib, log
from chatbridge_llama_cpp.tokenizer import LlamaTokenizer

from chatbridge import ModelInfo, Special, TemplateError, Text, Tokenizer
from chatbridge.prompts import presets, render
from chatbridge.prompts.segments import Prompt, encode
from chatbridge.testing import OpenVocabulary, PublishedVocabulariesContract, published_vocabularies
from chatbridge.types import Turn

FITTING = {
    r"phi-3": "phi-3", r"gemma": "gemma-4", r"command|cohere": "command-r", r"qwen3\.5": "qwen35",
    r"distill-llama|llama-3|functionary|hermes": "llama-bpe", r"distill-qwen|qwen|qwq|mimo": "qwen2",
    r"deepseek": "deepseek-llm", r"mistral|ministral|devstral": "llama-spm", r"rwkv": "gpt-neox", r"": "qwen2",
}  # fmt: skip
"""The vocabulary that fits a template best, of those that are published so."""

CHATS = (
    ("Be brief and kind.", "What is two and two?", "It is four.", "And three?"),
    ("  blanks before\n\n", "\n around \n", "\tTab\t", "a\r\nb  "),
    ("", "x", "- a\n- b\n\n\n1. c", "{{ x }} {% if %} 你好 👩‍👩‍👧"),
)


class Opened:
    """One file: as we load it, and as llama.cpp alone reads it (`alone`)."""

    def __init__(self, path: Path) -> None:
        log()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self._alone = lib.llama_model_load_from_file(os.fsencode(path), params)
        params.kv_overrides = _overrides()
        self._ours = lib.llama_model_load_from_file(os.fsencode(path), params)
        self.alone = lib.llama_model_get_vocab(self._alone)
        self.tokenizer = LlamaTokenizer(lib.llama_model_get_vocab(self._ours), open_gguf(path).metadata)

    def close(self) -> None:
        lib.llama_model_free(self._alone)
        lib.llama_model_free(self._ours)

    def info(self, template: str) -> ModelInfo:
        """A model with this vocabulary and that template."""
        one = self.tokenizer
        return ModelInfo(
            "toy", "toy", 4096, one.size, "f", "v", one.ends(), one.begin(), specials=one.specials,
            controls=one.controls, lstrip=one.lstrip, rstrip=one.rstrip, chat_template=template, add_bos=one.adds_begin,
        )  # fmt: skip

    def parsed(self, text: str) -> list[int]:
        """llama.cpp's ids of a whole prompt, in which it looks for control tokens."""
        raw = text.encode()
        buffer = (ctypes.c_int32 * (len(raw) + 16))()
        return list(buffer[: lib.llama_tokenize(self.alone, raw, len(raw), buffer, len(buffer), False, True)])


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[Path, Opened]]:
    """What was opened so far."""
    found: dict[Path, Opened] = {}
    yield found
    for one in found.values():
        one.close()


def at(path: Path, opened: dict[Path, Opened]) -> Opened:
    if path not in opened:
        opened[path] = Opened(path)
    return opened[path]


class TestPublished(PublishedVocabulariesContract):
    inexact = ("bert",)

    @pytest.fixture
    def open_vocabulary(self, opened: dict[Path, Opened]) -> OpenVocabulary:
        def open_one(path: Path) -> tuple[Tokenizer, Mapping[str, int]]:
            tokenizer = at(path, opened).tokenizer
            return tokenizer, tokenizer.specials

        return open_one


def templates() -> list[Any]:
    folders = {path.parent / "templates" for path in published_vocabularies()}
    found = [path for folder in folders for path in sorted(folder.glob("*.jinja"))]
    absent = pytest.param(None, marks=pytest.mark.skip(reason="no published chat templates are at hand"), id="none")
    return found or [absent]


@pytest.mark.parametrize("template", templates(), ids=lambda path: path.stem)
def test_a_templates_prompts_have_llama_cpps_ids_of_the_same_text(template: Path, opened: dict[Path, Opened]) -> None:
    stem = next(stem for pattern, stem in FITTING.items() if re.search(pattern, template.stem.lower()))
    one = at(next(path for path in published_vocabularies() if path.stem == f"ggml-vocab-{stem}"), opened)
    info = one.info(template.read_text(encoding="utf-8"))
    eos = info.eos[0]
    for system, *spoken in CHATS:
        turns = [Turn("system", system, trusted=True)] if system else []
        turns += [Turn("assistant" if n % 2 else "user", text) for n, text in enumerate(spoken)]
        try:
            prompt = render(presets()["model"], turns, info=info).prompt
        except TemplateError as error:
            pytest.skip(f"the template can't be used: {error}")
        ids = encode(prompt, one.tokenizer, bos=info.bos, eos=eos, lstrip=info.lstrip, rstrip=info.rstrip)
        assert ids == one.parsed(flat(prompt, info))


def flat(prompt: Prompt, info: ModelInfo) -> str:
    """The prompt as one text, with the names of its control tokens."""
    names = {number: name for name, number in info.specials.items()}
    parts = {"bos": info.bos, "eos": info.eos[0]}
    return "".join(
        part.text if isinstance(part, Text) else names.get(parts.get(part.token, -1) or -1, part.token)
        for part in prompt
        if isinstance(part, Text | Special)
    )
