"""Trains small SentencePiece models for the tests, changes their settings, and writes them as GGUF files' metadata.

Reads and appends Protocol Buffers' wire format by hand, as far as that needs (sentencepiece_model.proto).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import sentencepiece

from chatbridge.testing import sentencepiece_metadata

_NORMALIZER, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_BLANKS = 3, 2, 3, 4
TEXT = """
The bridge over the river is old, and the people who live there say it has always been there.
In the morning the boats go out, and in the evening they come home with fish and stories.
Who builds a bridge thinks of those who will walk over it; who walks over it thinks of the other side.
Über die Brücke gehen täglich tausend Menschen, und keiner weiß, wer sie gebaut hat.
这座桥很老，住在这里的人说它一直都在。早上船出去，晚上它们带着鱼和故事回来。
"""


def train(kind: str = "unigram", size: int = 150, **options: Any) -> bytes:
    """A model of `TEXT`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines() * 4),
        model_writer=model,
        model_type=kind,
        vocab_size=size,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def changed(model: bytes, *, dummy_prefix: bool, remove_blanks: bool, rules: bool = True) -> bytes:
    """The model with other settings, and without rules of normalisation where `rules` is false.

    What comes last in a message counts, and messages in messages are joined.
    """
    settings = bytes((_DUMMY_PREFIX << 3, dummy_prefix, _REMOVE_BLANKS << 3, remove_blanks))
    settings += b"" if rules else bytes((_CHARSMAP << 3 | 2, 0))
    return model + bytes((_NORMALIZER << 3 | 2, len(settings))) + settings


def unigram_metadata(model: bytes, *, dummy_prefix: bool, remove_blanks: bool, **more: Any) -> dict[str, Any]:
    """`tokenizer.ggml.*` of a Unigram model with these settings."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    metadata = sentencepiece_metadata(processor, **more) | {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
        "tokenizer.ggml.add_space_prefix": dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": remove_blanks,
    }
    if charsmap := _charsmap(model):
        metadata["tokenizer.ggml.precompiled_charsmap"] = charsmap
    return metadata


def _charsmap(model: bytes) -> bytes:
    normalizer = b"".join(value for number, value in _fields(model) if number == _NORMALIZER)
    return next((value for number, value in _fields(normalizer) if number == _CHARSMAP), b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that have a length, by number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 2:
            size, at = _varint(message, at)
            yield tag >> 3, message[at : at + size]
            at += size
        elif tag & 7 == 5:
            at += 4
        else:
            _, at = _varint(message, at)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 0x80:
            return value, at
