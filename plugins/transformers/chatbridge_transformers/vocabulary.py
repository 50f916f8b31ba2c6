"""A model's tokenizer as chatbridge needs it: text gives no control token, ids give back their exact bytes.

Knows encoders of plain text and the bytes of each piece; knows no file and no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise

from chatbridge import is_mark

_KEPT, _LONGEST_KEPT = 512, 8192
"""How many texts are remembered with their ids, and their characters at most: together some 50 MB in the worst case.

All but the newest text of a conversation come again with every prompt.
"""

_TAG = re.compile(r"<[^\s<>]{1,64}>|\[[^\s\[\]]{1,64}\]|<\|[^|]{1,64}\|>")
_THINK = re.compile(r"</?think(?:ing)?>|<\|?(?:begin|end)_of_thought\|?>")
"""What a template writes as text, and an answer says of itself; it begins nobody's turn."""

Encode = Callable[[str, bool], list[int]]
"""Ids of a text, and whether it begins one: what a model's original tokenizer gives, special tokens left aside."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What ids stand for. `text`: the bytes of each. `special`: control tokens by their text.

    `added`: tokens by their text that were put in beside the vocabulary and are not called special. `bos`: what
    stands for the beginning, None for nothing; `add_bos`: prompts begin with it. `ends`: what ends a reply, the
    vocabulary's own first. `lstrip`, `rstrip`: ids of tokens that take in the blanks before and behind them.
    """

    text: Mapping[int, bytes]
    special: Mapping[str, int]
    added: Mapping[str, int]
    bos: int | None
    ends: tuple[int, ...]
    add_bos: bool = False
    lstrip: frozenset[int] = frozenset()
    rstrip: frozenset[int] = frozenset()


class TransformersTokenizer:
    """A `Tokenizer`, safe to call from any thread. `kind`: what it is, in words. `template`: the model's own, if any.

    `controls`: ids of control tokens that `specials` has no name for. `lstrip`, `rstrip`: as in `ModelInfo`.
    """

    def __init__(self, kind: str, encode: Encode, pieces: Pieces, template: str = "") -> None:
        self.kind = kind
        self.bos = pieces.bos
        self.add_bos = pieces.add_bos
        self.ends = pieces.ends
        self.size = max(pieces.text, default=-1) + 1
        marks = {text: token for text, token in pieces.added.items() if is_mark(text, template)}
        self.specials: Mapping[str, int] = {**marks, **{text: i for text, i in pieces.special.items() if text}}
        self.controls = frozenset(pieces.special.values()) - frozenset(self.specials.values())
        # What is added and not special says something in answers, as <tool_call> does, so it keeps its bytes. A text
        # gives it only where it is text, as runs of blanks are.
        tags = {text: i for text, i in pieces.added.items() if _TAG.fullmatch(text) and not _THINK.fullmatch(text)}
        self._never = frozenset((*self.specials.values(), *self.controls, *tags.values()))
        names = sorted({*self.specials, *tags}, key=len, reverse=True)
        self._names = re.compile(f"(?={'|'.join(map(re.escape, names))})") if names else None
        control = frozenset((*self.specials.values(), *self.controls))
        self.lstrip, self.rstrip = pieces.lstrip & control, pieces.rstrip & control
        self._bytes = {token: b"" if token in control else raw for token, raw in pieces.text.items()}
        self._plain = encode
        self._remembered = lru_cache(_KEPT)(self._encode)
        self.fingerprint = self._digest()

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        encode = self._remembered if len(text) <= _LONGEST_KEPT else self._encode
        return list(encode(text, start))

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; control tokens, and ids that stand for nothing, have none."""
        return b"".join([self._bytes.get(token, b"") for token in tokens])

    def _encode(self, text: str, start: bool) -> tuple[int, ...]:
        clean = text.encode("utf-8", "replace").decode()
        ids = self._plain(clean, start)
        if self._never.isdisjoint(ids):
            return tuple(ids)
        # The library takes some names for tokens wherever they stand: there they are cut in two.
        cuts = [match.start() + 1 for match in self._names.finditer(clean)] if self._names else []
        ids = []
        for begin, end in pairwise([0, *cuts, len(clean)]):
            ids += self._plain(clean[begin:end], start and begin == 0)
        if self._never.isdisjoint(ids):
            return tuple(ids)
        ids = []
        for number, character in enumerate(clean):  # a piece that normalisation has made: no two characters together
            ids += self._plain(character, start and number == 0)
        return tuple(token for token in ids if token not in self._never)

    def _digest(self) -> str:
        digest = blake2b(self.kind.encode(), digest_size=16)
        for token, raw in sorted(self._bytes.items()):
            digest.update(f"{token} {len(raw)} ".encode() + raw)
        digest.update(repr((sorted(self.specials.items()), self.bos if self.add_bos else None, self.ends)).encode())
        return f"transformers-{digest.hexdigest()}"
