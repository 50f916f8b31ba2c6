"""One conversation after another, with whatever the model itself remembers, or by reading everything again each time.

For recurrent models, and for all that keep neither plain keys nor plain values. Knows the library's caches as objects
that can be copied.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from chatbridge import BackendError
from chatbridge_transformers.causal import Causal


class OwnState:
    """A `ModelState`: the ids so far, and the model's own cache after them, if it has one."""

    def __init__(self, adapter: str, *, can_trim: bool) -> None:
        self.adapter = adapter
        self.ids: list[int] = []
        self.cache: Any = None
        self._can_trim = can_trim

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return 64 + 8 * len(self.ids) + _nbytes(self.cache, set())

    def fork(self) -> OwnState:
        copied = OwnState(self.adapter, can_trim=self._can_trim)
        copied.ids, copied.cache = list(self.ids), copy.deepcopy(self.cache)
        return copied

    def trim(self, length: int) -> None:
        if not self._can_trim:
            raise BackendError("this model's states can't forget their last tokens")
        del self.ids[length:]

    def save(self) -> bytes:
        """The ids alone: their cache is a thing of the library's, which only the model makes anew."""
        return b"".join(token.to_bytes(4, "little") for token in self.ids)

    @staticmethod
    def saved_ids(saved: bytes) -> list[int]:
        """What `save` wrote."""
        return [int.from_bytes(saved[at : at + 4], "little") for at in range(0, len(saved), 4)]

    def release(self) -> None:
        self.cache = None

    def forget(self) -> None:
        """Begin anew, after a step that failed half way."""
        self.ids, self.cache = [], None


class OwnCache:
    """A way to compute rows: by the model's own cache."""

    summary = "one conversation after another, by the model's own cache"
    singly = False

    def __init__(self, causal: Causal) -> None:
        self._causal = causal

    def close(self) -> None:
        pass

    def forward(
        self, rows: Sequence[tuple[OwnState, Sequence[int]]], wanted: Sequence[int], *, every: bool = False
    ) -> Any:
        """See `Way`."""
        found = []
        for number, (state, tokens) in enumerate(rows):
            try:
                logits = self._read(state, tokens, every=every)
            except BaseException:
                state.forget()
                raise
            if every:
                return logits[0]
            if number in wanted:
                found.append(logits[0, -1])
        return torch.stack(found) if found else torch.empty(0)

    def _read(self, state: OwnState, tokens: Sequence[int], *, every: bool) -> Any:
        start = len(state.ids)
        cache = state.cache
        if cache is None and self._causal.cache_name in ("cache", "past_key_values"):
            cache = DynamicCache(config=self._causal.model.config)
        pieces = [[token] for token in tokens] if self.singly and start else [tokens]
        logits = []
        for piece in pieces:
            output = self._causal(
                torch.tensor([list(piece)]),
                cache=cache,
                positions=torch.arange(start, start + len(piece))[None],
                keep=None if every else [len(piece) - 1],
                remember=True,
            )
            cache = self._causal.cache_of(output)
            start += len(piece)
            logits.append(output.logits)
        state.ids += tokens
        state.cache = cache
        return torch.cat(logits, dim=1) if every else logits[-1]


class OwnCacheSingly(OwnCache):
    """The same for recurrent models that go on with one token at a time alone."""

    summary = f"{OwnCache.summary}, a token at a time"
    singly = True


class Anew:
    """A way to compute rows: everything is read again for each token. Slow, and right for every causal model."""

    summary = "one conversation after another, each read from its beginning for every token"

    def __init__(self, causal: Causal) -> None:
        self._causal = causal

    def close(self) -> None:
        pass

    def forward(
        self, rows: Sequence[tuple[OwnState, Sequence[int]]], wanted: Sequence[int], *, every: bool = False
    ) -> Any:
        """See `Way`."""
        found = []
        for number, (state, tokens) in enumerate(rows):
            ids = [*state.ids, *tokens]
            if every or number in wanted:
                logits = self._causal(torch.tensor([ids]), keep=None if every else [len(ids) - 1]).logits
                if every:
                    state.ids = ids
                    return logits[0, -len(tokens) :]
                found.append(logits[0, -1])
            state.ids = ids
        return torch.stack(found) if found else torch.empty(0)


def _nbytes(value: Any, seen: set[int]) -> int:
    """The bytes of all tensors that hang on a value."""
    if id(value) in seen or value is None:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, (list, tuple)):
        return sum(_nbytes(one, seen) for one in value)
    if isinstance(value, dict):
        return sum(_nbytes(one, seen) for one in value.values())
    return _nbytes(vars(value), seen) if type(value).__module__.startswith("transformers") else 0
