"""The arrows point one way: no circle, a core that knows no plugin, plugins that know public names; files are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import chatbridge
import chatbridge.testing

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "chatbridge").rglob("*.py"))
ROOMS = sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir())
ROOM_FILES = [file for room in ROOMS for file in sorted(room.rglob("chatbridge_*/**/*.py"))]
EXAMPLE = sorted((ROOT / "examples" / "hello_plugin").rglob("*.py"))

HEAVY = {"torch", "transformers", "llama_cpp", "rwkv", "discord", "telegram", "numpy", "gguf", "jinja2"}
"""Not imported before they are needed, some of them seconds long."""


class Import(NamedTuple):
    """One import statement of a file, and when it runs: "load", "call" (in a function) or "typing" (never)."""

    module: str
    names: tuple[str, ...]
    when: str


@cache
def imports(file: Path) -> tuple[Import, ...]:
    """Every import of a file, in no order."""

    def inside(node: ast.AST, when: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, (), when) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0 or "tests" in file.parts, f"{file}: relative imports hide where names come from"
                yield Import(child.module or "", tuple(alias.name for alias in child.names), when)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and when == "load":
                yield from inside(child, "call")
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from inside(child, "typing")
            elif not isinstance(child, ast.expr):  # no expression holds a statement
                yield from inside(child, when)

    return tuple(inside(ast.parse(file.read_text(encoding="utf-8")), "load"))


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", CORE, ids=short)
def test_the_core_knows_no_plugin(file: Path) -> None:
    for module, *_ in imports(file):
        assert not module.startswith("chatbridge_"), f"imports {module}"


@pytest.mark.parametrize("file", [*ROOM_FILES, *EXAMPLE], ids=short)
def test_plugins_use_public_names_alone(file: Path) -> None:
    room = next(part for part in file.parts[::-1] if part.startswith(("chatbridge_", "tests")))
    for module, names, _ in imports(file):
        top = module.partition(".")[0]
        assert not top.startswith("chatbridge_") or top == room or room == "tests", f"imports the plugin {module}"
        if top != "chatbridge":
            continue
        public = {"chatbridge": chatbridge.__all__, "chatbridge.testing": chatbridge.testing.__all__}
        assert module in public, f"imports {module}, which is not public"
        assert set(names) <= {*public[module], "__version__"}, f"takes {names} from {module}"


# --- circles ---------------------------------------------------------------------------------------------------------


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows(*when: str) -> dict[str, set[str]]:
    """Which modules of the core each of them imports at these times.

    That a module's package is loaded before it is not counted: what runs with it are lazy names alone.
    """
    modules = {module_of(file): file for file in CORE}
    found: dict[str, set[str]] = {}
    for module, file in modules.items():
        targets = [one for one in imports(file) if one.when in when]
        named = {f"{one.module}.{name}" for one in targets for name in one.names}  # where the name is a module
        taken = {one.module for one in targets if not {f"{one.module}.{name}" for name in one.names} <= modules.keys()}
        found[module] = (named | taken) & modules.keys() - {module}
    return found


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of two and more: each module in one leads to each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (module := waiting.pop()) not in found:
                found.add(module)
                waiting += graph[module]
        reached[start] = found
    components = {frozenset({start, *(one for one in reached[start] if start in reached[one])}) for start in graph}
    return [set(component) for component in components if len(component) > 1]


def test_circles_are_counted() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"a"}}) == [{"a", "b", "c"}]
    found = arrows("load")
    assert "chatbridge.types" in found["chatbridge.hookspecs"] | arrows("typing")["chatbridge.hookspecs"]
    assert "chatbridge.cli.names" in arrows("call")["chatbridge.plugins.builtin"] - found["chatbridge.plugins.builtin"]


def test_no_imports_that_run_go_in_a_circle() -> None:
    assert circles(arrows("load", "call")) == []


def test_imports_for_typing_go_in_a_circle_nowhere_but_among_four_files_of_bots() -> None:
    found = circles(arrows("load", "call", "typing"))
    assert len(found) <= 1, found
    for circle in found:
        assert all(module.startswith("chatbridge.bots.") for module in circle), sorted(circle)
        assert len(circle) <= 4, sorted(circle)


# --- files -----------------------------------------------------------------------------------------------------------


def test_few_files_lie_outside_the_rooms() -> None:
    assert len(list((ROOT / "chatbridge").glob("*.py"))) <= 10


@pytest.mark.parametrize("file", [*CORE, *ROOM_FILES, *EXAMPLE], ids=short)
def test_a_file_says_what_it_does_and_can_be_read_in_one_sitting(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "the module has no docstring"
    assert len(text.splitlines()) <= 450, "longer than one sitting"


BESIDES = [*sorted(ROOT.glob("benchmarks/**/*.py")), *sorted(ROOT.glob("examples/*.py"))]


@pytest.mark.parametrize("file", BESIDES, ids=short)
def test_benchmarks_and_examples_import_what_is_there(file: Path) -> None:
    """They run seldom, and nobody checks their types."""
    for module, names, _ in imports(file):
        package = module.partition(".")[0]
        if not package.startswith("chatbridge") or find_spec(package) is None:
            continue
        assert find_spec(module), f"imports {module}, which is not there"
        try:
            found = import_module(module)
        except ModuleNotFoundError:  # a plugin's library that is not installed
            continue
        for name in names:
            assert hasattr(found, name) or find_spec(f"{module}.{name}"), f"takes {name} from {module}"


def test_everything_public_says_what_it_is() -> None:
    for package in (chatbridge, chatbridge.testing):
        for name in package.__all__:
            found = getattr(package, name)
            if isinstance(found, type):
                assert found.__doc__, f"{name} has no docstring"


def test_public_names_are_the_same_for_programs_and_for_type_checkers() -> None:
    for package in (chatbridge, chatbridge.testing):
        assert package.__file__ is not None
        tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
        typed = {
            alias.asname
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname
        }
        assert typed == set(package.__all__)


@pytest.mark.parametrize("module", ["chatbridge", "chatbridge.cli", "chatbridge_numpy", "chatbridge_repl"])
def test_nothing_heavy_comes_with_an_import(module: str) -> None:
    program = f"import {module}, sys; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
    assert not {"pydantic", "yaml", "rich", "prompt_toolkit", "asyncio"} & set(done.stdout.split())


def test_no_test_mocks_and_none_sleeps() -> None:
    for file in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/**/*.py"), *EXAMPLE]:
        for module, *_ in imports(file):
            assert not module.startswith("unittest"), f"{file} imports {module}"
        if file != Path(__file__):
            text = file.read_text(encoding="utf-8")
            assert "time.sleep" not in text, file
            assert "asyncio.sleep" not in text.replace("asyncio.sleep(0)", ""), file
