"""Long texts are cut into tokens beside short ones, and hold up nobody but texts as long as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from chatbridge.worker.tokenizing import LANES, TokenizerThreads

SECONDS = 60


@pytest.mark.parametrize(
    ("held", "beside", "behind"),
    [
        (1, LANES[0] + 1, LANES[0]),
        (LANES[0] + 1, LANES[0], LANES[1]),
        (LANES[1], LANES[1] + 1, LANES[0] + 1),
        (LANES[1] + 1, LANES[1], LANES[1] * 9),
    ],
)
def test_a_text_waits_for_those_of_its_size_alone(held: int, beside: int, behind: int) -> None:
    threads, done = TokenizerThreads(), []
    begun, go_on, other, last = (threading.Event() for _ in range(4))

    def note(name: str, event: threading.Event) -> Callable[[], None]:
        return lambda: (done.append(name), event.set())[1]

    def hold() -> None:
        begun.set()
        go_on.wait(SECONDS)
        done.append("held")

    assert threads.seconds() == 0
    threads.put(held, hold)
    assert begun.wait(SECONDS)
    threads.put(behind, note("behind", last))
    threads.put(beside, note("beside", other))
    assert other.wait(SECONDS)
    assert 0 < threads.seconds() < SECONDS
    go_on.set()
    assert last.wait(SECONDS)
    assert done == ["beside", "held", "behind"]


def test_when_all_is_done_nothing_is_under_way() -> None:
    threads, idle = TokenizerThreads(), threading.Event()
    threads.put(1, lambda: None)
    threads.put(1, idle.set)
    assert idle.wait(SECONDS)
    while threads.seconds():
        pass
