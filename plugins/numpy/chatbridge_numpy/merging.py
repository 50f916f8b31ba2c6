"""The loop at the heart of both kinds of byte-pair encoding: join the best pair of neighbours until none is left.

Knows strings and ranks; knows no vocabulary and no ids.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush


def merge(symbols: list[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """`symbols`, joined pair by pair: lowest `rank` first, leftmost first among equals; None is no pair.

    A heap and a linked list: n log n in the number of symbols, so that no text can stall a tokenizer.
    """
    count = len(symbols)
    after = list(range(1, count + 1))
    before = list(range(-1, count))
    parts: list[str | None] = list(symbols)
    heap: list[tuple[float, int, int, str, str]] = []

    for i in range(count - 1):
        left, right = symbols[i], symbols[i + 1]
        if (found := rank(left, right)) is not None:
            heap.append((found, i, i + 1, left, right))
    heapify(heap)
    while heap:
        _, i, j, left, right = heappop(heap)
        if parts[i] != left or parts[j] != right:
            continue  # one of them has been joined to something else since
        joined = left + right
        parts[i], parts[j] = joined, None
        after[i] = k = after[j]
        if k < count:
            before[k] = i
            follower = parts[k]
            assert follower is not None
            if (found := rank(joined, follower)) is not None:
                heappush(heap, (found, i, k, joined, follower))
        if (h := before[i]) >= 0:
            leader = parts[h]
            assert leader is not None
            if (found := rank(leader, joined)) is not None:
                heappush(heap, (found, h, i, leader, joined))
    return [part for part in parts if part is not None]
