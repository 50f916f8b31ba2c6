"""Draws small changes ("mutants") of the core at random and runs the tests of their folder: each should make one fail.

    python tests/mutants.py --count 40 --seed 1

Prints each change that no test noticed, as a diff. Changes files in place, one at a time, and puts them back; run it
in a clean working tree. Knows no test; the tests of a folder of the core are in the folder of its name.

With `--contexts FILE` the tests that execute the changed lines run first, in forked processes (`forked.py`), which
takes a few seconds; what they don't notice goes to the whole folder still. Which ones these are is found by a run of
all tests under pytest-cov, where the file is not there yet.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "chatbridge"
ELSEWHERE = {
    "config": ["config", "bots/test_run.py"],
    "bridge.py": ["bots", "config/test_reload.py", "cli/test_run.py"],
    "operations": ["operations", "cli"],
    "texts.py": ["test_texts.py", "bots"],
    "worker": ["worker", "engine"],
}
"""Tests of what has no folder of its own, or more than one."""
COVERING, COVERING_SECONDS = 400, 150
"""So many of the tests that execute the changed lines run first, and for so long: what takes longer decides nothing."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: Path
    before: str
    after: str

    @property
    def lines(self) -> range:
        """The lines of the file that change, from 1."""
        old, new = self.before.splitlines(), self.after.splitlines()
        first = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
        same = next((n for n, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), 0)
        return range(first + 1, len(old) - same + 1)

    def diff(self) -> str:
        """The change, for people."""
        name = str(self.file)
        old, new = self.before.splitlines(), self.after.splitlines()
        return "\n".join(difflib.unified_diff(old, new, name, name, lineterm="", n=2))


def changed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become; nothing for most of them."""
    match node:
        case ast.Compare(left, [op], right) if type(op) in SWAPS:
            yield ast.Compare(left, [SWAPS[type(op)]()], right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPS[type(op)](), values)
        case ast.BinOp(left, op, right) if type(op) in SWAPS:
            yield ast.BinOp(left, SWAPS[type(op)](), right)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Return(value=ast.AST() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call(func=func) | ast.Await(value=ast.Call(func=func))):
            if not ast.unparse(func).startswith("log."):
                yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.IfExp():
            yield node.body
            yield node.orelse


def mutants(file: Path) -> list[Mutant]:
    """Every change that can be drawn in a file: inside functions, but for texts."""
    before = file.read_bytes()
    starts = [0, *itertools.accumulate(map(len, before.splitlines(keepends=True)))]
    texts = {}
    for function in ast.walk(ast.parse(before)):
        body = function.body if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) else []
        for node in itertools.chain.from_iterable(map(_inside, body)):
            for changed in changed_nodes(node):
                start = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                text = ast.unparse(changed) if isinstance(changed, ast.stmt) else f"({ast.unparse(changed)})"
                after = before[:start] + text.encode() + before[end:]
                texts[after.decode()] = None  # once, though functions are in functions
    return [Mutant(file, before.decode(), after) for after in texts]


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all in it, but for f-strings: before Python 3.12 the tree has wrong positions there."""
    if not isinstance(node, ast.JoinedStr):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _inside(child)


def tests_of(file: Path) -> list[str]:
    """The tests that should notice a change of a file of the core, the likeliest first."""
    room = file.relative_to(CORE).parts[0]
    paths = [ROOT / "tests" / name for name in ELSEWHERE.get(room, [room])]
    named = sorted(test for path in paths for test in path.glob(f"test_*{file.stem}*.py"))
    return [str(path) for path in dict.fromkeys([*named, *paths]) if path.exists()]


def write_contexts(path: Path) -> None:
    """Run all tests of the core, and write which of them execute which lines."""
    options = ["--cov=chatbridge", "--cov-context=test", "--cov-report=", "-p", "no:cacheprovider", "-q", "-n", "auto"]
    environment = os.environ | {"COVERAGE_FILE": str(path.resolve())}
    subprocess.run([sys.executable, "-m", "pytest", "tests", *options], cwd=ROOT, env=environment, check=False)


@cache
def _coverage(contexts: Path) -> Any:
    from coverage import CoverageData

    data = CoverageData(basename=str(contexts))
    data.read()
    return data


def covering(contexts: Path, mutant: Mutant) -> list[str]:
    """The tests that execute the changed lines, those of its own folder first."""
    data = _coverage(contexts)
    measured = next((name for name in data.measured_files() if Path(name).samefile(mutant.file)), None)
    found = data.contexts_by_lineno(measured) if measured else {}
    tests = {test.rpartition("|")[0] for line in mutant.lines for test in found.get(line, ()) if test}
    near = [str(Path(name).relative_to(ROOT)) for name in tests_of(mutant.file)]
    places = {test: next((n for n, name in enumerate(near) if test.startswith(name)), len(near)) for test in tests}
    return sorted(tests, key=lambda test: (places[test], test))


