"""The tokens that a GGUF file lists: their text, their kinds, and which of them are control tokens.

Knows `tokenizer.*` keys; knows no way of cutting text into tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge import GgufStrings, ModelLoadError, TokenizerRules, chat_template_of, is_mark, tokenizer_rules

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# Tokens that end a reply wherever a vocabulary has them as control tokens, whatever `eos_token_id` says besides.
_END_TEXTS = (
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|eot|>",
    "<end_of_turn>",
)
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_CONTROL_KEYS = ("bos_token_id", *_END_KEYS, "padding_token_id", "seperator_token_id")  # sic
_LOOKS_LIKE_CONTROL = re.compile(r"<\|[^|<>]*\|>|<｜[^｜<>]*｜>|</?s>")
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_PRE_TOKENIZERS_WITH_BOS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "tekken")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a file. `pieces`: each id's text as the file has it. `kinds`: one of the constants above for each.

    `specials`: control tokens by text; `controls`: the ids of all of them, which no text ever becomes. `bos`: the id
    that stands for the beginning, if there is one; `add_bos`: prompts begin with it; `eos`: those that end a reply.
    `rules`: what the original tokenizer does to texts besides. `fingerprint`: equal for two vocabularies only if they
    cut text alike.
    """

    pieces: tuple[str, ...]
    kinds: tuple[int, ...]
    specials: Mapping[str, int]
    controls: frozenset[int]
    bos: int | None
    add_bos: bool
    eos: tuple[int, ...]
    chat_template: str | None
    rules: TokenizerRules
    fingerprint: str

    @property
    def size(self) -> int:
        return len(self.pieces)

    def named(self, texts: Collection[str]) -> frozenset[int]:
        """The ids of the control tokens of these texts."""
        return frozenset(i for i in self.controls if self.pieces[i] in texts)

    def of_kind(self, *kinds: int) -> dict[str, int]:
        """Ids by text, without the control tokens."""
        return {
            piece: i
            for i, (piece, kind) in enumerate(zip(self.pieces, self.kinds, strict=True))
            if kind in kinds and i not in self.controls
        }


def read_vocabulary(metadata: Mapping[str, Any], path: Path) -> Vocabulary:
    """The tokens in `metadata`. Raises ModelLoadError where they are missing or don't fit together."""
    raw = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(raw, GgufStrings) or not raw.count:
        raise ModelLoadError(f"{path}: the file has no tokenizer; get one that was converted with its vocabulary")
    pieces = tuple(piece.decode("utf-8", "surrogateescape") for piece in raw)
    kinds = tuple(map(int, numbers(metadata, "token_type", len(pieces), path))) or (NORMAL,) * len(pieces)
    if bad := [p for p, kind in zip(pieces, kinds, strict=True) if kind == BYTE and not _BYTE_PIECE.fullmatch(p)]:
        raise ModelLoadError(f"{path}: the token {bad[0]!r} is said to be a byte; the file was converted wrongly")
    named = {key: _id(metadata, key, len(pieces), path) for key in _CONTROL_KEYS}
    controls = {i for i in named.values() if i is not None}
    controls |= {i for i, kind in enumerate(kinds) if kind == CONTROL}
    # Converters have marked control tokens as plain ones; a person who types such a text must not forge a turn.
    source = chat_template_of(metadata).source
    controls |= {i for i, piece in enumerate(pieces) if _LOOKS_LIKE_CONTROL.fullmatch(piece)}
    controls |= {i for i, kind in enumerate(kinds) if kind == USER_DEFINED and is_mark(pieces[i], source)}
    specials = {pieces[i]: i for i in sorted(controls, reverse=True)}  # of equal texts the first
    ends = [named[key] for key in _END_KEYS] + [specials.get(text) for text in _END_TEXTS]
    return Vocabulary(
        pieces=pieces,
        kinds=kinds,
        specials=specials,
        controls=frozenset(controls),
        bos=named["bos_token_id"],
        add_bos=_wants_bos(metadata),
        eos=tuple(dict.fromkeys(i for i in ends if i is not None)),
        chat_template=source or None,
        rules=tokenizer_rules(metadata, specials),
        fingerprint=_fingerprint(metadata),
    )


def _wants_bos(metadata: Mapping[str, Any]) -> bool:
    default = (
        metadata.get("tokenizer.ggml.model") == "llama"
        or metadata.get("tokenizer.ggml.pre") in _PRE_TOKENIZERS_WITH_BOS
    )
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default))


def _id(metadata: Mapping[str, Any], key: str, size: int, path: Path) -> int | None:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if found is None:
        return None
    if isinstance(found, int) and 0 <= found < size:
        return found
    if isinstance(found, int) and found in (-1, 0xFFFFFFFF):  # how files write "none"
        return None
    raise ModelLoadError(
        f"{path}: tokenizer.ggml.{key} is {found!r}, outside the vocabulary of {size} tokens; convert the model again"
    )


def numbers(metadata: Mapping[str, Any], key: str, size: int, path: Path) -> list[float]:
    """One number for each of `size` tokens, or none. Raises ModelLoadError where there are more or fewer."""
    found = metadata.get(f"tokenizer.ggml.{key}")
    if found is None:
        return []
    if not isinstance(found, np.ndarray) or len(found) != size or not np.isfinite(found).all():
        raise ModelLoadError(f"{path}: tokenizer.ggml.{key} should be {size} numbers, one for each token")
    values: list[float] = found.tolist()
    return values


def _fingerprint(metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    keys = ("model", "pre", "add_space_prefix", "tokens", "scores", "token_type", "merges")
    rules = sorted(key for key in metadata if key.startswith("chatbridge.tokenizer."))
    for key in (*(f"tokenizer.ggml.{key}" for key in keys), *rules):
        value = metadata.get(key)
        if isinstance(value, GgufStrings):
            value = b"".join(len(item).to_bytes(4, "little") + item for item in value)
        elif isinstance(value, np.ndarray):
            value = value.tobytes()
        digest.update(f"{key.removeprefix('tokenizer.ggml.')}:".encode())
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return f"gguf-{digest.hexdigest()[:32]}"
