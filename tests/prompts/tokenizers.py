"""The recorded tokenizers behind chatbridge's protocol, so that prompts can be held against reference ids.

Control tokens that a preset wants and a fixture lacks are given ids of their own behind its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

from chatbridge.prompts import Prompt, Tokenizer
from chatbridge.prompts.segments import encode
from chatbridge.testing import fixtures
from chatbridge.types import ModelInfo

FIXTURES = fixtures()
PRESET_CONTROLS = (
    "[gMASK]", "<sop>", "<eop>", "[MASK]", "[sMASK]", "</s>", "<s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|endoftext|>", "[INST]", "[/INST]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>", "<|im_sep|>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>", "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|start_of_role|>",
    "<|end_of_role|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>",
)  # fmt: skip


@dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model. A text that goes on behind other tokens gets no blank put before it."""

    processor: sentencepiece.SentencePieceProcessor
    specials: Mapping[str, int]

    def encode(self, text: str, *, start: bool) -> list[int]:
        if start:
            return list(self.processor.encode(text))
        line_end = len(self.processor.encode("\n"))
        return list(self.processor.encode("\n" + text))[line_end:]

    def special(self, token: str) -> int | None:
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        raise NotImplementedError


class ChatGlm(SentencePiece):
    """The same with ChatGLM's own tokens for line ends, tabs and runs of blanks."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        text = re.sub(" {2,80}", lambda run: f"<|blank_{len(run[0])}|>", text)
        if start:
            return list(self.processor.encode(text))
        line_end = len(self.processor.encode("<n>"))
        return list(self.processor.encode("<n>" + text))[line_end:]


@dataclass(frozen=True)
class BytePairs:
    """A `tokenizer.json`, told not to look for control tokens in text."""

    tokenizer: tokenizers.Tokenizer
    specials: Mapping[str, int]

    def encode(self, text: str, *, start: bool) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def special(self, token: str) -> int | None:
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        raise NotImplementedError


@dataclass(frozen=True)
class Family:
    """A tokenizer with what its model would say about itself; `reference` encodes a whole text as the original."""

    name: str
    tokenizer: Tokenizer
    info: ModelInfo
    controls: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", frozenset(self.info.specials.values()))

    def ids(self, prompt: Prompt) -> list[int]:
        return encode(prompt, self.tokenizer, bos=self.info.bos, eos=self.info.eos[0])

    def count_controls(self, ids: Sequence[int]) -> int:
        return sum(one in self.controls for one in ids)


def there(path: str) -> Path:
    """A recorded file. The test, or the whole file of tests, is skipped where it is not among the records."""
    if not (FIXTURES / path).exists():
        pytest.skip(f"{path} is not among the records in {FIXTURES}", allow_module_level=True)
    return FIXTURES / path


def families() -> Iterator[Family]:
    """Every recorded tokenizer."""
    yield _sentencepiece("llama", "llama/tokenizer.model", SentencePiece, bos="<s>", eos="</s>")
    yield _sentencepiece(
        "chinese-alpaca", "llama/chinese-alpaca-lora/tokenizer.model", SentencePiece, bos="<s>", eos="</s>"
    )
    yield _sentencepiece("chatglm", "chatglm/chatglm-6b-tiny/ice_text.model", ChatGlm, bos=None, eos="<eop>")
    yield _byte_pairs("belle-bloom", "belle-bloom/hf/tokenizer.json", eos="</s>")
    yield _byte_pairs("rwkv", "rwkv/toy_20B_style_tokenizer.json", eos="<|endoftext|>")


def _sentencepiece(name: str, path: str, kind: type[SentencePiece], *, bos: str | None, eos: str) -> Family:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(there(path)))
    found = {
        processor.id_to_piece(i): i
        for i in range(processor.vocab_size())
        if processor.is_control(i) or processor.is_unknown(i)
    }
    # An unknown character becomes <unk>: that is no forgery, so it does not count as a control token here.
    found.pop("<unk>", None)
    ends = None if bos is None else processor.piece_to_id(bos), processor.piece_to_id(eos)
    return _family(name, lambda specials: kind(processor, specials), found, processor.vocab_size(), *ends)


def _byte_pairs(name: str, path: str, *, eos: str) -> Family:
    tokenizer = tokenizers.Tokenizer.from_file(str(there(path)))
    tokenizer.encode_special_tokens = True
    found = {added.content: i for i, added in tokenizer.get_added_tokens_decoder().items()}
    return _family(
        name, lambda specials: BytePairs(tokenizer, specials), found, tokenizer.get_vocab_size(), None, found[eos]
    )


def _family(name: str, make: Any, found: dict[str, int], size: int, bos: int | None, eos: int) -> Family:
    lacking = [token for token in PRESET_CONTROLS if token not in found]
    specials = {**found, **{token: size + at for at, token in enumerate(lacking)}}
    info = ModelInfo(name, name, 2048, size + len(lacking), name, name, (eos,), bos, specials=specials)
    return Family(name, make(specials), info)
