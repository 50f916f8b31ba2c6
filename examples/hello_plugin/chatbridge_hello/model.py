"""A language model in one file: it goes on as what it has read went on after the same last letters.

Knows bytes and counts; the scheduling, streaming, caching and the process it runs in are chatbridge's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from chatbridge import BackendType, LocalModel, LogitsSampler, ModelInfo, Options, Progress, Row, Sampling

EOS = 256

PRIMER = b"Good day! I go on as texts do that I have read, and I have read but little. What would you like me to read? "
"""What every conversation has read before it begins, or there would be nothing to imitate."""


class ImitatorOptions(Options):
    """Keys that a model of the `imitator` backend accepts in bots.yaml."""

    letters: Annotated[int, Field(ge=1, le=16, description="How many last bytes decide the next one.")] = 4


class Bytes:
    """A tokenizer whose ids are UTF-8 bytes. Plain text gives ids below 256, so nobody can forge the end token."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        return list(text.encode())

    def special(self, token: str) -> int | None:
        return EOS if token == "</s>" else None

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(token for token in tokens if token < EOS)


@dataclass(slots=True)
class Read:
    """All that one conversation's state is: what was read."""

    ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return 8 * len(self.ids)

    def fork(self) -> Read:
        return Read(list(self.ids))

    def trim(self, length: int) -> None:
        del self.ids[length:]

    def save(self) -> bytes:
        return np.array(self.ids, "<u2").tobytes()

    def release(self) -> None:
        self.ids.clear()


class Imitator:
    """A `LocalModel`."""

    def __init__(self, letters: int) -> None:
        self.tokenizer = Bytes()
        self._letters = letters
        self.info = ModelInfo(
            name="imitator",
            architecture="imitator",
            context_length=4096,
            vocab_size=EOS + 1,
            fingerprint=f"imitator-{letters}",
            vocabulary="bytes",
            eos=(EOS,),
            specials={"</s>": EOS},
            details={"letters": str(letters)},
        )

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> Read:
        return Read([] if saved is None else np.frombuffer(saved, "<u2").tolist())

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> LogitsSampler:
        return LogitsSampler(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        sampled = []
        for row in rows:
            state: Any = row.state
            state.ids += row.tokens
            sampled.append([] if row.sampler is None else [row.sampler.sample(self._logits(bytes_of(state.ids)))])
        return sampled

    def close(self) -> None:
        """Nothing to give back."""

    def _logits(self, read: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A count for each byte of how often it came after the same last letters; the longer the match, the better."""
        read = PRIMER + read
        scores = np.zeros(EOS + 1)
        for size in range(1, self._letters + 1):
            last = read[-size:]
            at = read.find(last)
            while 0 <= at < len(read) - size:
                scores[read[at + size]] += 10.0**size / 100
                at = read.find(last, at + 1)
        return np.log(scores + 1e-9)


def bytes_of(ids: Sequence[int]) -> bytes:
    """The ids as bytes; an end token that was read stands as a zero."""
    return bytes(i if i < EOS else 0 for i in ids)


def load(options: ImitatorOptions, progress: Progress) -> LocalModel:
    """Runs in the worker process, which imports it by its name."""
    progress(1.0, "ready to imitate")
    return Imitator(options.letters)


imitator = BackendType("imitator", ImitatorOptions, "imitates what it has read, letter by letter", load=load)
