"""The changes that the mutation run draws: one at a time, in what runs."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mutation() -> Iterator[ModuleType]:
    """tests/mutants.py, which is a program."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mutants", module)
        spec.loader.exec_module(module)
        yield module


def changes(mutation: ModuleType, tmp_path: Path, source: str) -> list[str]:
    """The line that each mutant of a source has in the place of another."""
    file = tmp_path / "module.py"
    file.write_text(source, encoding="utf-8")
    found = []
    for mutant in mutation.mutants(file):
        (line,) = [new for old, new in zip(source.splitlines(), mutant.after.splitlines(), strict=True) if old != new]
        found.append(line.strip())
    return found


SOURCE = """LIMIT = 3

def f(é: int = 4) -> bool:
    "Has 1 text."
    g("é", é < 5, f"{é + 1}")
    return not (é and é)
"""


def test_each_mutant_changes_one_thing(mutation: ModuleType, tmp_path: Path) -> None:
    assert sorted(changes(mutation, tmp_path, SOURCE)) == [
        'g("é", (é <= 5), f"{é + 1}")',
        'g("é", é < (6), f"{é + 1}")',
        "pass",
        "return (é and é)",
        "return None",
        "return not ((é or é))",
    ]


SWAPPED = """
def plain(x):
    return x < 3

class Thing:
    def method(self, x):
        return [y for y in range(9) if y < x]

def made(limit):
    def inner(x):
        return x < limit
    return inner

kept = made(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_code_is_swapped_in_whatever_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.forked import swap

    file = tmp_path / "swapped_module.py"
    file.write_text(SWAPPED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("swapped_module")
    thing = module.Thing()
    assert (module.plain(3), thing.method(2), module.kept(3)) == (False, [0, 1], False)
    gc.collect()
    gc.freeze()
    swap(file, SWAPPED, SWAPPED.replace("<", "<="))
    assert (module.plain(3), thing.method(2), module.kept(3)) == (True, [0, 1, 2], True)
    swap(file, SWAPPED, SWAPPED)
    assert module.plain(3) is False


def test_every_room_of_the_core_has_tests(mutation: ModuleType) -> None:
    rooms = [path for path in mutation.CORE.iterdir() if path.is_dir() and list(path.glob("*.py"))]
    for room in rooms:
        if room.name not in ("bundled", "testing"):
            assert mutation.tests_of(room / "x.py"), room
