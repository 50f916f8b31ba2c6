"""The tokenizer that a GGUF file describes: text to ids and back. Knows no template and no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from chatbridge import GgufStrings, ModelLoadError, nfc
from chatbridge_numpy.bpe import LETTERS, BpeEncoder
from chatbridge_numpy.spm import SPACE, SpmEncoder
from chatbridge_numpy.vocabulary import BYTE, UNKNOWN, USER_DEFINED, Vocabulary, numbers, read_vocabulary

_UNKNOWN_TEXT = " ⁇ ".encode()  # as SentencePiece shows it


class Encoder(Protocol):
    """One way of cutting text into tokens."""

    def prepare(self, text: str, *, start: bool) -> str:
        """The text as the vocabulary writes it. `start`: it begins a prompt, or follows a control token."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a part of prepared text."""
        ...


class GgufTokenizer:
    """A `Tokenizer`, safe to call from any thread. `bytes_of`: each id's bytes; `kind`: its name, for people."""

    def __init__(self, vocabulary: Vocabulary, encoder: Encoder, bytes_of: Sequence[bytes], kind: str) -> None:
        self.vocabulary = vocabulary
        self.kind = f"{kind}; {vocabulary.rules.words}" if vocabulary.rules.words else kind
        self._encoder = encoder
        self._bytes_of = bytes_of
        self._user_defined = vocabulary.of_kind(USER_DEFINED)
        longest_first = sorted(self._user_defined, key=len, reverse=True)
        self._user_defined_pattern = re.compile("|".join(map(re.escape, longest_first))) if self._user_defined else None

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        text = text.encode("utf-8", "replace").decode()
        text = nfc(text) if self.vocabulary.rules.nfc else text
        text = self._encoder.prepare(text, start=start)
        if self._user_defined_pattern is None:
            return self._encoder.encode(text)
        ids: list[int] = []
        at = 0
        for match in self._user_defined_pattern.finditer(text):
            ids += self._encoder.encode(text[at : match.start()])
            ids.append(self._user_defined[match.group()])
            at = match.end()
        return ids + self._encoder.encode(text[at:])

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.vocabulary.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; control tokens have none."""
        bytes_of = self._bytes_of
        return b"".join([bytes_of[token] for token in tokens])


def read_tokenizer(metadata: Mapping[str, Any], path: Path) -> GgufTokenizer:
    """The tokenizer in a file's metadata. Raises ModelLoadError where it is incomplete or of another kind."""
    vocabulary = read_vocabulary(metadata, path)
    model = metadata.get("tokenizer.ggml.model")
    if model == "llama":
        scores = numbers(metadata, "scores", vocabulary.size, path)
        if not scores or "tokenizer.ggml.token_type" not in metadata:
            raise ModelLoadError(
                f"{path}: the tokenizer lacks the scores or the types of its tokens; convert the model again"
            )
        prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        spm = SpmEncoder(vocabulary, scores, path, space_prefix=prefix)
        return GgufTokenizer(vocabulary, spm, _bytes_of_ids(vocabulary, _spm_bytes), "SentencePiece BPE")
    if model == "gpt2":
        merges = metadata.get("tokenizer.ggml.merges")
        if not isinstance(merges, GgufStrings):
            raise ModelLoadError(f"{path}: the tokenizer lacks its merges; convert the model again")
        pre = str(metadata.get("tokenizer.ggml.pre", "default"))
        bpe = BpeEncoder(vocabulary, merges, pre, path)
        without = f", without {len(bpe.missing)} of the 256 bytes, which are not read" if bpe.missing else ""
        kind = f"byte-level BPE ({pre}){without}"
        return GgufTokenizer(vocabulary, bpe, _bytes_of_ids(vocabulary, _bpe_bytes), kind)
    raise ModelLoadError(
        f"{path}: the tokenizer is of kind {model!r}, and the numpy backend knows 'llama' and 'gpt2'; use "
        f"backend: llama_cpp"
    )


def _bytes_of_ids(vocabulary: Vocabulary, plain: Callable[[str, int], bytes]) -> list[bytes]:
    """The bytes of each id. `plain`: gives those of a plain or user-defined piece and its kind."""
    table = []
    for i, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.kinds, strict=True)):
        if i in vocabulary.controls:
            table.append(b"")
        elif kind == UNKNOWN:
            table.append(_UNKNOWN_TEXT)
        elif kind == BYTE:
            table.append(bytes([int(piece[3:5], 16)]))
        else:
            table.append(plain(piece, kind))
    return table


def _spm_bytes(piece: str, kind: int) -> bytes:
    return piece.replace(SPACE, " ").encode("utf-8", "surrogateescape")


def _bpe_bytes(piece: str, kind: int) -> bytes:
    if kind != USER_DEFINED and all(letter in _BYTES for letter in piece):
        return bytes(_BYTES[letter] for letter in piece)
    return piece.encode("utf-8", "surrogateescape")


_BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}
