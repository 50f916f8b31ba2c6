"""The transformer of ChatGLM-6B and GLM-130B: some tokens of some conversations in, their last hidden states out.

One pass goes through the layers in pieces, of so many tokens each, and may stop after any of them: in a layer first all
keys and values are computed, since tokens may see later ones, then for each piece attention and MLP. Names are those of
the original code. Knows caches; knows no file, no text and no sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from chatbridge_glm.attention import attend
from chatbridge_glm.config import Config
from chatbridge_glm.quantization import Product
from chatbridge_glm.rotary import Rotary, position_ids
from chatbridge_glm.state import GlmState


@dataclass(frozen=True, slots=True)
class Norm:
    """Weight and bias of a LayerNorm."""

    weight: Any
    bias: Any

    def __call__(self, x: Any, epsilon: float) -> Any:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, epsilon)


@dataclass(frozen=True, slots=True)
class Linear:
    """A product with its bias."""

    product: Product
    bias: Any

    def __call__(self, x: Any) -> Any:
        return self.product(x) + self.bias


@dataclass(frozen=True, slots=True)
class Layer:
    """One GLM block, by the names of the checkpoint. `query_key_value` gives [q | k | v] for each head in turn."""

    device: Any
    input_layernorm: Norm
    query_key_value: Linear
    dense: Linear
    post_attention_layernorm: Norm
    dense_h_to_4h: Linear
    dense_4h_to_h: Linear


@dataclass(frozen=True, slots=True)
class Share:
    """One conversation's part of a pass: its tokens are `start` to `end` of all, and follow `length` that it has read.

    `context`: how many of these tokens are read in both directions.
    """

    state: GlmState
    start: int
    end: int
    length: int
    context: int

    def within(self, start: int, end: int) -> tuple[int, int]:
        """Which of its tokens lie in a piece, counted from its first; empty where the second is not greater."""
        return max(start, self.start) - self.start, min(end, self.end) - self.start


class Pass:
    """Some tokens on their way. `pieces` goes on by a piece each time; at its end `hidden` is what came out.

    `ids`: of each conversation; `states`: theirs, with `context` and `mask_at` set and nothing reserved.
    """

    def __init__(self, model: Glm, states: Sequence[GlmState], ids: Sequence[Sequence[int]], piece: int) -> None:
        self.model = model
        self.shares: list[Share] = []
        self.done = False
        total, places = 0, []
        for state, tokens in zip(states, ids, strict=True):
            context = max(0, min(state.context - state.length, len(tokens)))
            self.shares.append(Share(state, total, total + len(tokens), state.length, context))
            places.append(position_ids(model.config, state.length, len(tokens), state.context, state.mask_at))
            state.reserve(state.length + len(tokens))
            total += len(tokens)
        self.hidden = model.embed([token for tokens in ids for token in tokens])
        self._position_ids = torch.cat(places, dim=1)
        self._pieces = self._run([(at, min(at + piece, total)) for at in range(0, total, piece)])

    def advance(self) -> bool:
        """Compute one piece. Returns whether there is more to do."""
        self.done = next(self._pieces, True) is True
        return not self.done

    def last(self, number: int) -> Any:
        """What came out for the last token of a conversation, [hidden]."""
        return self.hidden[self.shares[number].end - 1]

    def _run(self, pieces: Sequence[tuple[int, int]]) -> Iterator[bool]:
        config = self.model.config
        cos: Any = None
        sin: Any = None
        for number, layer in enumerate(self.model.layers):
            like = layer.input_layernorm.weight
            if cos is None or self.hidden.device != layer.device or self.hidden.dtype != like.dtype:
                self.hidden = self.hidden.to(layer.device, like.dtype)
                cos, sin = self.model.rotary.at(self._position_ids, self.hidden)
            shape = (len(self.hidden), config.heads, config.head_size)
            queries = torch.empty(shape, dtype=self.hidden.dtype, device=layer.device)
            for start, end in pieces:
                x = layer.input_layernorm(self.hidden[start:end], config.layernorm_epsilon)
                self.hidden[start:end] = x  # the residual is taken from what was normed
                mixed = layer.query_key_value(x).view(end - start, config.heads, 3 * config.head_size)
                q, k, v = mixed.chunk(3, dim=-1)
                turned = self.model.rotary.apply
                queries[start:end] = turned(q, cos[start:end], sin[start:end])
                self._store(number, start, end, turned(k, cos[start:end], sin[start:end]), v)
                yield False
            for start, end in pieces:
                self.hidden[start:end] = self._rest(number, layer, queries, start, end)
                yield False

    def _store(self, number: int, start: int, end: int, keys: Any, values: Any) -> None:
        """Put keys and values of a piece into the caches."""
        for share in self.shares:
            first, behind = share.within(start, end)
            if first >= behind or share.state.released:
                continue
            at = share.state.before + share.length
            own = slice(share.start + first - start, share.start + behind - start)
            share.state.keys[number][:, at + first : at + behind] = keys[own].transpose(0, 1)
            share.state.values[number][:, at + first : at + behind] = values[own].transpose(0, 1)

    def _rest(self, number: int, layer: Layer, queries: Any, start: int, end: int) -> Any:
        """The layer behind its keys and values, for one piece; `hidden` holds the normed input."""
        config = self.model.config
        x = self.hidden[start:end]
        gathered = torch.zeros_like(queries[start:end])
        for share in self.shares:
            first, behind = share.within(start, end)
            if first >= behind or share.state.released:
                continue
            keys, values, before = share.state.keys[number], share.state.values[number], share.state.before
            for low, high, seen in _views(share, first, behind):
                own = slice(share.start + low, share.start + high)
                gathered[own.start - start : own.stop - start] = attend(
                    queries[own], keys[:, : before + seen], values[:, : before + seen], causal=low >= share.context
                )
        h = x * config.residual_weight + layer.dense(gathered.flatten(1))
        y = layer.post_attention_layernorm(h, config.layernorm_epsilon)
        return y * config.residual_weight + layer.dense_4h_to_h(self._activated(layer.dense_h_to_4h(y)))

    def _activated(self, x: Any) -> Any:
        if self.model.config.glu:
            first, second = x.chunk(2, dim=-1)
            return first * F.gelu(second)
        return F.gelu(x, approximate="tanh")


def _views(share: Share, first: int, behind: int) -> Iterator[tuple[int, int, int]]:
    """Runs of a conversation's tokens that see alike: from, to, and how many tokens the last of them sees."""
    if first < share.context:
        yield first, min(behind, share.context), share.length + share.context
    if behind > share.context:
        yield max(first, share.context), behind, share.length + behind


@dataclass(frozen=True, slots=True)
class Glm:
    """The weights of a model, and what is computed before and behind its layers.

    `embedding` [vocabulary, hidden] stands for both ends: `look_up` gives rows of ids, `head` the product with it.
    """

    config: Config
    rotary: Rotary
    look_up: Any
    head: Product
    final_layernorm: Norm
    layers: tuple[Layer, ...]

    def embed(self, ids: Sequence[int]) -> Any:
        """Hidden states of ids, [tokens, hidden]."""
        return self.look_up(torch.tensor(ids))

    def logits(self, hidden: Any) -> Any:
        """Scores of the next token, [rows, vocabulary] in float32, from `hidden` [rows, hidden]."""
        hidden = hidden.to(self.final_layernorm.weight)
        return self.head(self.final_layernorm(hidden, self.config.layernorm_epsilon)).float()
