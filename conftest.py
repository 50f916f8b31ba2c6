"""The order in which the tests run, whichever are taken. Knows tests by the names of their files alone."""

from __future__ import annotations

import gc

import pytest

LONGEST = (
    "tests/test_hello_plugin.py",
    "tests/delivery/test_kill.py",
    "plugins/discord/tests/test_kill.py",
    "plugins/telegram/tests/test_kill.py",
    "tests/worker/test_chaos.py",
    "tests/bots/test_kill.py",
    "plugins/rwkv/tests/test_bots.py",
)
"""What takes longest goes first, so that at the end of a run on many cores all have something to do to the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))

    items.sort(key=rank)  # stable: all others keep their order


gc.disable()  # collecting makes millions of objects, none of which goes


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: the garbage collector need not look at it again and again."""
    gc.freeze()
    gc.enable()
