"""Runs tests on changed code in forked processes: the tests are collected once, and a change costs a few seconds.

For `tests/mutants.py`. In the child the code of the functions that changed is put in the place of what they had, in
all objects that have it, and the tests run until one fails. What a test starts as another program has the code as it
is: whoever passes here is only not noticed yet. Knows pytest's way to run a test; draws no changes. POSIX only.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
OTHER_PROGRAMS = {"warm_python", "warm_python_with", "warm_workers", "chatbridge", "start_chatbridge"}
"""Fixtures of tests that look at what other programs do."""

BUDGET = 10.0
"""Seconds of tests, as long as they took last time, that a change is held against."""
UNKNOWN = 0.05
"""Seconds that a test is taken to need before it has run once."""
LONG = 0.5
"""Tests that take more seconds come after all others."""

Judge = Callable[["Forked"], None]


class Forked:
    """A plugin for `pytest.main` that hands itself to `judge` once the tests are collected, and runs nothing else."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._items: dict[str, pytest.Item] = {}
        self._seconds: dict[str, float] = {}
        self._sound: set[str] = set()

    def pytest_configure(self, config: pytest.Config) -> None:
        """Properties are tried with the same examples for each change."""
        import hypothesis  # pytest wants to be the first to load it

        hypothesis.settings.register_profile("forked", deadline=None, max_examples=40, database=None, derandomize=True)
        hypothesis.settings.load_profile("forked")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        self._items = {
            item.nodeid: item for item in session.items if OTHER_PROGRAMS.isdisjoint(getattr(item, "fixturenames", ()))
        }
        self._judge(self)
        return True

    def notices(self, file: Path, before: str, after: str, tests: Sequence[str]) -> bool:
        """Whether one of the tests fails, or does not end, with `after` in the place of `before`, the file as it is.

        `tests`: the likeliest first. Only as many are run as the budget allows.
        """
        while True:
            chosen, total = self._within_budget(tests)
            if not chosen or (failing := self._failing(file, before, after, chosen, total)) is None:
                return False
            # A test that can't be run in a fork at all says nothing.
            if failing in self._sound or self._failing(file, before, before, [self._items[failing]], LONG) is None:
                self._sound.add(failing)
                return True
            del self._items[failing]

    def _within_budget(self, tests: Sequence[str]) -> tuple[list[pytest.Item], float]:
        """The tests to run, and the seconds that they should take."""
        chosen, total = [], 0.0
        known = filter(self._items.__contains__, tests)
        for test in sorted(known, key=lambda test: self._seconds.get(test, UNKNOWN) > LONG):
            total += self._seconds.get(test, UNKNOWN)
            if total > BUDGET and chosen:
                break
            chosen.append(self._items[test])
        return chosen, total

    def _failing(self, file: Path, before: str, after: str, items: Sequence[pytest.Item], seconds: float) -> str | None:
        """The test that fails, or that ends the process or doesn't end itself; None where all pass."""
        importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        gc.collect()
        gc.freeze()  # the child need not copy what it never changes
        folder = Path(tempfile.mkdtemp(prefix="mutant-"))
        reading, writing = os.pipe()
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            os.close(reading)
            os.setsid()
            try:
                swap(file, before, after)
                items[0].config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]
                _run(items, writing)
            finally:
                os._exit(0)
        os.close(writing)
        try:
            took = _told(reading, 30 + 4 * seconds)
        finally:
            os.close(reading)
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            shutil.rmtree(folder, ignore_errors=True)
        self._seconds |= took
        return next((item.nodeid for item in items if item.nodeid not in took), None)


def swap(file: Path, before: str, after: str) -> None:
    """Give each function of the file the code that it would have if the file had been `after` when it was loaded."""
    old = _codes(compile(before, str(file), "exec", dont_inherit=True))
    new = _codes(compile(after, str(file), "exec", dont_inherit=True))
    gc.unfreeze()  # what is frozen is not among the objects
    functions = [one for one in gc.get_objects() if type(one) is FunctionType and one.__code__.co_filename == str(file)]
    for function in functions:
        name, line = function.__code__.co_qualname, function.__code__.co_firstlineno
        number = next((n for n, code in enumerate(old.get(name, ())) if code.co_firstlineno == line), None)
        if number is not None and number < len(new.get(name, ())) and new[name][number] != function.__code__:
            with suppress(ValueError):  # another number of free variables: a closure stays as it is
                function.__code__ = new[name][number]


def _codes(code: CodeType) -> Mapping[str, list[CodeType]]:
    """All functions in a module's code, by their qualified names; several where a name is given again."""
    found: dict[str, list[CodeType]] = {}
    waiting = [code]
    while waiting:
        for inner in waiting.pop(0).co_consts:
            if isinstance(inner, CodeType):
                found.setdefault(inner.co_qualname, []).append(inner)
                waiting.append(inner)
    return found


def _run(items: Sequence[pytest.Item], writing: int) -> None:
    """Run tests until one fails, and tell of each that has passed."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        begun = time.perf_counter()
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
            return
        os.write(writing, f"{item.nodeid} {time.perf_counter() - begun:.3f}\n".encode())


def _told(reading: int, seconds: float) -> dict[str, float]:
    """The tests that have passed, with their seconds, until the child ends or its time is over."""
    end, told = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        if not (some := os.read(reading, 1 << 16)):
            break
        told += some
    lines = [line.rpartition(" ") for line in told.decode().split("\n")[:-1]]
    return {test: float(took) for test, _, took in lines}
