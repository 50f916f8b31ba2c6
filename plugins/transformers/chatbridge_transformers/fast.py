"""Reads `tokenizer.json` by the tokenizers library: byte-level and other BPE, Unigram, WordPiece.

Knows that file and that library; knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from chatbridge import ModelLoadError
from chatbridge_transformers.vocabulary import Encode, Pieces


def read(text: str, path: Path, named: Mapping[str, str], *, add_bos: bool | None) -> tuple[str, Encode, Pieces]:
    """What kind it is, how the file encodes, and what its ids stand for.

    `text`: what the file at `path` holds. `named`: the texts of `bos_token`, `eos_token` and so on, as
    tokenizer_config.json gives them. `add_bos`: whether prompts begin with the bos; None where the file itself says it.
    Raises ModelLoadError.
    """
    try:
        written = json.loads(text)
        first = Tokenizer.from_str(text)
        later = Tokenizer.from_str(json.dumps(_without_prefix(written)))
    except Exception as error:  # the library raises bare Exceptions
        raise ModelLoadError(f"{path}: this is no tokenizer.json ({error}); download it again") from error
    for tokenizer in (first, later):
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
    vocabulary: dict[str, int] = first.get_vocab(with_added_tokens=True)
    added = first.get_added_tokens_decoder()
    special = {token.content: number for number, token in added.items() if token.special}
    special |= {text: vocabulary[text] for key, text in named.items() if text in vocabulary and key != "unk_token"}
    others = {token.content: number for number, token in added.items() if token.content not in special}
    kind, spell = _spelling(written)
    text_of = {number: piece.encode() if number in added else spell(piece) for piece, number in vocabulary.items()}

    def encode(plain: str, start: bool) -> list[int]:
        ids: list[int] = (first if start else later).encode(plain, add_special_tokens=False).ids
        return ids

    bos = vocabulary.get(named.get("bos_token", ""))
    begins = first.encode("", add_special_tokens=True).ids[:1]
    if add_bos is None:
        add_bos = bool(begins) and (bos is None or begins[0] == bos)
        bos = begins[0] if add_bos else None
    eos = vocabulary.get(named.get("eos_token", ""))
    lstrip = frozenset(number for number, token in added.items() if token.lstrip)
    rstrip = frozenset(number for number, token in added.items() if token.rstrip)
    ends = () if eos is None else (eos,)
    pieces = Pieces(text_of, special, others, bos if add_bos else None, ends, lstrip=lstrip, rstrip=rstrip)
    return kind, encode, pieces


def _without_prefix(written: dict[str, Any]) -> dict[str, Any]:
    """The same file for a text that goes on with another: nothing puts a blank before it."""
    changed: dict[str, Any] = json.loads(json.dumps(written))
    for part in ("normalizer", "pre_tokenizer"):
        changed[part] = _changed(changed.get(part))
    return changed


def _changed(step: Any) -> Any:
    if not isinstance(step, dict):
        return step
    for key in ("normalizers", "pretokenizers"):
        if key in step:
            step[key] = [found for one in step[key] if (found := _changed(one)) is not None]
    if step.get("type") == "Prepend":
        return None
    if "prepend_scheme" in step:
        step["prepend_scheme"] = "never"
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    return step


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A part of the file and all parts in it."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from _steps(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _steps(inner)


def _spelling(written: dict[str, Any]) -> tuple[str, Any]:
    """What kind of tokenizer it is, and a function that gives a piece's bytes."""
    decoder = [*_steps(written.get("decoder")), *_steps(written.get("pre_tokenizer"))]
    kinds = {step.get("type") for step in decoder}
    model = (written.get("model") or {}).get("type", "BPE")
    if "ByteLevel" in kinds:
        letters = _byte_letters()

        def byte_level(piece: str) -> bytes:
            try:
                return bytes(letters[letter] for letter in piece)
            except KeyError:
                return piece.encode()

        return f"byte-level {model}", byte_level
    if "WordPiece" in kinds:
        prefix = (written.get("model") or {}).get("continuing_subword_prefix", "##")
        return "WordPiece", lambda piece: (
            piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"
        ).encode()
    suffix = next((step["suffix"] for step in decoder if step.get("type") == "BPEDecoder"), "")

    def spelled(piece: str) -> bytes:
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            try:
                return bytes([int(piece[3:5], 16)])
            except ValueError:
                pass
        if suffix and piece.endswith(suffix):
            piece = f"{piece.removesuffix(suffix)} "
        return piece.replace("▁", " ").encode()

    return f"{model} of characters", spelled


def _byte_letters() -> dict[str, int]:
    """Which byte each letter of a byte-level piece stands for (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
