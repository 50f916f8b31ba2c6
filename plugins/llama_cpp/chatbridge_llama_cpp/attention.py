"""Whether flash attention is faster on this processor: measured once for a model, a build and a machine, and kept.

Neither way is the better one everywhere: with AVX-512, flash attention answered 1.8 times as fast after 64 tokens, and
0.8 times after 1,000; with AVX2 it lost from a few hundred on. Histories are made without reading them, by copying the
cells of one short prompt over and over: what is in a cell doesn't change how long it takes. Knows a model and its
context's parameters; knows no option's name but those that the parameters come from.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge_llama_cpp.native import lib

LENGTHS = (64, 256, 600, 1500)
"""Tokens of history after which answering is measured: what rooms have."""

MIN_WEIGHTS = 48 << 20
"""Bytes of weights below which nothing is measured: such models are fast either way."""

_READ = 64
_SECONDS = 5.0
"""For which one way is measured, and then no more often than three times at each length."""

_CLEARLY = 1.05
"""By how much flash attention has to be faster, so that what is as good is not chosen by chance."""

_REPEATS = 8
_MAX_KEPT = 200
_LEAST = 1e-3
"""A way that is so much faster was not measured but made up."""

_UNREADABLE = (OSError, ValueError, ArithmeticError, RecursionError)
"""What reading a damaged file may raise."""

# Time of this process's threads alone, so that other programs don't decide; Windows counts it in 16 ms.
_clock: Callable[[], float] = time.perf_counter if sys.platform == "win32" else time.process_time


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times as fast flash attention is: at reading a short prompt, and at answering after so many tokens."""

    reading: float
    answering: Mapping[int, float]

    @property
    def flash(self) -> bool:
        """Whether it is faster on the whole: each length counts alike, and reading as one of them."""
        return prod(self.ratios) ** (1 / len(self.ratios)) > _CLEARLY

    @property
    def ratios(self) -> tuple[float, ...]:
        """All that was measured."""
        return (self.reading, *self.answering.values())

    def __str__(self) -> str:
        lengths = ", ".join(f"{ratio:.2f} after {length}" for length, ratio in self.answering.items())
        return f"measured: {self.reading:.2f} times as fast with it at reading, at answering {lengths} tokens"


def compare(model: Any, parameters: Callable[[], Any], context_length: int) -> Comparison | None:
    """Measure both ways, on contexts like those of `parameters`; None where one of them can't be had."""
    plain = _measure(model, parameters(), context_length, flash=False)
    flash = _measure(model, parameters(), context_length, flash=True)
    if plain is None or flash is None:
        return None
    both = [length for length in plain if length in flash]
    return Comparison(plain[0] / flash[0], {length: plain[length] / flash[length] for length in both if length})


def lengths(context_length: int) -> tuple[int, ...]:
    """After how many tokens answering is measured, where a conversation may have so many."""
    return tuple(length for length in LENGTHS if length <= context_length - _READ)


def _measure(model: Any, parameters: Any, context_length: int, *, flash: bool) -> dict[int, float] | None:
    """Seconds for reading a prompt, by 0, and for one token of an answer, by the length of the history."""
    histories = lengths(context_length)
    parameters.n_ctx = -(-(max(histories, default=0) + 3 * _READ) // 256) * 256
    parameters.n_seq_max = parameters.n_outputs_max = 2
    parameters.n_batch = parameters.n_ubatch = max(_READ, parameters.n_ubatch if parameters.n_ubatch < 512 else 512)
    parameters.kv_unified = True
    parameters.flash_attn_type = int(flash)
    context = lib.llama_init_from_model(model, parameters)
    if not context:
        return None
    try:
        return _times(context, lib.llama_get_memory(context), histories)
    finally:
        lib.llama_free(context)


def _times(context: Any, memory: Any, histories: Sequence[int]) -> dict[int, float] | None:
    end, found = time.monotonic() + _SECONDS, {}
    prompt = (ctypes.c_int32 * _READ)(*range(10, 10 + _READ))
    token = (ctypes.c_int32 * 1)(10)

    def best(tokens: Any, start: int) -> float | None:
        """The least seconds of several tries; sequence 0 has `start` tokens before and afterwards."""
        tries: list[float] = []
        while len(tries) < 3 or (len(tries) < _REPEATS and time.monotonic() < end):
            begin = _clock()
            if lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(tokens))):
                return None
            lib.llama_synchronize(context)
            tries.append(_clock() - begin)
            lib.llama_memory_seq_rm(memory, 0, start, -1)
        return max(min(tries), 1e-6)

    if (reading := best(prompt, 0)) is None:
        return None
    found[0] = reading
    if lib.llama_decode(context, lib.llama_batch_get_one(prompt, _READ)):
        return None
    size = lib.llama_state_seq_get_size(context, 0)
    cells = np.empty(size, np.uint8)
    pointer = cells.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    if lib.llama_state_seq_get_data(context, pointer, size, 0) != size:
        return None
    held = _READ
    for length in histories:
        while held + _READ <= length:
            if lib.llama_state_seq_set_data(context, pointer, size, 1) != size:
                return None
            lib.llama_memory_seq_cp(memory, 1, 0, -1, -1)
            lib.llama_memory_seq_rm(memory, 1, -1, -1)
            held += _READ
        if (answering := best(token, _READ)) is None:
            return None
        found[length] = answering
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """The comparisons that were made on this machine, in one file of `folder`."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "attention.json"

    def find(self, key: str) -> Comparison | None:
        """The one of that key; None where there is none, or the file is damaged."""
        with suppress(*_UNREADABLE, TypeError, KeyError, AttributeError):
            one = self._all()[key]
            found = Comparison(float(one["reading"]), {int(k): float(v) for k, v in one["answering"].items()})
            return found if all(_LEAST < ratio < 1 / _LEAST for ratio in found.ratios) else None
        return None

    def put(self, key: str, comparison: Comparison) -> None:
        """Keep one; where that can't be written, it is made again at the next load."""
        with suppress(OSError):
            try:
                everything = self._all()
            except _UNREADABLE:
                everything = {}
            everything[key] = asdict(comparison)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = self.folder / f"attention.{os.getpid()}.part"
            kept = dict([*everything.items()][-_MAX_KEPT:])
            partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            partial.replace(self.path)

    def _all(self) -> dict[str, Any]:
        found = json.loads(self.path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}


def key_of(*parts: object) -> str:
    """A hash of all that decides which way is faster."""
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()
