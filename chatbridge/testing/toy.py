"""A model whose next token is a hash of every token it has seen: a wrong cache or a mixed-up batch changes the text.

For tests of anything that runs a `LocalModel`. It also keeps its callers to the contract and raises AssertionError
where they break it. Knows nothing of language.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from chatbridge.config.options import Options
from chatbridge.engine.backend import BackendType, LocalModel, Progress, Row
from chatbridge.engine.sampler import LogitsSampler
from chatbridge.errors import ModelLoadError
from chatbridge.sampling import Sampling
from chatbridge.types import ModelInfo

LETTERS = 256
SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<sop>")
VOCABULARY = LETTERS + len(SPECIALS)
BOS, EOS = LETTERS, LETTERS + 1
SOP = LETTERS + SPECIALS.index("<sop>")


Doom = Literal["kill", "crash", "hang", "memory"]
"""How a process ends: by SIGKILL, as where memory runs out; in native code, by SIGSEGV; not at all, though it does
nothing any more; or it asks for more memory than there is (MemoryError)."""


def meet(doom: Doom) -> None:
    """Let this process meet its doom."""
    if doom == "hang":
        while True:
            time.sleep(3600)
    if doom == "memory":
        raise MemoryError("no memory is left")
    os.kill(os.getpid(), signal.SIGKILL if doom == "kill" else signal.SIGSEGV)


class ToyTokenizer:
    """One id for each byte, and a few control tokens behind them."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def special(self, token: str) -> int | None:
        return LETTERS + SPECIALS.index(token) if token in SPECIALS else None

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(token for token in tokens if token < LETTERS)


@dataclass(slots=True, eq=False)
class ToyState:
    """A running hash for each length, which an adapter begins elsewhere.

    `context`: how many tokens were read in both directions, so that each of their hashes is of all of them. `waits`:
    how many steps more its first row is left for later.
    """

    model: ToyModel
    digests: list[bytes]
    released: bool = False
    context: int = 0
    waits: int = 0

    @property
    def length(self) -> int:
        return len(self.digests) - 1

    @property
    def nbytes(self) -> int:
        return 8 * len(self.digests)

    def fork(self) -> ToyState:
        assert not self.released, "a released state was forked"
        return self.model.own(ToyState(self.model, list(self.digests), context=self.context))

    def trim(self, length: int) -> None:
        assert self.model.info.can_trim, "a state that can't trim was trimmed"
        assert not self.released, "a released state was trimmed"
        assert 0 <= length <= self.length, f"can't trim {self.length} tokens to {length}"
        assert length in (0, self.length) or length >= self.context, "trimmed inside of what was read whole"
        del self.digests[length + 1 :]

    def save(self) -> bytes:
        return b"".join((self.context.to_bytes(8, "little"), *self.digests))

    def release(self) -> None:
        assert not self.released, "a state was released twice"
        self.released = True
        self.model.live -= 1

    def consume(self, tokens: Sequence[int]) -> bytes:
        if self.model.bidirectional and not self.length:
            self.context = list(tokens).index(SOP)
            whole = self.digests[0]
            for token in tokens[: self.context]:
                whole = _digest(whole, token)
            self.digests += [_digest(whole, token) for token in tokens[: self.context]]
            tokens = tokens[self.context :]
        for token in tokens:
            self.digests.append(_digest(self.digests[-1], token))
        return self.digests[-1]


