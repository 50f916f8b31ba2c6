"""What the documents say is true: commands, keys, paths, the plugin; and the two READMEs say the same."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

from chatbridge import Plugins, hookspecs
from chatbridge.bots.commands import BUILTIN
from chatbridge.cli import COMMANDS, cli
from chatbridge.config import ChannelSettings, load
from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.testing import Document, readmes

ROOT = Path(__file__).parents[1]
READMES = readmes(ROOT)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_settings_in_the_readme_are_good(readme: Document, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "telegram").write_text("123456789:AAE-x2_y")
    assert list(readme.settings(tmp_path, Plugins(), {"DISCORD_TOKEN": "x"}))


def test_the_sample_works_as_it_stands() -> None:
    settings = load(ROOT / "bots.yaml", Plugins(), {})
    assert settings.models
    assert settings.bots
    assert "yaml-language-server: $schema=" in (ROOT / "bots.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_commands_in_the_readme_exist(readme: Document) -> None:
    text = readme.text
    context = click.Context(cli)
    for name, option in re.findall(r"(?:`|bin/)chatbridge (\w+)(?: (-\S+))?", text):
        command = cli.get_command(context, name)
        assert command is not None, name
        if option:
            assert any(option.strip("`") in parameter.opts for parameter in command.params), f"{name} {option}"
    assert set(COMMANDS) <= set(re.findall(r"`chatbridge (\w+)", text)), "a command is not in the README"
    for command in BUILTIN:
        assert f"`/{command.name}`" in text, command.name


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_key_is_in_the_readme(readme: Document) -> None:
    text = readme.text
    for model in (TopKeys, ModelKeys, BotKeys, ChannelSettings):
        for key in model.model_fields:
            assert re.search(rf"[`\b]{key}\b|^ *{key}:|{key}: ", text, re.MULTILINE), f"{model.__name__}.{key}"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_template_of_a_family_exists(readme: Document) -> None:
    known = set(Plugins(discover=False).templates)
    table = readme.text.split("\n## ")[3]
    named = set(re.findall(r"`((?:alpaca|chinese|belle|chatglm|glm-|rwkv-)[\w-]*)`", table))
    assert named
    assert named <= known


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_tree_in_the_readme_is_the_tree(readme: Document) -> None:
    tree = readme.tree()
    for path, caption in tree.items():
        assert path.exists(), f"{path.name} is in the README and nowhere else"
        assert caption, f"{path.name} has no caption"
    folders = {path.parent for path in tree} - {ROOT}
    assert {"chatbridge", "plugins", "examples"} <= {folder.name for folder in folders}
    written = {path for path in ROOT.glob("*.md") if "README" not in path.name and "CHANGELOG" not in path.name}
    for path in written.union(*(folder.iterdir() for folder in folders)):
        if path.name not in ("__pycache__", "py.typed"):
            assert path in tree, f"{path.relative_to(ROOT)} is not in the README's tree"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_plugin_in_the_readme_works(readme: Document, tmp_path: Path) -> None:
    (block,) = readme.blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    (tmp_path / "chatbridge_dice.py").write_text(block, encoding="utf-8")
    program = """
import asyncio, chatbridge_dice
from pathlib import Path
from chatbridge import Author, Channel, Message
from chatbridge.testing import ScriptedBackend, bridge_with, scripted
async def main():
    async with bridge_with(scripted(ScriptedBackend("x")), Path("store"), plugins=[chatbridge_dice]) as bridge:
        for text in ("/roll 3d1", "/roll nonsense"):
            print((await bridge.bot("b").receive(Message("1", Channel("c"), Author("a", "Ann"), text))).text)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Ann rolls [1, 1, 1]: 3", "Say /roll 2d6."]


def test_both_readmes_hold_the_same() -> None:
    """The same sections, tables, code and numbers; only the sentences are of another language."""
    english, chinese = READMES
    assert english.shape() == chinese.shape()


def test_the_ci_runs_the_readmes_test_command() -> None:
    (command,) = [block for block in READMES[0].blocks("sh") if "pytest" in block]
    assert ".venv-test/bin/pytest" in command
    assert ".venv-test/bin/pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@cache
