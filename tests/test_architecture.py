"""The arrows point one way: the core knows no plugin, plugins know only public names, and files can be read."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def imports(file: Path) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Every import: the module, the names taken from it, and whether it runs when the file is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), id(node) not in guarded
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or "tests" in file.parts, f"{file}: relative imports hide where names come from"
            yield node.module or "", tuple(alias.name for alias in node.names), id(node) not in guarded


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", CORE, ids=short)
def test_the_core_knows_no_plugin(file: Path) -> None:
    for module, _, _ in imports(file):
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


@pytest.mark.parametrize("file", [*CORE, *ROOM_FILES, *EXAMPLE], ids=short)
def test_a_file_says_what_it_does_and_can_be_read_in_one_sitting(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "the module has no docstring"
    assert len(text.splitlines()) <= 450, "longer than one sitting"


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
        for module, _, _ in imports(file):
            assert not module.startswith("unittest"), f"{file} imports {module}"
        if file != Path(__file__):
            text = file.read_text(encoding="utf-8")
            assert "time.sleep" not in text, file
            assert "asyncio.sleep" not in text.replace("asyncio.sleep(0)", ""), file
