"""Rotary position embedding as the original code computes it, and which positions tokens have. Knows no weights.

Names of the original: `position_ids` are [2, tokens] in ChatGLM-6B, one row for each half of a head (the place in the
text, and the place in the answer), and [1, tokens] in GLM-130B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatbridge_glm.config import Config

BASE = 10000.0


class Rotary:
    """Cosines and sines of all positions, [positions, width] each, in float32."""

    def __init__(self, config: Config) -> None:
        width = config.rotary_width
        inv_freq = 1.0 / (BASE ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
        # The original keeps them in half precision and widens them again: that moves logits by some thousandths.
        self.inv_freq = inv_freq.half().float()
        angles = torch.outer(torch.arange(config.max_sequence_length + 1, dtype=torch.float32), self.inv_freq)
        angles = torch.cat((angles, angles), dim=-1)
        self._cos, self._sin = angles.cos(), angles.sin()
        self._halves = 2 if config.two_dimensional else 1

    def at(self, position_ids: Any, like: Any) -> tuple[Any, Any]:
        """Cosine and sine for tokens at these positions, [tokens, 1, head] each, where and of the type of `like`."""
        cos = torch.cat([self._cos[channel] for channel in position_ids], dim=-1)
        sin = torch.cat([self._sin[channel] for channel in position_ids], dim=-1)
        return cos.unsqueeze(1).to(like), sin.unsqueeze(1).to(like)

    def apply(self, x: Any, cos: Any, sin: Any) -> Any:
        """Turn queries or keys [tokens, heads, head]; each half of a head by its own channel."""
        parts = x.chunk(2 * self._halves, dim=-1)
        turned = [part for half in range(self._halves) for part in (-parts[2 * half + 1], parts[2 * half])]
        return x * cos + torch.cat(turned, dim=-1) * sin


def mask_position(config: Config, context: Sequence[int]) -> int:
    """Where in what stands before `sop` the answer belongs: at the first mask, of `[gMASK]` if there is one.

    The last place where there is none; -1 for GLM-130B's `[gMASK]`, behind which positions just go on.
    """
    # Of several kinds ChatGLM's code looks for [gMASK] first, and GLM-130B's likewise.
    found = next((mask for mask in config.masks if mask in context), None)
    if not config.two_dimensional and found in (config.gmask, None):
        return -1
    return max(0, len(context) - 1) if found is None else context.index(found)


def position_ids(config: Config, start: int, count: int, context: int, mask_at: int) -> Any:
    """The positions of the tokens from `start` on, [channels, count]; `context`: how many stand before `sop`."""
    places = torch.arange(start, start + count)
    behind = places >= context
    if not config.two_dimensional:
        return (places if mask_at < 0 else torch.where(behind, mask_at, places)).unsqueeze(0)
    return torch.stack((torch.where(behind, mask_at, places), torch.where(behind, places - context + 1, 0)))
