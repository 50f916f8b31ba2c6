"""Chooses how a model's conversations are computed: the fastest way whose logits agree with the model's own, here.

Each model is tried before it answers anybody, since what fits which architecture changes with the library. Knows the
ways; knows no conversation but its own two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from chatbridge import ModelLoadError
from chatbridge_transformers.alone import Anew, OwnCache, OwnCacheSingly, OwnState
from chatbridge_transformers.causal import Causal
from chatbridge_transformers.packed import Packed, UnfitError
from chatbridge_transformers.padded import Padded
from chatbridge_transformers.state import KvStates

_EXACT, _ROUNDED = 0.01, 0.25
"""How far logits may be apart, in standard deviations: in float32, and where 16 bits or fewer round everything."""


class Way(Protocol):
    """How rows of a step are computed."""

    summary: str

    def forward(self, rows: Sequence[tuple[Any, Sequence[int]]], wanted: Sequence[int], *, every: bool = False) -> Any:
        """Consume each state's tokens, and return the logits after those rows that are `wanted`, [wanted, vocabulary].

        `every`: return those after each token of the only row, [tokens, vocabulary]. The states' lengths are raised by
        the caller, where a state doesn't count by itself.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """The way in use, and why it is no better one. `batched`: whether conversations are computed together."""

    way: Way
    why: str
    batched: bool
    can_trim: bool


def choose(
    causal: Causal,
    *,
    batched: bool,
    replace_attention: bool,
    exact: bool,
    preferred: Sequence[Callable[[Causal], Any]] = (),
) -> Chosen:
    """The first way that agrees, of those `preferred` and then of our own. Raises ModelLoadError where none does.

    `batched`: false computes one conversation after another. `replace_attention`: whether
    the model's own attention may be put out of use. `exact`: whether numbers are float32.
    """
    ways: list[Callable[[Causal], Any]] = list(preferred)
    if batched:
        ways += [Packed] if replace_attention else []
        ways.append(Padded)
    ways += [OwnCache, OwnCacheSingly, Anew]
    size = causal.model.get_input_embeddings().weight.shape[0]
    conversations = [[(7 * i * i + 3 * i + 5 * k) % size for i in range(1, length)] for k, length in ((1, 13), (2, 7))]
    with torch.inference_mode():
        expected = torch.stack([causal.whole(ids)[-1] for ids in conversations])
        if not bool(torch.isfinite(expected).all()):
            raise ModelLoadError(
                "the model's logits are no numbers: its weights are damaged, or dtype: float16 is too narrow for them; "
                "set dtype: float32 or bfloat16"
            )
        reasons = []
        for make in ways:
            try:
                way = make(causal)
            except UnfitError as error:
                reasons.append(str(error))
                continue
            kind = type(way)
            try:
                found = _tried(way, conversations)
                apart = _apart(found, expected)
                if apart <= (tolerance := _EXACT if exact else _ROUNDED):
                    if kind is Anew:
                        _refuse_both_directions(causal, conversations[0], tolerance)
                    kv = isinstance(way, (Packed, Padded))
                    return Chosen(way, "; ".join(reasons), kv, kv or isinstance(way, Anew))
                reasons.append(f"{kind.__name__.lower()}: {apart:.2g} away from the model's own logits")
            except ModelLoadError:
                raise
            except Exception as error:  # whatever a model's own code may raise
                reasons.append(str(error) if isinstance(error, UnfitError) else f"{kind.__name__.lower()}: {error!r}")
            way.close()
    raise ModelLoadError(f"this model can't be read piece by piece here: {'; '.join(reasons)}")


def new_state(chosen: Chosen, states: KvStates, adapter: str = "", digest: str = "") -> Any:
    """An empty state of the kind that the way computes."""
    if chosen.batched:
        return states.new(None, adapter, digest)
    return OwnState(adapter, can_trim=chosen.can_trim)


def _apart(found: Any, expected: Any) -> float:
    """How far logits are apart at most, in standard deviations."""
    return float((found.cpu() - expected.cpu()).abs().max() / expected.std().cpu())


def _refuse_both_directions(causal: Causal, ids: Sequence[int], tolerance: float) -> None:
    """Raise ModelLoadError where a token's logits depend on those behind it, as those of BERT do.

    All other ways read in pieces, and so find that out by themselves.
    """
    half = len(ids) // 2
    if _apart(causal.whole(ids)[half - 1], causal.whole(ids[:half])[-1]) > tolerance:
        raise ModelLoadError(
            "this model reads in both directions: what it makes of a word depends on the words behind it, as with "
            "BERT, so it can't go on with a conversation; take a causal model"
        )


def _tried(way: Way, conversations: Sequence[Sequence[int]]) -> Any:
    """The logits after each of two conversations, read in three pieces, one of them beside the other."""
    states: list[Any]
    if isinstance(way, (Packed, Padded)):
        kept = KvStates("probe", 1 << 20)
        states = [kept.new() for _ in conversations]
    else:
        states = [OwnState("", can_trim=True) for _ in conversations]
    parts = [((0, 4), (0, 3)), ((4, -1), (3, 4)), ((-1, None), (4, None))]
    found = None
    for cuts in parts:
        rows = [(state, list(ids[slice(*cut)])) for state, ids, cut in zip(states, conversations, cuts, strict=True)]
        found = way.forward(rows, [0, 1])
        for state, tokens in rows:
            advance(state, len(tokens))
    for state in states:
        state.release()
    assert found is not None
    return found.float()


def advance(state: Any, count: int) -> None:
    """Let what a step has written count."""
    if not isinstance(state, OwnState):
        state.length += count
