"""The loop of both kinds of byte-pair encoding: join the best pair of neighbours until there is none left.

Knows strings and ranks; knows no vocabulary and no ids.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush


def merge(symbols: list[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """`symbols`, joined pair by pair: lowest `rank` first, leftmost first among equals; None is no pair.

    A heap of pairs and a linked list of symbols: O(n log n), so that no text can stall a tokenizer. A pair stays in the
    heap when one of its symbols is joined to another one; it is found out of date when it comes up, and left out.
    """
    count = len(symbols)
    next_index = list(range(1, count + 1))
    previous = list(range(-1, count))
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
            continue  # out of date
        joined = left + right
        parts[i], parts[j] = joined, None
        next_index[i] = k = next_index[j]
        if k < count:
            previous[k] = i
            follower = parts[k]
            assert follower is not None
            if (found := rank(joined, follower)) is not None:
                heappush(heap, (found, i, k, joined, follower))
        if (h := previous[i]) >= 0:
            leader = parts[h]
            assert leader is not None
            if (found := rank(leader, joined)) is not None:
                heappush(heap, (found, h, i, leader, joined))
    return [part for part in parts if part is not None]
