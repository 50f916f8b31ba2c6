"""The guide's tokenizer: SentencePiece BPE with bytes to fall back on, and the ids of a written-down dialogue.

Knows the chat format (ChatML without BOS), not the model.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from dialogue import Exchange, Writer, load_answers

SIZE = 3072
CONTROLS = ("<|im_start|>", "<|im_end|>")
SAMPLE = 60_000
"""How many generated questions the vocabulary is learned from."""


def train(path: Path, seed: int = 7, sample: int = SAMPLE) -> None:
    """Learn the pieces from `sample` generated questions and all answers; write the SentencePiece model."""
    writer = Writer(seed)
    answers = [text for entry in load_answers().values() for text in entry.values()]
    lines = [*answers * 20, *(writer.exchange().question for _ in range(sample))]
    lines += ["user\n", "assistant\n", "system\n", "The quick brown fox jumps over the lazy dog"] * 50
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        byte_fallback=True,
        character_coverage=0.9995,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        control_symbols=list(CONTROLS),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


class Vocabulary:
    """Ids of dialogues. `start` and `end` are the control ids around each turn."""

    def __init__(self, path: Path) -> None:
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.start, self.end = (self.pieces.piece_to_id(control) for control in CONTROLS)
        self._known: dict[str, list[int]] = {}

    def ids(
        self, exchanges: Iterable[Exchange], system: str = "", dropout: float = 0.0
    ) -> tuple[list[int], list[bool]]:
        """The ids of a dialogue, and which of them the model is to learn (the answers and their ends).

        `dropout`: the share of merges that are left out in questions (BPE-dropout, Provilkov et al. 2020), so that
        the model also meets the pieces of words, as it will in slips and in words that it was not taught.
        """
        ids: list[int] = []
        learned: list[bool] = []

        def add(tokens: list[int], learn: bool) -> None:
            ids.extend(tokens)
            learned.extend([learn] * len(tokens))

        if system:
            add([self.start, *self._text(f"system\n{system}"), self.end, *self._text("\n")], False)
        for exchange in exchanges:
            asked = self._text(f"user\n{exchange.question}", dropout)
            add([self.start, *asked, self.end, *self._text("\n")], False)
            add([self.start, *self._text("assistant\n")], False)
            add([*self._answer(exchange.answer), self.end], True)
            add(self._text("\n"), False)
        return ids, learned

    def prompt(self, question: str) -> list[int]:
        """The ids after which the answer to a single question begins."""
        asked = [self.start, *self._text(f"user\n{question}"), self.end, *self._text("\n")]
        return [*asked, self.start, *self._text("assistant\n")]

    def _text(self, text: str, dropout: float = 0.0) -> list[int]:
        return list(self.pieces.encode(text, enable_sampling=dropout > 0, alpha=dropout, nbest_size=-1))

    def _answer(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._text(text)
        return self._known[text]
