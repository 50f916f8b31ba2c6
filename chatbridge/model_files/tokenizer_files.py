"""What tokenizer files say: how many ids, which control tokens, whether there is a chat template. Encodes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.chat_templates import chat_template_from
from chatbridge.model_files.kinds import refuse_stand_ins
from chatbridge.model_files.reading import read_json_object
from chatbridge.model_files.sentencepiece_files import count_pieces

MAX_TEMPLATE = 1 << 20
"""Bytes of a chat template: the longest of today has 20 KB."""

_SENTENCEPIECE = ("tokenizer.model", "ice_text.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """A tokenizer. `size`: the number of its ids, up to the greatest; `specials`: control tokens by their text."""

    file: str
    size: int
    specials: Mapping[str, int] = field(default_factory=dict)


def tokenizer_in(folder: Path) -> TokenizerFacts | None:
    """The tokenizer in a folder, with the tokens that files beside it add; None where there is none.

    Raises ModelLoadError for one that is damaged.
    """
    found = _main(folder)
    if found is None:
        return None
    added = _added(folder)
    size = max([found.size, *(1 + number for number in added.values())])
    return TokenizerFacts(found.file, size, {**found.specials, **added})


def chat_template_in(folder: Path) -> str:
    """The chat template in a folder, from where the versions of transformers have put it; "" for none."""
    if (beside := folder / "chat_template.jinja").is_file():
        refuse_stand_ins(beside)
        with beside.open("rb") as file:
            raw = file.read(MAX_TEMPLATE + 1)
        return _template(beside, raw.decode("utf-8", "surrogateescape"))
    for name in ("tokenizer_config.json", "chat_template.json"):
        told = read_json_object(folder / name) if (folder / name).is_file() else {}
        if found := chat_template_from(told.get("chat_template")).source:
            return _template(folder / name, found)
    return ""


def _template(file: Path, text: str) -> str:
    """A chat template as a file has it. Raises ModelLoadError for one that would not be whole elsewhere."""
    if len(text) > MAX_TEMPLATE:
        raise ModelLoadError(f"{file}: its chat template is longer than {MAX_TEMPLATE:,} bytes; download it again")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ModelLoadError(f"{file}: its chat template is no text in UTF-8; download it again") from None
    return text


def _main(folder: Path) -> TokenizerFacts | None:
    if (file := folder / "tokenizer.json").is_file():
        return _fast(file)
    for name in _SENTENCEPIECE:
        if (folder / name).is_file():
            return TokenizerFacts(name, count_pieces(folder / name))
    if (file := folder / "vocab.json").is_file():
        ids = _ids(read_json_object(file))
        return TokenizerFacts(file.name, 1 + max(ids.values(), default=-1))
    return None


def _fast(file: Path) -> TokenizerFacts:
    """tokenizer.json of the tokenizers package."""
    written = read_json_object(file)
    model = written.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram
        size = len(vocabulary)
    elif isinstance(vocabulary, dict):
        size = 1 + max(_ids(vocabulary).values(), default=-1)
    else:
        raise ModelLoadError(f"{file}: this is no tokenizer.json: it has no vocabulary; download it again")
    added = written.get("added_tokens")
    tokens = [one for one in added if isinstance(one, dict)] if isinstance(added, list) else []
    ids = _ids({one.get("content"): one.get("id") for one in tokens if isinstance(one.get("content"), str)})
    specials = {one["content"] for one in tokens if one.get("special") and isinstance(one.get("content"), str)}
    return TokenizerFacts(
        file.name,
        max([size, *(1 + number for number in ids.values())]),
        {text: number for text, number in ids.items() if text in specials},
    )


def _added(folder: Path) -> dict[str, int]:
    """Tokens that files beside a tokenizer add to it."""
    found: dict[str, int] = {}
    if (file := folder / "added_tokens.json").is_file():
        found |= _ids(read_json_object(file))
    if (file := folder / "tokenizer_config.json").is_file():
        decoder = read_json_object(file).get("added_tokens_decoder")
        for number, token in decoder.items() if isinstance(decoder, dict) else ():
            if (
                re.fullmatch("[0-9]{1,9}", str(number))
                and isinstance(token, dict)
                and isinstance(token.get("content"), str)
            ):
                found[token["content"]] = int(number)
    return found


def _ids(written: Mapping[Any, Any]) -> dict[str, int]:
    return {
        text: number
        for text, number in written.items()
        if isinstance(text, str) and isinstance(number, int) and 0 <= number < 1 << 31
    }
