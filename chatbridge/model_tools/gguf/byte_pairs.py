"""Reads byte-pair tokenizers: tokenizer.json, or vocab.json with merges.txt. Encodes nothing.

A tokenizer.json whose merges work on characters was a SentencePiece model before; it is turned back into one, whose
scores are the ranks of the merges. Knows no special tokens but those that a text gets before and after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.model_files.kinds import refuse_stand_ins
from chatbridge.model_files.sentencepiece_files import BYTE, NORMAL, UNKNOWN
from chatbridge.model_tools.gguf.pre_tokenizers import OF_CLASSES, PRE_TOKENIZERS, pre_tokenizer

MAX_MERGES = 64 << 20
"""Bytes that are read of a merges.txt."""

_BLANK, _WRITTEN_BLANK = " ", chr(ord(" ") + 256)
"""A blank in a merge, which stands between the two in GGUF, and what it is written as."""

_NORMALIZERS = ("NFC", "Prepend", "Replace", "Sequence")
"""What is done to a text before it is cut, and done by our backends, too: a key of the file tells them of NFC."""

_LONGEST = 200
"""Characters of a token that are looked at for other ways to put it together; words have a tenth of it."""

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class BytePairs:
    """`ids`: by token. `merges`: as a GGUF file has them. `pre`: llama.cpp's name, "" for a former SentencePiece model.
    `adds`, `ends`: whether a text gets "bos" and "eos", and which tokens these are, where the file says so.
    `space_prefix`: whether it gets a blank. `unknown`: the token for what has no other. `nfc`: whether it is brought
    into Unicode's form NFC first; None where the files don't say."""

    ids: Mapping[str, int]
    merges: Sequence[str]
    pre: str = ""
    adds: Mapping[str, bool] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)
    space_prefix: bool = True
    unknown: str = ""
    notes: Sequence[str] = ()
    nfc: bool | None = None


def from_json(written: Mapping[str, Any]) -> BytePairs:
    """Of a tokenizer.json. Raises ValueError, in words, for what llama.cpp does not have."""
    model = written.get("model")
    if not isinstance(model, dict) or (kind := model.get("type", "BPE")) != "BPE":
        raise ValueError(f"it is no byte-pair tokenizer ({str(kind)[:50] if isinstance(model, dict) else 'no model'})")
    ids = _vocabulary(model.get("vocab"))
    merges = _merges(model.get("merges"))
    if not merges:
        raise ValueError("it has no merges")
    adds, ends = _ends(written.get("post_processor"))
    normalizers = {str(one.get("type")) for one in _flat(written.get("normalizer"), "normalizers")}
    unlike = sorted(normalizers - set(_NORMALIZERS))
    notes = [f"it changes texts by {', '.join(unlike)} before it cuts them, which llama.cpp does not"] if unlike else []
    if model.get("byte_fallback"):
        prefix, unknown = _space_prefix(written), str(model.get("unk_token") or "")
        return BytePairs(ids, merges, "", adds, ends, prefix, unknown, notes, "NFC" in normalizers)
    steps = pre_tokenizer(written.get("pre_tokenizer"))
    if (pre := PRE_TOKENIZERS.get(steps)) is None:
        raise ValueError(f"llama.cpp's name for how it cuts words is not known here: {' then '.join(steps)[:300]}")
    return BytePairs(ids, merges, pre, adds, ends, False, notes=notes, nfc="NFC" in normalizers)


def from_words(ids: Mapping[str, Any], merges: Path, tokenizer_class: str) -> BytePairs:
    """Of vocab.json and merges.txt. Raises ValueError, and ModelLoadError for files that can't be read."""
    if (pre := OF_CLASSES.get(tokenizer_class)) is None:
        raise ValueError(f"how a {tokenizer_class[:50] or 'tokenizer without a name'} cuts words is not known here")
    refuse_stand_ins(merges)
    with merges.open("rb") as file:
        raw = file.read(MAX_MERGES + 1)
    if len(raw) > MAX_MERGES:
        raise ValueError(f"{merges.name} has more than {MAX_MERGES:,} bytes")
    try:
        lines = raw.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{merges.name} is no text in UTF-8 (byte {error.start:,})") from None
    return BytePairs(_vocabulary(ids), [line for line in lines if line and not line.startswith("#version")], pre)


