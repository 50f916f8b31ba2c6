"""Published vocabularies with the ids recorded for them.

They are no part of the project. The environment variable CHATBRIDGE_VOCABULARIES names a folder that has them, such as
`vendor/llama.cpp/models` in the source distribution of llama-cpp-python; without it, tests that want them are skipped.
Knows no backend.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from chatbridge.prompts.segments import Tokenizer

OpenVocabulary = Callable[[Path], tuple[Tokenizer, Mapping[str, int]]]
"""Gives the tokenizer of a file, and its control tokens by their texts."""

VARIABLE = "CHATBRIDGE_VOCABULARIES"
_PIECES = (
    *"thefoxSstLlDd129 \n\r\t.,!?(|)…<>_/^é你好🦊한국어ſ½", "\u00a0", "\u3000", "\u0301", "\u200d", "١٢", "ไทย",
    "हिन्दी", "  ", "    ", "http://", "def f(x):\n    return x", "1234567", "I'M", "'ll", "ÿÀ", "\u1112\u1161\u11ab",
    "\r\n\n", "\U0001f3f4\u200d\u2620",
)  # fmt: skip


def published_vocabularies() -> list[Path]:
    """The GGUF files of the folder, largest last; none where no folder is named."""
    folder = os.environ.get(VARIABLE)
    return sorted(Path(folder).glob("*.gguf"), key=lambda path: path.stat().st_size) if folder else []


def recorded_ids(path: Path) -> list[tuple[str, list[int]]]:
    """Texts and the ids that the original tokenizers gave them, from the files beside a vocabulary."""
    texts, ids = path.with_name(f"{path.name}.inp"), path.with_name(f"{path.name}.out")
    if not texts.exists():
        return []
    cases = texts.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = ids.read_text(encoding="utf-8").splitlines()
    return [(text, [int(token) for token in line.split()]) for text, line in zip(cases, lines, strict=False)]


def mixed_texts(count: int, seed: int = 1) -> Iterator[str]:
    """Texts of everything that vocabularies differ in, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choices(_PIECES, k=rng.randint(1, 30)))
