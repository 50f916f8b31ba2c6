"""How many examples properties are tried with, and the order in which the tests run, whichever are taken.

Knows tests by the names of their files alone.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import hypothesis
import pytest

from chatbridge import usable_cores
from tests import warm

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("all", deadline=None, max_examples=300)
hypothesis.settings.register_profile("sample", deadline=None, max_examples=40)
hypothesis.settings.load_profile("all" if os.environ.get("CHATBRIDGE_FULL") == "1" else "sample")

# Each run has three processes that test and starts hundreds of others: what one has compiled is there for all.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONGEST = (
    "tests/test_hello_plugin.py",
    "tests/delivery/test_kill.py",
    "plugins/discord/tests/test_kill.py",
    "plugins/telegram/tests/test_kill.py",
    "tests/worker/test_chaos.py",
    "tests/bots/test_kill.py",
    "plugins/llama_cpp/tests/test_quantization.py",
    "tests/test_docs.py",
    "examples/classic_way/tests/test_classic_way.py",
)
"""What takes longest goes first, so that at the end of a run on many cores all have something to do to the last."""


@pytest.fixture(scope="session")
def warm_python_with() -> Iterator[Callable[..., str]]:
    """A program to start in place of `sys.executable`, by the libraries that it has imported besides chatbridge."""
    with ExitStack() as servers:
        yield cache(lambda *libraries: servers.enter_context(warm.warm_python(*libraries)))


@pytest.fixture(scope="session")
def warm_python(warm_python_with: Callable[..., str]) -> str:
    """What to start in place of `sys.executable` where chatbridge is started often; see `tests/warm/server.py`."""
    return warm_python_with()


@pytest.fixture
def warm_workers(
    request: pytest.FixtureRequest, warm_python_with: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models' workers that the test starts have chatbridge imported, and the library that its mark `warm` names."""
    mark = request.node.get_closest_marker("warm")
    monkeypatch.setattr(sys, "executable", warm_python_with(*(mark.args if mark else ())))


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: half as many again as there are cores, since many a test waits for a program or a server."""
    cores = usable_cores()
    return cores + (cores + 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))

    items.sort(key=rank)  # stable: all others keep their order


gc.disable()  # collecting makes millions of objects, none of which goes


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: the garbage collector need not look at it again and again."""
    gc.freeze()
    gc.enable()
