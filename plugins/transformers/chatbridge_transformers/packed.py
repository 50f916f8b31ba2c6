"""All tokens of a step one behind another in one row, without padding; each conversation attends to its own keys alone.

For models that call their attention by name (transformers' `AttentionInterface`) and place tokens by `position_ids`:
everything but the attention is computed over all conversations' tokens at once. Knows states and that interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface, DynamicCache

from chatbridge_transformers.causal import Causal
from chatbridge_transformers.state import KvState

_HARMLESS = {
    "cache_position", "is_causal", "kwargs", "output_attentions", "output_hidden_states",
    "output_router_logits", "position_ids", "return_dict", "use_cache",
}  # fmt: skip
"""What an attention function may be given and need not heed here."""


class UnfitError(Exception):
    """This model can't be computed in this way; the message says why."""


@dataclass(slots=True)
class _Step:
    """One step's conversations: each with the first of its tokens in the row, and that behind its last."""

    spans: list[tuple[KvState, int, int]]
    masks: dict[tuple[int, int, int | None], Any] = field(default_factory=dict)
    called: int = 0

    def mask(self, count: int, total: int, window: int | None, device: Any) -> Any:
        """Which of `total` keys each of the last `count` tokens sees, [count, total]; the same in each layer."""
        key = (count, total, window)
        if key not in self.masks:
            at = torch.arange(total - count, total, device=device).unsqueeze(1)
            keys = torch.arange(total, device=device)
            seen = keys <= at
            self.masks[key] = seen if window is None else seen & (keys > at - window)
        return self.masks[key].to(device)


class _Rows(DynamicCache):  # type: ignore[misc]
    """What the model takes for its cache: gives back the new keys and values alone, and remembers whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: int | None = None

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.layer = layer_idx
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class Packed:
    """A way to compute rows. Raises UnfitError where the model is not of that kind."""

    summary = "all conversations in one row, without padding"

    def __init__(self, causal: Causal) -> None:
        model = causal.model
        self._causal = causal
        self._step: _Step | None = None
        self._rows: _Rows | None = None
        self._name = f"chatbridge_{id(self):x}"
        self._before = model.config._attn_implementation
        if not causal.takes("position_ids"):
            raise UnfitError("it does not place tokens by position_ids")
        AttentionInterface.register(self._name, self._attend)
        model.set_attn_implementation(self._name)
        if model.config._attn_implementation != self._name:
            self.close()
            raise UnfitError("its attention can't be replaced")

    def close(self) -> None:
        """Give the model its own attention back."""
        if self._causal.model.config._attn_implementation == self._name:
            self._causal.model.set_attn_implementation(self._before)
        AttentionInterface._global_mapping.pop(self._name, None)

    def forward(
        self, rows: Sequence[tuple[KvState, Sequence[int]]], wanted: Sequence[int], *, every: bool = False
    ) -> Any:
        """See `Way`."""
        spans: list[tuple[KvState, int, int]] = []
        ids: list[int] = []
        positions: list[int] = []
        start = 0
        for state, tokens in rows:
            spans.append((state, start, start + len(tokens)))
            ids += tokens
            positions += range(state.length, state.length + len(tokens))
            start += len(tokens)
        keep = list(range(start)) if every else [spans[number][2] - 1 for number in wanted]
        self._step, self._rows = _Step(spans), _Rows()
        try:
            output = self._causal(torch.tensor([ids]), cache=self._rows, positions=torch.tensor([positions]), keep=keep)
            if not self._step.called:
                raise UnfitError("it has an attention of its own")
        finally:
            self._step = self._rows = None
        return output.logits[0, : len(keep)]

    def _attend(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[Any, None]:
        """Attention over each conversation's own keys: [1, tokens, heads, size]."""
        step, rows = self._step, self._rows
        assert step is not None, "attention outside of a step"
        assert rows is not None
        if rows.layer is None or query.shape[2] != key.shape[2]:
            raise UnfitError("its layers share keys")
        if unknown := {name for name, given in others.items() if given is not None} - _HARMLESS:
            raise UnfitError(f"its attention is given {min(unknown)}")
        number, rows.layer = rows.layer, None
        step.called += 1
        # Of one token, the heads that share keys are computed like so many tokens: nothing is masked.
        single = query[0].transpose(0, 1).unflatten(1, (key.shape[1], -1)).unsqueeze(1).unbind()
        found = []
        for state, start, end in step.spans:
            keys, values = state.append(number, key[0, :, start:end], value[0, :, start:end])
            count, total = end - start, keys.shape[1]
            if count == 1 and sliding_window is not None and total > sliding_window:
                keys, values = keys[:, -sliding_window:], values[:, -sliding_window:]
            if softcap is None and count == 1:
                one = scaled_dot_product_attention(single[start], keys[None], values[None], scale=scaling)
                found.append(one.flatten(1, 2))
                continue
            own = query[0, :, start:end]
            if softcap is not None:
                seen = None if count == 1 else step.mask(count, total, sliding_window, own.device)
                found.append(_capped(own, keys, values, seen, scaling, softcap).transpose(0, 1))
                continue
            grouped = own.shape[0] != keys.shape[0]
            windowed = sliding_window is not None and total > sliding_window
            seen = None if count == total and not windowed else step.mask(count, total, sliding_window, own.device)
            several = scaled_dot_product_attention(
                own[None], keys[None], values[None], seen, is_causal=seen is None, scale=scaling, enable_gqa=grouped
            )
            found.append(several[0].transpose(0, 1))
        return torch.cat(found)[None], None


def _capped(own: Any, keys: Any, values: Any, seen: Any, scaling: float | None, softcap: float) -> Any:
    """Attention with Gemma 2's cap of the scores: [heads, tokens, size]."""
    group = own.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = own @ keys.transpose(1, 2) * (own.shape[2] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return softmax(scores, dim=-1, dtype=torch.float32).to(own.dtype) @ values
