"""Attention of one conversation's tokens to all that it has read. Knows no weights and no batch.

The original divides queries by sqrt(head) * (layer + 1) and multiplies the scores by (layer + 1) in float32, so that
they fit half precision on the way. The two cancel; here scores are in float32 all along, which needs no such scaling.
Its mask of -10000, times (layer + 1), leaves a hidden token less than float32 can tell from nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812


def attend(queries: Any, keys: Any, values: Any, *, causal: bool) -> Any:
    """What each query gathers, [tokens, heads, head], of keys and values [heads, seen, head].

    `causal`: the last query sees all keys, and each one before it one key less; else every query sees all keys.
    """
    q = queries.transpose(0, 1).unsqueeze(0)
    k, v = keys.unsqueeze(0).to(q.dtype), values.unsqueeze(0).to(q.dtype)
    mask = None
    count, seen = q.shape[2], k.shape[2]
    if causal and count > 1:
        mask = torch.ones(count, seen, dtype=torch.bool, device=q.device).tril(seen - count)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).squeeze(0).transpose(0, 1)
