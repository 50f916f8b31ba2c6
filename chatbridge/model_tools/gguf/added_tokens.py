"""What the files beside a tokenizer say: added tokens, special ones, what a text gets before and after it.

Knows tokenizer_config.json, special_tokens_map.json, added_tokens.json and the end of tokenizer.json; no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.model_files.reading import read_json_object

SPECIAL = ("bos", "eos", "unk", "sep", "pad", "mask")
"""Special tokens that a GGUF file can name."""

_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
"""Texts of control tokens that folders call ordinary, as llama.cpp's converter knows them."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is no part of the tokenizer's own model. `special`: a control token, which no text makes. `lstrip`,
    `rstrip`: whether it takes in the blanks before and behind it."""

    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, slots=True)
class Beside:
    """`config`: tokenizer_config.json. `fast`: tokenizer.json. `texts`: of special tokens, by their names ("bos").
    `adds`: whether a text gets "bos" and "eos", where it is said. `added`: by id."""

    config: Mapping[str, Any] = field(default_factory=dict)
    fast: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    adds: Mapping[str, bool] = field(default_factory=dict)
    added: Mapping[int, AddedToken] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Beside:
        """What is said in a folder. Raises ModelLoadError for files that are damaged."""
        config, named, fast, added = (
            read_json_object(folder / name) if (folder / name).is_file() else {}
            for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "added_tokens.json")
        )
        said = {name: _text(config.get(f"{name}_token")) or _text(named.get(f"{name}_token")) for name in SPECIAL}
        texts = {name: text for name, text in said.items() if text}
        more = named.get("additional_special_tokens")
        special = {*texts.values(), *map(_text, more if isinstance(more, list) else ())}
        adds = {name: config.get(f"add_{name}_token") for name in ("bos", "eos")}
        return cls(
            config,
            fast,
            texts,
            {name: wanted for name, wanted in adds.items() if isinstance(wanted, bool)},
            _added(fast, added, config, special),
        )

    def special_ids(
        self, by_text: Mapping[str, int], known: Mapping[str, int], config: Mapping[str, Any], rows: int
    ) -> tuple[dict[str, int], list[str]]:
        """The ids of special tokens, and where config.json says others. `by_text`: the vocabulary.

        Texts that the tokenizer's files name are believed first, then its own model (`known`), and config.json last.
        """
        found: dict[str, int] = {}
        notes = []
        for name in SPECIAL:
            text = self.texts.get(name, "")
            said = config.get(f"{name}_token_id")
            said = said[0] if isinstance(said, list) and said else said
            last = said if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < rows else None
            number = by_text.get(text, known.get(name, last))
            if number is None:
                continue
            found[name] = number
            if last is not None and last != number:
                notes.append(f"{name}: config.json says {last:,}, and the tokenizer {number:,}, which is taken")
        return found, notes


def _added(
    fast: Mapping[str, Any], plain: Mapping[str, Any], config: Mapping[str, Any], special: set[str]
) -> dict[int, AddedToken]:
    """Of all three files; what tokenizer_config.json says is the last word."""
    found: dict[int, AddedToken] = {}

    def add(number: Any, token: Mapping[str, Any], *, later: bool = True) -> None:
        text = token.get("content")
        if not isinstance(text, str) or not isinstance(number, int) or not 0 <= number < 1 << 31:
            return
        if later or number not in found:
            special = token.get("special") is True or bool(_LOOKS_SPECIAL.fullmatch(text))
            found[number] = AddedToken(text, special, token.get("lstrip") is True, token.get("rstrip") is True)

    listed = fast.get("added_tokens")
    for token in listed if isinstance(listed, list) else ():
        if isinstance(token, dict):
            add(token.get("id"), token)
    for text, number in plain.items():
        add(number, {"content": text, "special": text in special}, later=False)
    decoder = config.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and re.fullmatch("[0-9]{1,9}", str(number)):
            add(int(number), token)
    return found


def _text(written: Any) -> str:
    """The text of a token, which is written plainly or as an object."""
    content = written.get("content") if isinstance(written, dict) else written
    return content if isinstance(content, str) else ""