def scored(found: BytePairs, last: float) -> tuple[dict[int, tuple[str, float, int]], list[str]]:
    """The pieces of the SentencePiece model that it was, by id, and what is not as it was.

    Those made by an earlier merge have a higher score; what no merge makes has the score `last`, but for characters.
    """
    ranks: dict[str, int] = {}
    pairs = set()
    for merge in found.merges:
        left, _, right = merge.partition(_BLANK)
        pairs.add((left, right))
        ranks.setdefault(left + right, len(ranks))
    pieces = {}
    foreign = 0
    for text, number in found.ids.items():
        kind = BYTE if _BYTE_PIECE.fullmatch(text) else UNKNOWN if text == found.unknown else NORMAL
        alone = len(text) == 1 or kind == BYTE
        pieces[number] = (text, float(-ranks.get(text, len(ranks))) if alone or text in ranks else last, kind)
        long = kind != NORMAL or len(text) > _LONGEST
        halves = ((text[:at], text[at:]) for at in range(1, 1 if long else len(text)))
        foreign += any(a in found.ids and b in found.ids and (a, b) not in pairs for a, b in halves)
    more = f"{foreign:,} tokens can be put together in more ways than its merges say, and llama.cpp takes each of them"
    return pieces, [more] if foreign else []


def _vocabulary(written: Any) -> dict[str, int]:
    if not isinstance(written, dict) or not written:
        raise ValueError("it has no vocabulary")
    found = {
        text: number
        for text, number in written.items()
        if isinstance(text, str) and isinstance(number, int) and 0 <= number < 1 << 31
    }
    if len(found) < len(written):
        raise ValueError("its vocabulary holds what is no id")
    return found


def _merges(written: Any) -> list[str]:
    """As lines, whatever the version of the tokenizers package that wrote them."""
    found = []
    for merge in written if isinstance(written, list) else ():
        if isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
            found.append(_BLANK.join(part.replace(_BLANK, _WRITTEN_BLANK) for part in merge))
        elif isinstance(merge, str) and _BLANK in merge:
            found.append(merge)
        else:
            raise ValueError(f"a merge is {str(merge)[:50]!r}")
    return found


def _ends(written: Any) -> tuple[dict[str, bool], dict[str, str]]:
    """Whether a text gets "bos" and "eos", and which, by the `post_processor`."""
    adds: dict[str, bool] = {}
    ends: dict[str, str] = {}
    for one in _flat(written, "processors"):
        if one.get("type") == "ByteLevel":
            adds = {"bos": False, "eos": False} | adds
        single = one.get("single")
        if one.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            for name, item in (("bos", single[0]), ("eos", single[-1])):
                token = item.get("SpecialToken") if isinstance(item, dict) else None
                adds[name] = isinstance(token, dict)
                if isinstance(token, dict) and isinstance(token.get("id"), str):
                    ends[name] = token["id"]
    return adds, ends


def _space_prefix(written: Mapping[str, Any]) -> bool:
    """Whether a text gets a blank before it: by the normalizer of old files, or the Metaspace of newer ones."""
    if any(one.get("type") == "Prepend" for one in _flat(written.get("normalizer"), "normalizers")):
        return True
    spaces = [one for one in _flat(written.get("pre_tokenizer"), "pretokenizers") if one.get("type") == "Metaspace"]
    return any(one.get("prepend_scheme", "always") != "never" and one.get("add_prefix_space", True) for one in spaces)


def _flat(written: Any, inner: str) -> list[dict[str, Any]]:
    """One step of a tokenizer.json, or those of a sequence of them."""
    if not isinstance(written, dict):
        return []
    steps = written.get(inner)
    if not isinstance(steps, list):
        return [written]
    return [found for one in steps for found in _flat(one, inner)]
