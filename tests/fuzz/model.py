"""A hash model that runs in this process, and every prompt on its way to it. Knows no service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from chatbridge.engine.backend import BackendType, Request, Row
from chatbridge.engine.engine import Engine
from chatbridge.errors import BackendError
from chatbridge.prompts.segments import Prompt, Special, Tokens
from chatbridge.testing.toy import ToyModel, ToyState, ToyTokenizer
from chatbridge.types import Chunk, ModelInfo

from . import words

BOS, EOS, FIRST = 256, 257, 258
ALPHABET = b"etaoinshrdlu etaoin\n:>#*_`[](|<"
"""What the model says: letters, and now and then what headers and Markdown are made of."""
TURN, SLOW = 0.01, 6
"""Seconds of a turn; one turn of so many has one step only."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tokenizer(ToyTokenizer):
    """One id for each byte, and one for each control token of any preset."""

    specials: ClassVar = {token: FIRST + number for number, token in enumerate(words.controls())}

    def special(self, token: str) -> int | None:
        return self.specials.get(token)


class HashModel(ToyModel):
    """The toy model with every preset's control tokens."""

    def __init__(self) -> None:
        super().__init__(context_length=2048, max_batch=64, eos_every=12)
        self.tokenizer = Tokenizer()
        self.size = FIRST + len(Tokenizer.specials)
        self.info = replace(
            self.info, name="hash", vocab_size=self.size, specials=Tokenizer.specials, bos=BOS, eos=(EOS,),
            vocabulary="fuzz-bytes", chat_template=CHAT_TEMPLATE, max_batch=64,
        )  # fmt: skip

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        return [self._row(row) for row in rows]

    def _row(self, row: Row) -> list[int]:
        state = row.state
        assert isinstance(state, ToyState)
        assert all(0 <= token < self.size for token in row.tokens), "a token outside the vocabulary"
        digest = state.consume(row.tokens)
        return [] if row.sampler is None else [row.sampler.sample(self.logits(digest))]

    def logits(self, digest: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
        scores = np.full(self.size, -20.0)
        for rank, byte in enumerate(digest[:5]):
            scores[ALPHABET[byte % len(ALPHABET)]] = 5.0 - rank
        if digest[5] % self.eos_every == 0:
            scores[EOS] = 30.0
        return scores


@dataclass(slots=True)
class _Asked:
    events: asyncio.Queue[Chunk | Exception]


class InProcess:
    """A `Backend` around an engine in this process. `look` is shown each request before it runs."""

    def __init__(self, look: Callable[[Request, ModelInfo], None]) -> None:
        self._model = HashModel()
        self._engine = Engine(self._model, cache_bytes=1 << 22)
        self._look = look
        self._asked: dict[str, _Asked] = {}
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self.requests = 0

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        if self._closed:
            raise BackendError("the model was closed")
        self._look(request, self.info)
        self.requests += 1
        asked = self._asked[request.id] = _Asked(asyncio.Queue())
        self._engine.submit(request)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        finished = False
        try:
            while not finished:
                event = await asked.events.get()
                if isinstance(event, Exception):
                    finished = True
                    raise event
                finished = event.finish is not None
                yield event
        finally:
            del self._asked[request.id]
            if not finished:
                self.cancel(request.id)

    async def _run(self) -> None:
        """Some turns are of one step, as with a slow model; in others answers are whole before anybody looks."""
        turn = 0
        while not self._engine.idle:
            turn += 1
            end = time.perf_counter() + (0 if turn % SLOW == 0 else TURN)
            more = True
            while more and not self._engine.idle:
                more = time.perf_counter() < end
                for event in self._engine.step():
                    told = event.error or event.chunk
                    if told is not None and (asked := self._asked.get(event.request_id)) is not None:
                        asked.events.put_nowait(told)
            await asyncio.sleep(0)

    def cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(self._engine.tokenize(prompt))

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if self._pump is not None:
                await self._pump
            self._engine.close()


def hash_backend(backend: InProcess) -> BackendType:
    """A backend type that is always just that backend."""
    from chatbridge.config.options import Options

    async def connect(options: Options) -> InProcess:
        return backend

    return BackendType("hash", Options, "a hash model for the fuzzer", connect=connect)


def control_ids(prompt: Prompt) -> list[int]:
    """The ids of earlier answers in a prompt that are no bytes."""
    return [id for part in prompt if isinstance(part, Tokens) for id in part.ids if id >= BOS]


def specials(prompt: Prompt) -> list[str]:
    """The control tokens of a prompt, in order."""
    return [part.token for part in prompt if isinstance(part, Special)]