def noticed_in_forks(drawn: Sequence[Mutant], contexts: Path, end: float) -> set[Mutant]:
    """Those that a test of the changed lines notices, as far as the time goes."""
    sys.path.insert(0, str(ROOT))
    from tests.forked import Forked

    found: set[Mutant] = set()

    def judge(tests: Forked) -> None:
        for number, mutant in enumerate(drawn, 1):
            if time.monotonic() > end:
                return
            if tests.notices(mutant.file, mutant.before, mutant.after, covering(contexts, mutant)):
                found.add(mutant)
            print(f"{number} {'killed' if mutant in found else 'not noticed yet'} {mutant.file.name}", flush=True)

    pytest.main(["tests", "-q", "-p", "no:cacheprovider"], plugins=[Forked(judge)])
    return found


def passes(tests: Sequence[str], seconds: float, output: IO[bytes] | None = None) -> bool | None:
    """Whether the tests pass, or are none; None if they don't end in time. `output`: gets what they print."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False, encoding="utf-8") as names:
        names.write("\n".join(tests))  # more than a command line may have on some systems
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"@{names.name}"]
    silent = subprocess.DEVNULL
    printed = silent if output is None else output
    program = subprocess.Popen(command, cwd=ROOT, stdin=silent, stdout=printed, stderr=silent, start_new_session=True)
    try:
        return program.wait(seconds) in (0, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if hasattr(os, "killpg"):  # programs that tests have started may go round in circles for ever
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        program.kill()
        program.wait()
        Path(names.name).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", help="folders of chatbridge/ to draw from; all that have tests unless given"
    )
    parser.add_argument("--count", type=int, default=40, help="how many to draw")
    parser.add_argument("--seed", type=int, default=1, help="another one draws others")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further one after so long")
    parser.add_argument("--contexts", type=Path, help="coverage with contexts, to run the tests of the lines first")
    asked = parser.parse_args()
    if asked.contexts and not asked.contexts.exists():
        write_contexts(asked.contexts)
    files = [file for file in sorted(CORE.rglob("*.py")) if "testing" not in file.parts and tests_of(file)]
    files = [file for file in files if not asked.folders or file.relative_to(CORE).parts[0] in asked.folders]
    known = [mutant for file in files for mutant in mutants(file)]
    drawn = random.Random(asked.seed).sample(known, min(asked.count, len(known)))
    print(f"{len(known)} are possible, {len(drawn)} are drawn", flush=True)
    end, limits, counts = time.monotonic() + 60 * asked.minutes, dict[str, float](), {"killed": 0, "survived": 0}
    forks = asked.contexts and hasattr(os, "fork")
    noticed = noticed_in_forks(drawn, asked.contexts, end) if forks else set[Mutant]()
    for number, mutant in enumerate(drawn, 1):
        if mutant not in noticed and time.monotonic() > end:
            break
        outcome = "survived" if mutant not in noticed and survives(mutant, asked.contexts, limits) else "killed"
        counts[outcome] += 1
        print(f"{number} {outcome}", mutant.diff() if outcome == "survived" else mutant.file.name, flush=True)
    print(f"{counts['killed']} of {sum(counts.values())} were killed")


def survives(mutant: Mutant, contexts: Path | None, limits: dict[str, float]) -> bool:
    """Whether no test notices. `limits`: the seconds that each folder's tests may take, found when first needed."""
    first = covering(contexts, mutant)[:COVERING] if contexts else []
    if first and _changed(mutant, first, COVERING_SECONDS) is False:
        return False
    tests = tests_of(mutant.file)
    if (key := " ".join(tests)) not in limits:
        begun = time.monotonic()
        with tempfile.TemporaryFile() as output:
            if not passes(tests, 1800, output):
                output.seek(0)
                told = output.read().decode(errors="replace")[-4000:]
                sys.exit(f"{told}\nthese tests fail on the code as it is: {key}")
        limits[key] = 30 + 3 * (time.monotonic() - begun)
    return bool(_changed(mutant, tests, limits[key]))


def _changed(mutant: Mutant, tests: Sequence[str], seconds: float) -> bool | None:
    try:
        mutant.file.write_bytes(mutant.after.encode())
        return passes(tests, seconds)
    finally:
        mutant.file.write_bytes(mutant.before.encode())


if __name__ == "__main__":
    main()
