"""RWKV's two vocabularies: World's, which takes the longest piece there is, and the 20B one of Raven and Pile.

Knows texts and ids; knows no model. Text never becomes a control token.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError, is_mark
from chatbridge_rwkv import package

WORLD_SIZE, NEOX_SIZE = 65536, 50277
"""Rows of the embedding by which the two are told apart: nothing else in the files says it."""

END = 0
"""Ends a text in both."""

END_NAME = "<|endoftext|>"
_KEPT, _LONGEST_KEPT = 512, 8192
"""How many texts are remembered with their ids, and their characters at most: together some 50 MB in the worst case.

All but the newest text of a conversation come again with every prompt.
"""


class WorldTokenizer:
    """The World vocabulary: from left to right, always the longest piece. Safe to call from any thread.

    `path`: a file in the package's form, one `id 'piece' length` a line.
    """

    kind = "World"

    def __init__(self, path: Path | None = None) -> None:
        path = path or package.folder() / "rwkv_vocab_v20230424.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            pieces = dict(_world_entry(line) for line in lines if line)
        except (OSError, ValueError, SyntaxError, IndexError) as error:
            raise ModelLoadError(f"{path}: this is no World vocabulary ({error})") from error
        self._pieces: Mapping[int, bytes] = pieces
        self._ids = {piece: number for number, piece in pieces.items()}
        if missing := [byte for byte in range(256) if bytes([byte]) not in self._ids]:
            raise ModelLoadError(f"{path}: this is no World vocabulary: it has no piece for byte {missing[0]}")
        lengths: dict[bytes, set[int]] = {}
        for piece in self._ids:
            lengths.setdefault(piece[:2], set()).add(len(piece))
        # Of a piece with one byte the key is that byte: it is what is left where nothing longer fits.
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self.specials: Mapping[str, int] = {END_NAME: END}
        self.size = max(pieces) + 1
        self.fingerprint = _digest(self.kind, self._pieces)
        self._remembered = lru_cache(_KEPT)(self._encode)

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        return list(self._remembered(text) if len(text) <= _LONGEST_KEPT else self._encode(text))

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; the end and ids that stand for nothing have none."""
        return b"".join([self._pieces.get(token, b"") for token in tokens])

    def _encode(self, text: str) -> tuple[int, ...]:
        raw = text.encode("utf-8", "replace")
        ids, at, end = [], 0, len(raw)
        while at < end:
            for length in self._lengths.get(raw[at : at + 2], ()):
                found = self._ids.get(raw[at : at + length]) if at + length <= end else None
                if found is not None:
                    break
            else:
                length, found = 1, self._ids[raw[at : at + 1]]
            ids.append(found)
            at += length
        return tuple(ids)


class BpeTokenizer:
    """A `tokenizer.json` with byte-level pieces, as Raven's and Pile's. Safe to call from any thread."""

    kind = "20B"

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exceptions
            raise ModelLoadError(f"{path}: this is no tokenizer.json: {error}") from error
        self._tokenizer.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self.specials: Mapping[str, int] = {
            token.content: number for number, token in added.items() if token.special or is_mark(token.content)
        } or {END_NAME: END}
        # Those that the file doesn't call special would be found in text: there their names are cut in two.
        plain = [token.content for token in added.values() if not token.special and is_mark(token.content)]
        self._marks = re.compile(f"(?={'|'.join(map(re.escape, plain))})") if plain else None
        letters = _byte_letters()
        self._pieces: dict[int, bytes] = {}
        for piece, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if number in added:
                self._pieces[number] = piece.encode()
                continue
            try:
                self._pieces[number] = bytes(letters[letter] for letter in piece)
            except KeyError as error:
                raise ModelLoadError(f"{path}: its pieces are not byte-level ones: {piece!r}") from error
        for number in self.specials.values():
            self._pieces[number] = b""
        self.size = max(self._pieces) + 1
        self.fingerprint = _digest(self.kind, self._pieces)
        self._remembered = lru_cache(_KEPT)(self._encode)

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        return list(self._remembered(text) if len(text) <= _LONGEST_KEPT else self._encode(text))

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; control tokens have none."""
        return b"".join([self._pieces.get(token, b"") for token in tokens])

    def _encode(self, text: str) -> tuple[int, ...]:
        clean = text.encode("utf-8", "replace").decode()
        cuts = [match.start() + 1 for match in self._marks.finditer(clean)] if self._marks else []
        ids: list[int] = []
        for start, end in pairwise([0, *cuts, len(clean)]):
            ids += self._tokenizer.encode(clean[start:end], add_special_tokens=False).ids
        return tuple(ids)


RwkvTokenizer = WorldTokenizer | BpeTokenizer


def choose(named: str | Path | None, model: Path, vocab_size: int) -> RwkvTokenizer:
    """The tokenizer that is named ("world", a file), or else the one that fits the vocabulary's size.

    Raises: ModelLoadError where it can't be told, is not there, or has ids that the model has no rows for.
    """
    if named is None:
        named = _guess(model, vocab_size)
    if named == "world":
        tokenizer: RwkvTokenizer = WorldTokenizer()
    elif not Path(named).exists():
        raise ModelLoadError(f"tokenizer: {named}: there is no such file; write world, or name a file")
    elif Path(named).suffix == ".txt":
        tokenizer = WorldTokenizer(Path(named))
    else:
        tokenizer = BpeTokenizer(Path(named))
    if tokenizer.size > vocab_size:
        raise ModelLoadError(
            f"tokenizer: {named} has ids up to {tokenizer.size - 1}, and {model.name} has {vocab_size} rows: they do "
            f"not belong together; leave tokenizer out, or name the right one"
        )
    return tokenizer


def _guess(model: Path, vocab_size: int) -> str | Path:
    if vocab_size == WORLD_SIZE:
        return "world"
    for name in ("20B_tokenizer.json", "tokenizer.json"):
        beside = model.with_name(name)
        if vocab_size == NEOX_SIZE and beside.exists():
            return beside
    if vocab_size == NEOX_SIZE:
        raise ModelLoadError(
            f"{model}: Raven and Pile models need the 20B vocabulary: put 20B_tokenizer.json of BlinkDL/ChatRWKV "
            f"beside the model, or name it by tokenizer:"
        )
    raise ModelLoadError(
        f"{model}: a vocabulary of {vocab_size} is neither World's ({WORLD_SIZE}) nor the 20B one ({NEOX_SIZE}); name "
        f"its file by tokenizer:"
    )


def _world_entry(line: str) -> tuple[int, bytes]:
    start, end = line.index(" "), line.rindex(" ")
    piece = ast.literal_eval(line[start:end].strip())
    raw = piece.encode() if isinstance(piece, str) else bytes(piece)
    if len(raw) != int(line[end:]):
        raise ValueError(f"the piece of {line[:start]} has {len(raw)} bytes, not {line[end:].strip()}")
    return int(line[:start]), raw


def _byte_letters() -> dict[str, int]:
    """Which byte each letter of a byte-level piece stands for (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _digest(kind: str, pieces: Mapping[int, bytes]) -> str:
    digest = blake2b(kind.encode(), digest_size=12)
    for number, piece in sorted(pieces.items()):
        digest.update(f"{number} {len(piece)} ".encode() + piece)
    return f"rwkv-{kind.lower()}-{digest.hexdigest()}"