@dataclass(slots=True, eq=False)
class ToyModel:
    """A `LocalModel` without a model.

    Its letters are a to z and blanks; `eos_every`: about one token in so many ends the reply. `fail_on`: consuming
    this token raises an error. `crash_file`: holds a number, how often the process kills itself by `crash_signal` in
    step `crash_after`. `dooms`: what befalls the process that consumes a token, by its id as a string. `step_seconds`:
    how long a step takes at least. `adapters`: names, each of which makes it say something else. `steps`: the rows'
    lengths in each step; `live`: states that are not released. `bidirectional`: it reads what stands before `<sop>` in
    both directions, and leaves such a row for `slices` steps before it is done.
    """

    context_length: int = 4096
    max_batch: int = 16
    max_states: int | None = None
    can_trim: bool = True
    eos_every: int = 40
    fail_on: int | None = None
    crash_file: str = ""
    crash_signal: int = signal.SIGTERM
    crash_after: int = 0
    dooms: Mapping[str, Doom] = field(default_factory=dict)
    step_seconds: float = 0.0
    adapters: tuple[str, ...] = ()
    bidirectional: bool = False
    slices: int = 0
    live: int = 0
    steps: list[list[int]] = field(default_factory=list)
    tokenizer: ToyTokenizer = field(default_factory=ToyTokenizer)
    info: ModelInfo = field(init=False)

    def __post_init__(self) -> None:
        self.info = ModelInfo(
            name="toy",
            architecture="toy",
            context_length=self.context_length,
            vocab_size=VOCABULARY,
            fingerprint=f"toy-{self.eos_every}{'-bidirectional' * self.bidirectional}",
            vocabulary="toy-bytes",
            bos=BOS,
            eos=(EOS,),
            max_batch=self.max_batch,
            max_states=self.max_states,
            can_trim=self.can_trim,
            bidirectional_until=SOP if self.bidirectional else None,
            specials={name: LETTERS + i for i, name in enumerate(SPECIALS)},
            adapters={name: f"toy-{name}" for name in self.adapters},
        )

    def own(self, state: ToyState) -> ToyState:
        self.live += 1
        assert self.max_states is None or self.live <= self.max_states, "more states than max_states"
        return state

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> ToyState:
        assert not adapter or adapter in self.adapters, f"there is no adapter {adapter}"
        start = blake2b(adapter.encode(), digest_size=len(_START)).digest() if adapter else _START
        size = len(start)
        context = int.from_bytes(saved[:8], "little") if saved else 0
        digests = [saved[i : i + size] for i in range(8, len(saved), size)] if saved else [start]
        assert digests[0] == start, "a state of another adapter"
        return self.own(ToyState(self, digests, context=context, waits=self.slices))

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> LogitsSampler:
        return LogitsSampler(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        assert 0 < len(rows) <= self.max_batch, f"{len(rows)} rows in a step"
        assert len({id(row.state) for row in rows}) == len(rows), "one state in two rows"
        self.steps.append([len(row.tokens) for row in rows])
        if self.fail_on is not None and any(self.fail_on in row.tokens for row in rows):
            raise ValueError(f"this model chokes on {self.fail_on}")
        self._maybe_crash()
        for token, doom in self.dooms.items():
            if any(int(token) in row.tokens for row in rows):
                meet(doom)
        if self.step_seconds:
            time.sleep(self.step_seconds)
        return [self._row(row) for row in rows]

    def close(self) -> None:
        assert self.live == 0, f"{self.live} states were never released"

    def _row(self, row: Row) -> list[int]:
        state: Any = row.state
        assert not state.released, "a released state was stepped"
        assert len(row.tokens) > 0, "a row without tokens"
        assert all(0 <= token < VOCABULARY for token in row.tokens), "a token outside the vocabulary"
        assert state.length + len(row.tokens) <= self.context_length, "longer than the context"
        if self.bidirectional and not state.length:
            assert SOP in row.tokens, "a first row without <sop>"
            if state.waits:
                state.waits -= 1
                return []
        digest = state.consume(row.tokens)
        return [] if row.sampler is None else [row.sampler.sample(self.logits(digest))]

    def logits(self, digest: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Scores from a hash: five likely letters, and now and then the end."""
        scores = np.full(VOCABULARY, -20.0)
        for rank, byte in enumerate(digest[:5]):
            scores[_ALPHABET[byte % len(_ALPHABET)]] = 5.0 - rank
        if int.from_bytes(digest[5:], "little") % self.eos_every == 0:
            scores[EOS] = 30.0
        return scores

    def _maybe_crash(self) -> None:
        # The file remembers, over restarts of the worker, how often to crash still.
        if not self.crash_file or len(self.steps) != self.crash_after:
            return
        with Path(self.crash_file).open("r+", encoding="ascii") as file:
            left = int(file.read() or 0)
            file.seek(0)
            file.write(str(max(0, left - 1)).zfill(3))
        if left > 0:
            os.kill(os.getpid(), self.crash_signal)


class ToyOptions(Options):
    """Keys that a model of the `toy` backend accepts."""

    context_length: int = 4096
    can_trim: bool = True
    eos_every: int = 40
    crash_file: str = ""
    crash_signal: int = signal.SIGTERM
    crash_after: int = 0
    dooms: Annotated[dict[str, Doom], Field(default_factory=dict)]
    step_seconds: float = 0.0
    adapters: Annotated[dict[str, Options], Field(default_factory=dict)]
    bidirectional: bool = False
    slices: int = 0
    fail_load: str = ""


def load_toy(options: ToyOptions, progress: Progress) -> LocalModel:
    """Make a toy model; `fail_load` makes loading fail with that text."""
    progress(0.5, "inventing letters")
    if options.fail_load:
        raise ModelLoadError(options.fail_load)
    return ToyModel(**options.model_dump(exclude={"fail_load", "adapters"}), adapters=tuple(options.adapters))


toy_backend = BackendType(
    "toy", ToyOptions, "a model for tests whose next letter is a hash of all before", load=load_toy
)

_ALPHABET = b"abcdefghijklmnopqrstuvwxyz     \n"
_START = b"\0" * 8


def _digest(before: bytes, token: int) -> bytes:
    return blake2b(before + token.to_bytes(4, "little"), digest_size=8).digest()
