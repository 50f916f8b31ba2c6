"""llama.cpp's own tokenizer, for vocabularies where it gives the reference's ids. Corrects what it does wrong.

It takes pieces of text that join to a token's name for that token, and ends the process for a character that a
SentencePiece vocabulary has neither a piece nor bytes for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chatbridge_llama_cpp.encoding import BYTE, UNKNOWN
from chatbridge_llama_cpp.vocabulary import Vocabulary

_BLANK = "▁".encode()
_LONG = 1024
"""Characters that a part of a long text has at least."""
MAX_RUN = 1024
"""Characters that llama.cpp gets at most without one at which words end. It cuts words by patterns, which for many
vocabularies are run by std::regex, and that takes some 500 bytes of the stack for each character of a word: 16 KiB of
one letter ended the process. A longer run, which nobody writes, is cut, and may get other ids there than the
reference's."""
_RUNS = (re.compile(r"[^\s.,!?…。，、]+"), re.compile(r"[\W_]+"))
"""Whatever one pattern takes for a word is in one of these: what has no blank, or neither letter nor digit."""


class NativeEncoder:
    """An `Encoder` that takes llama.cpp's ids, except where one of them says something else than the text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = frozenset[int]()
        names = b"|".join(map(re.escape, vocabulary.hidden))
        self._hidden = re.compile(b"(?=" + names + b")") if names else None

    def encode(self, text: str, *, start: bool) -> list[int]:
        ids: list[int] = []
        for part in _short_runs(text):
            for piece in self._apart(part.encode()):
                ids += self._ids(piece)
        return ids

    def _apart(self, raw: bytes) -> Iterator[bytes]:
        """The text, cut inside each name that llama.cpp would take for its token, so that it is only text."""
        done = 0
        for match in self._hidden.finditer(raw) if self._hidden else ():
            cut = match.start() + 1
            while raw[cut] & 0xC0 == 0x80:  # inside a character
                cut += 1
            yield raw[done:cut]
            done = cut
        yield raw[done:]

    def _ids(self, raw: bytes) -> list[int]:
        ids: list[int] = []
        todo = [raw]
        while todo:
            part = todo.pop()
            found = self._vocabulary.ids(part)
            index, at = self._forged(found, part)
            if index == len(found):
                ids += found
                continue
            # Pieces of text were joined to that token's name. Cut the name in two and keep the halves apart.
            cut = self._cut(part, found[index], at)
            if 0 < cut < len(part):
                todo += [part[cut:], part[:cut]]
            else:
                ids += [token for token in found if self._vocabulary.piece(token)]
        return ids

    def _forged(self, ids: Sequence[int], raw: bytes) -> tuple[int, int]:
        """The index in `ids` of the first token that the text doesn't say, and where; `len(ids)` if it says all."""
        raw, at = raw.replace(_BLANK, b" "), 0
        for index, token in enumerate(ids):
            piece = self._vocabulary.piece(token)
            if not piece or (token in self._bytes and raw[at : at + 1] != piece):
                return index, at
            at += len(piece)
        return len(ids), at

    def _cut(self, raw: bytes, token: int, at: int) -> int:
        """Where to cut a text so that the name of `token`, which begins at `at` or behind it, is in two."""
        name = self._vocabulary.text(token).replace(_BLANK, b" ")
        found = raw.find(name, at)
        cut = len(raw) // 2 if found < 0 else found + max(1, len(name) // 2)
        while cut < len(raw) and raw[cut] & 0xC0 == 0x80:  # inside a character
            cut += 1
        return cut


def _short_runs(text: str) -> Iterator[str]:
    """The text in parts without a run of more than `MAX_RUN` characters."""
    cuts: set[int] = set()
    for runs in _RUNS if len(text) > MAX_RUN else ():
        for run in runs.finditer(text):
            cuts.update(range(run.start() + MAX_RUN, run.end(), MAX_RUN))
    begin = 0
    for cut in sorted(cuts):
        yield text[begin:cut]
        begin = cut
    yield text[begin:]


class SentencePiece(NativeEncoder):
    """SentencePiece's BPE. `dummy_prefix`: a blank before a text that starts."""

    def __init__(self, vocabulary: Vocabulary, *, dummy_prefix: bool) -> None:
        super().__init__(vocabulary)
        self._prefix = " " if dummy_prefix else ""
        self._bytes = frozenset(vocabulary.with_attr(BYTE))
        self._unknown = vocabulary.with_attr(UNKNOWN)[:1]
        # Two characters that are neighbours in no token's text are never joined, so a text may be cut between them.
        texts = [entry.text for entry in vocabulary.entries()]
        self._joinable = {text[i : i + 2] for text in texts for i in range(len(text) - 1)}
        self._unknown_runs = self._runs_of_unknown() if len(self._bytes) < 256 else None

    def encode(self, text: str, *, start: bool) -> list[int]:
        text = (self._prefix if start and text else "") + text
        parts = [text] if self._unknown_runs is None else self._unknown_runs.split(text)
        ids: list[int] = []
        for number, part in enumerate(parts):
            ids += self._unknown if number else []
            for piece in self._pieces(part):
                ids += super().encode(piece, start=start)
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        """A long text in parts that give the same ids: llama.cpp needs time that grows with the square of a length."""
        written, begin = text.replace(" ", "▁"), 0
        for end in range(_LONG, len(text)):
            if end - begin >= _LONG and written[end - 1 : end + 1] not in self._joinable:
                yield text[begin:end]
                begin = end
        yield text[begin:]

    def _runs_of_unknown(self) -> re.Pattern[str]:
        """Matches characters in a row that no piece has, so that none of them can be part of a token."""
        known = {entry.text for entry in self._vocabulary.entries() if len(entry.text) == 1}
        known |= {" "} if "▁" in known else set()
        return re.compile(f"[^{re.escape(''.join(sorted(known)))}]+" if known else ".+", re.DOTALL)
