"""BERT's WordPiece: words of a cleaned text, and the longest pieces of each. Knows pieces; knows no llama.cpp.

Devlin et al. 2018 (arXiv 1810.04805) as Hugging Face's tokenizers computes it: BertNormalizer, BertPreTokenizer,
WordPiece. llama.cpp's own differs in what it takes for an accent, a symbol, or too long a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from chatbridge import nfd
from chatbridge_llama_cpp.encoding import VocabularyEntry

_BEGIN = "▁"  # stands before a piece that begins a word
_MAX_WORD = 100
"""Characters of a word; a longer one is unknown."""

_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Characters that are words of their own; the sixth range begins where tokenizers has it, 0x100 late."""


class WordPiece:
    """An `Encoder`. `lowercase`, `strip_accents`: what is done to a text before it is cut into words."""

    def __init__(
        self, entries: Sequence[VocabularyEntry], *, unknown: int, lowercase: bool, strip_accents: bool
    ) -> None:
        known = [entry for entry in entries if entry.normal or entry.user_defined]
        self._first = {e.text[1:]: e.id for e in known if e.text.startswith(_BEGIN) and e.text != _BEGIN}
        self._later = {e.text: e.id for e in known if not e.text.startswith(_BEGIN) or e.text == _BEGIN}
        self._longest = max(map(len, (*self._first, *self._later)), default=0)
        self._unknown = unknown
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def encode(self, text: str, *, start: bool) -> list[int]:
        ids: list[int] = []
        for word in self.words(text):
            ids += self._pieces(word)
        return ids

    def words(self, text: str) -> Iterator[str]:
        """The cleaned text cut at blanks; each punctuation mark and each Chinese character is a word of its own."""
        for chunk in self._cleaned(text).split():
            begin = 0
            for at, character in enumerate(chunk):
                if _is_punctuation(character):
                    if at > begin:
                        yield chunk[begin:at]
                    yield character
                    begin = at + 1
            if begin < len(chunk):
                yield chunk[begin:]

    def _cleaned(self, text: str) -> str:
        text = "".join(map(_clean, text))
        if self._strip_accents:
            text = "".join(c for c in nfd(text) if unicodedata.category(c) != "Mn")
        # One by one, since what Σ becomes would depend on its neighbours.
        return "".join(map(str.lower, text)) if self._lowercase else text

    def _pieces(self, word: str) -> list[int]:
        """The longest piece that the word begins with, then that of the rest; the unknown token where one has none."""
        if len(word) > _MAX_WORD:
            return [self._unknown]
        ids: list[int] = []
        at, known = 0, self._first
        while at < len(word):
            ends = range(min(len(word), at + self._longest), at, -1)
            end = next((end for end in ends if word[at:end] in known), None)
            if end is None:
                return [self._unknown]
            ids.append(known[word[at:end]])
            at, known = end, self._later
        return ids


def _clean(character: str) -> str:
    if character in " \t\n\r":
        return " "
    if character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co"):
        return ""
    if character.isspace():
        return " "
    code = ord(character)
    return f" {character} " if any(low <= code <= high for low, high in _CHINESE) else character


def _is_punctuation(character: str) -> bool:
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")
