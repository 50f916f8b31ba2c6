"""The vocabulary of a GGML file as GGUF has it: texts, scores and kinds of tokens. Reads the file's header alone.

GGML files hold what a token prints, so bytes stand there as bytes, and control tokens as nothing (llama.cpp,
convert-pth-to-ggml.py of March 2023, and convert.py until August 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import disagreement
from chatbridge.model_files.ggml import GgmlFile, read_ggml_vocabulary
from chatbridge.model_files.sentencepiece_files import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, read_sentencepiece
from chatbridge.model_tools.gguf.vocabulary import ADDED, Vocabulary

_FIRST = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
"""What the first three ids of LLaMA are, whatever a file says of them."""

_BYTES = range(3, 259)
_SPACE = "\u2581"


def vocabulary_of(found: GgmlFile) -> tuple[Vocabulary, Path]:
    """The vocabulary, and the file that its scores are from.

    Raises ModelLoadError for one that is none of SentencePiece's, or has no scores and none beside it.
    """
    written = read_ggml_vocabulary(found)
    kinds = [_kind(number, text, score) for number, (text, score) in enumerate(written)]
    there = sum(kinds[number] == BYTE for number in _BYTES if number < len(kinds))
    if there != len(_BYTES):
        told = disagreement("tokens that are one byte", ("a LLaMA of SentencePiece", len(_BYTES)), ("this file", there))
        raise ModelLoadError(f"{found.path}: {told}; convert the model that it was made from")
    tokens = [_text(number, text, kinds[number]) for number, (text, _) in enumerate(written)]
    if found.kind != "ggml":
        return _vocabulary(tokens, [score for _, score in written], kinds), found.path
    return _scored(found, tokens)


def _vocabulary(tokens: Sequence[bytes], scores: Sequence[float], kinds: Sequence[int]) -> Vocabulary:
    return Vocabulary(
        "llama", "default", tuple(tokens), tuple(kinds), tuple(scores), ids={"unk": 0, "bos": 1, "eos": 2},
        adds={"bos": True, "eos": False}, space_prefix=True,
    )  # fmt: skip


def _kind(number: int, text: bytes, score: float) -> int:
    if number < len(_FIRST):
        return _FIRST[number][1]
    if number in _BYTES and len(text) == 1:
        return BYTE
    if not text:
        return CONTROL
    return USER_DEFINED if score <= ADDED and score == int(score) else NORMAL


def _text(number: int, text: bytes, kind: int) -> bytes:
    if number < len(_FIRST):
        return _FIRST[number][0].encode()
    if kind == BYTE:
        return f"<0x{text[0]:02X}>".encode()
    if kind == CONTROL:
        return f"[PAD{number}]".encode()  # its name is not in the file
    return text if kind == USER_DEFINED else text.replace(b" ", _SPACE.encode())


def _scored(found: GgmlFile, tokens: list[bytes]) -> tuple[Vocabulary, Path]:
    """With the scores of the tokenizer.model beside the file, or above it, where Meta's has it."""
    places = [folder / "tokenizer.model" for folder in (found.path.parent, found.path.parent.parent)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ModelLoadError(
            f"{found.path}: a file of this age has tokens without scores, and without them text is read wrongly; put "
            f"the model's tokenizer.model beside it"
        )
    model = read_sentencepiece(file)
    if len(model.pieces) != len(tokens):
        told = disagreement("tokens", (file.name, len(model.pieces)), (found.path.name, len(tokens)))
        raise ModelLoadError(f"{file}: {told}; take the tokenizer.model of this model")
    for number, ((piece, _, kind), token) in enumerate(zip(model.pieces, tokens, strict=True)):
        if kind in (NORMAL, USER_DEFINED) and piece.encode() != token.replace(b" ", _SPACE.encode()):
            ours = token.decode("utf-8", "backslashreplace")
            raise ModelLoadError(
                f"{file}: token {number} is {piece!r:.60} there and {ours!r:.60} in {found.path.name}; take the "
                f"tokenizer.model of this model"
            )
    texts, scores, kinds = zip(*model.pieces, strict=True)
    return _vocabulary([text.encode() for text in texts], scores, kinds), file