def help_of(*program: str) -> str:
    """What a program of ours says to `--help`."""
    command = [sys.executable, *program, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_commands_for_contributors_can_be_given() -> None:
    commands = [line for block in Document(ROOT / "CONTRIBUTING.md").blocks("sh") for line in block.splitlines()]
    given = [shlex.split(command) for command in commands if command.startswith(".venv/bin/")]
    assert {Path(words[0]).name for words in given} == {"pip", "chatbridge", "pytest", "ruff", "mypy", "python"}
    for program, *words in given:
        paths = [word for word in words if word.startswith(("tests", "plugins", "examples", "benchmarks"))]
        paths = [path.replace(".", "/") if words[0] == "-m" else path for path in paths]
        assert all((ROOT / path).exists() for path in paths), words
        if program.endswith("pytest"):
            assert paths == words
        elif program.endswith("chatbridge"):
            above = click.Context(cli, **cli.context_settings)
            command = cli.get_command(above, words[0])
            assert command is not None
            command.make_context(words[0], words[1:], parent=above)
        elif program.endswith("python"):
            told = help_of(*(words[:2] if words[0] == "-m" else words[:1]))
            assert all(word in told for word in words if word.startswith("--"))
    (extra,) = [words[-1] for words in given if words[0].endswith("pip")]
    assert extra == ".[test]"


def test_the_matrix_runs_what_is_there() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    core, everything = (" ".join(step.get("run", "") for step in jobs[job]["steps"]) for job in ("core", "everything"))
    assert everything.split() == [".ci/run", ".venv-test/bin/pytest", "-m", "style"]
    for path in core.partition("-m pytest")[2].split():
        assert (ROOT / path).is_dir(), path
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(supported) <= set(jobs["core"]["strategy"]["matrix"]["python"])
    assert len(jobs["core"]["strategy"]["matrix"]["system"]) == 3
    assert "untried" in text


def test_what_bug_reports_ask_for_can_be_had() -> None:
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        for command in re.findall(r"`chatbridge (\w+)", form.read_text(encoding="utf-8")):
            assert command in COMMANDS
    assert "`chatbridge doctor`" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")


def test_the_example_of_embedding_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "embed.py"), "hello"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) > 3
    assert "end" in done.stderr


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_guide_answers_what_the_readme_asks(readme: Document, tmp_path: Path) -> None:
    (asked,) = re.findall(r"^you> (.*)$", readme.text, re.MULTILINE)
    (tmp_path / "bots.yaml").write_text("models: {guide: {backend: numpy}}")
    command = [sys.executable, "-m", "chatbridge", "repl"]
    done = subprocess.run(command, input=f"{asked}\n", cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "chatbridge-telegram" in done.stdout
    assert "frontend: telegram" in done.stdout


def test_every_hook_is_told_of() -> None:
    readme = (ROOT / "examples" / "hello_plugin" / "README.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "chatbridge_spec")]
    assert len(hooks) == 8
    for name in hooks:
        assert f"`{name}" in readme, f"{name} is not in the README for plugin authors"


def test_what_authors_of_frontends_are_told_of_is_there() -> None:
    import chatbridge

    text = (ROOT / "examples" / "hello_plugin" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## A frontend for a chat service")[2]
    methods = set(re.findall(r"`(?:bot\.)?(\w+)(?:\(|`)", section)) | set(re.findall(r"delivery\.(\w+)\(", section))
    known = {
        *vars(chatbridge.Delivery),
        *vars(chatbridge.Chat),
        *vars(chatbridge.Bot),
        *chatbridge.__all__,
        "FakeService",
    }
    known |= {"FrontendContract", "run_virtually", "chatbridge", "bot"}
    assert {"accept", "advance", "cursors", "press", "call", "edited", "deleted", "resume"} <= methods
    assert methods <= known, methods - known


def test_paths_in_architecture_exist() -> None:
    """Files, folders and names of the core that ARCHITECTURE.md puts in backticks."""
    document = Document(ROOT / "ARCHITECTURE.md")
    words = re.findall(r"`([^`\n]+)`", document.text)
    roots = (ROOT, ROOT / "chatbridge", ROOT / "plugins")
    paths = [word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]*)+|\w+\.(py|md|yaml|toml)", word)]
    assert paths
    for path in paths:
        found = any((root / path).exists() for root in roots) or list((ROOT / "chatbridge").rglob(path))
        assert found, f"{path} is in ARCHITECTURE.md and nowhere else"
    sources = [*ROOT.glob("chatbridge/**/*.py"), *ROOT.glob("plugins/*/chatbridge_*/**/*.py")]
    code = set(re.findall(r"\w+", " ".join(file.read_text(encoding="utf-8") for file in sources)))
    plain = [word for word in words if re.fullmatch(r"[\w.]+(\(.*\))?", word)]
    names = {name for word in plain for name in re.findall(r"[A-Za-z_]\w*", word)}
    in_paths = {name for path in paths for name in re.findall(r"\w+", path)}
    assert names - in_paths <= code, names - in_paths - code
