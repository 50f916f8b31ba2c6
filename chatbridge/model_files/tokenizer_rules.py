"""What a model's original tokenizer does to texts beside cutting them: by keys of its file, or by a table.

llama.cpp's keys tell neither the `normalizer` nor the `lstrip` and `rstrip` of a tokenizer.json, and it follows neither
but for Phi-3's. Files that chatbridge has made say so by keys of ours; for others there is a table of families. What is
in neither is not guessed: such a text is cut as it is written. Encodes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.model_files.gguf import GgufStrings

NFC, LSTRIP, RSTRIP = (f"chatbridge.tokenizer.{name}" for name in ("nfc", "lstrip", "rstrip"))
"""Keys of GGUF files that chatbridge makes: a bool, and texts of control tokens. See `TokenizerRules`."""

_OWN = "its own files"

_NFC: Mapping[str, str] = {
    "qwen2": "transformers' Qwen2Tokenizer",
    "command-r": "transformers' CohereTokenizer",
    "mpt": "transformers' GPTNeoXTokenizer",
    "olmo": "transformers' GPTNeoXTokenizer",
}
"""By `tokenizer.ggml.pre`: who brings a text into Unicode's form NFC before cutting it, and where that stands.

Decomposed Korean takes three times as many tokens otherwise, such as nobody has trained on. For `qwen35` the sources
contradict each other: transformers' Qwen3_5Tokenizer normalises, and the ids that llama.cpp has recorded for that
family are those of decomposed text. It stays as it is written.
"""


@dataclass(frozen=True, slots=True)
class _Stripping:
    """Control tokens that take in blanks. `known_by`: tokens that no other family of that `model` and `pre` has."""

    model: str
    pre: str
    known_by: frozenset[str]
    lstrip: frozenset[str]
    rstrip: frozenset[str]
    source: str


_PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_PHI4 = frozenset({"<|im_start|>", "<|im_sep|>", "<|im_end|>"})
_STRIPPING = (
    _Stripping(
        "llama",
        "",
        frozenset({*_PHI3, "<|placeholder1|>"}),
        frozenset(),
        frozenset({*_PHI3, "</s>", *(f"<|placeholder{number}|>" for number in range(1, 7))}),
        "Phi-3's tokenizer.json, and llama.cpp",
    ),
    _Stripping("gpt2", "gpt-4o", frozenset(_PHI3), frozenset(), frozenset(_PHI3), "Phi-4-mini's tokenizer.json"),
    _Stripping("gpt2", "", _PHI4, _PHI4, _PHI4, "Phi-4's tokenizer.json"),
)


@dataclass(frozen=True, slots=True)
class TokenizerRules:
    """`nfc`: texts are brought into Unicode's form NFC before they are cut. `lstrip`, `rstrip`: the texts of control
    tokens that take in the blanks before and behind them. `words`: all of it, and from where it is known."""

    nfc: bool = False
    lstrip: frozenset[str] = frozenset()
    rstrip: frozenset[str] = frozenset()
    words: str = ""


def tokenizer_rules(metadata: Mapping[str, Any], controls: Iterable[str]) -> TokenizerRules:
    """The rules of the tokenizer in a GGUF file's `metadata`; `controls`: the texts of its control tokens."""
    names = frozenset(controls)
    pre, model = str(metadata.get("tokenizer.ggml.pre")), metadata.get("tokenizer.ggml.model")
    nfc = _NFC.get(pre, "")
    fitting = (one for one in _STRIPPING if one.model == model and one.pre in ("", pre) and one.known_by <= names)
    strips = next(fitting, None)
    told, own = metadata.get(NFC), (_texts(metadata, LSTRIP), _texts(metadata, RSTRIP))
    if isinstance(told, bool):
        nfc = _OWN if told else ""
    if isinstance(told, bool) or any(own):
        strips = _Stripping("", "", frozenset(), *own, _OWN) if any(own) else None
    lstrip = strips.lstrip & names if strips else frozenset[str]()
    rstrip = strips.rstrip & names if strips else frozenset[str]()
    words = [f"texts in NFC, as in {nfc}"] if nfc else []
    if strips:
        words.append(f"{len(lstrip | rstrip)} control tokens take in the blanks beside them, as in {strips.source}")
    return TokenizerRules(bool(nfc), lstrip, rstrip, "; ".join(words))


def _texts(metadata: Mapping[str, Any], key: str) -> frozenset[str]:
    found = metadata.get(key)
    return (
        frozenset(text.decode("utf-8", "replace") for text in found) if isinstance(found, GgufStrings) else frozenset()
    )
