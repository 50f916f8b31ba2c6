"""`chatbridge init`: what it writes, for whom, and what it does not take. A service of a plugin stands for all."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge import Plugins, guide_path
from chatbridge.cli import main
from chatbridge.cli.model.convert import convert
from chatbridge.config import load
from chatbridge.testing import fixtures

Install = Callable[..., Path]
Init = Callable[..., tuple[object, str, str]]

ROOMS = """
    from chatbridge import FrontendType, Options, Secret, hookimpl
    from pydantic import AfterValidator
    from typing import Annotated

    def checked(token):
        if not token.get_secret_value().startswith("T-"):
            raise ValueError("tokens of Rooms begin with T-")
        return token

    class RoomsOptions(Options):
        token: Annotated[Secret, AfterValidator(checked)]

    async def run(options, bot): ...

    @hookimpl
    def register_frontends():
        return [FrontendType("rooms", RoomsOptions, "rooms", run, ids="[0-9]+", ids_hint="ids of Rooms are numbers")]
"""


@pytest.fixture
def init(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """How `init` ends, and what it prints: `init("-s", "rooms", stdin="T-1")`. `answers`: typed by somebody there."""
    install("rooms", ROOMS)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "", answers: tuple[str, ...] | None = None) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        if answers is not None:
            left = list(answers)
            monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
            for name in ("visible_prompt_func", "hidden_prompt_func"):
                monkeypatch.setattr(f"click.termui.{name}", lambda text="": left.pop(0))
        with pytest.raises(SystemExit) as ended:
            main(("init", *arguments))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_what_is_written_is_a_bot_that_can_be_read(init: Init, tmp_path: Path) -> None:
    code, out, err = init(
        "-s", "rooms", "--token-from", "-", "--admin", "7", "--admin", "8", "--language", "zh", stdin="T-1\n"
    )
    assert (code, err) == (0, "")
    assert out == "bots.yaml is written. `chatbridge check` looks it over; `chatbridge run` starts it.\n"
    settings = load(tmp_path / "bots.yaml", Plugins())
    (bot,) = settings.bots.values()
    assert (bot.frontend, bot.options.token.get_secret_value()) == ("rooms", "T-1")  # type: ignore[attr-defined]
    assert bot.admins.users == {"7", "8"}
    assert (settings.defaults.language, settings.defaults.model) == ("zh", "guide")
    assert "T-1" not in (tmp_path / "bots.yaml").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="there are no modes")
def test_a_token_is_for_its_owner_alone_and_not_for_git(init: Init, tmp_path: Path) -> None:
    assert init("-s", "rooms", "--token-from", "-", stdin="T-1")[0] == 0
    secrets = tmp_path / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((secrets / "rooms.token").stat().st_mode) == 0o600
    assert (secrets / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_who_sits_there_is_asked_and_may_try_again(init: Init, tmp_path: Path) -> None:
    answers = ("rooms", "wrong", "T-2", "nosuch", str(guide_path()), "ann", "7, 8")
    code, _, err = init(answers=answers)
    assert code == 0, err
    for told in ("tokens of Rooms begin with T-", "there is no model 'nosuch'", "ids of Rooms are numbers"):
        assert told in err
    assert "T-2" not in err
    settings = load(tmp_path / "bots.yaml", Plugins())
    (bot,) = settings.bots.values()
    assert bot.admins.users == {"7", "8"}
    (model,) = settings.models.values()
    assert Path(model.options.path) == guide_path()  # type: ignore[attr-defined]
    assert settings.defaults.model == model.name != "guide.gguf"


def test_the_least_is_a_terminal_with_the_bundled_model(init: Init, tmp_path: Path) -> None:
    code, out, _ = init("here.yaml", "-s", "repl")
    assert (code, out) == (
        0,
        "here.yaml is written. `chatbridge check -c here.yaml` looks it over; "
        "`chatbridge repl -c here.yaml` starts it.\n",
    )
    settings = load(tmp_path / "here.yaml", Plugins())
    assert [(bot.name, bot.frontend) for bot in settings.bots.values()] == [("repl", "repl")]
    assert list(settings.models) == ["guide"]
    assert not (tmp_path / "secrets").exists()


def test_a_path_beside_the_file_is_written_as_it_is_seen_from_there(init: Init, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "mine: one.gguf"
    model.write_bytes(guide_path().read_bytes())
    assert init("-s", "repl", "-m", str(model))[0] == 0
    assert "models/mine: one.gguf" in (tmp_path / "bots.yaml").read_text(encoding="utf-8")
    (found,) = load(tmp_path / "bots.yaml", Plugins()).models.values()
    assert Path(found.options.path) == model  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        ((), "", 2, "the service is missing: give it by --service"),
        (("-s", "rooms"), "", 2, "the token of rooms is missing: give it by --token-from FILE"),
        (("-s", "rooms", "--token-from", "-"), "x", 1, "the token can't be used: tokens of Rooms begin with T-"),
        (("-s", "rooms", "--token-from", "-", "--admin", "ann"), "T-1", 2, "'ann' is no id of rooms: ids of Rooms are"),
        (("-s", "romms", "--token-from", "-"), "T-1", 1, "there is no frontend 'romms'; did you mean 'rooms'"),
        (("-s", "repl", "--admin", "7"), "", 2, "repl has no people but the one who sits there"),
        (("-s", "repl", "-m", "nosuch"), "", 2, "there is no model 'nosuch'"),
        (("no/such/bots.yaml", "-s", "repl"), "", 1, "this can't be written"),
    ],
)
def test_what_can_not_be_used_is_told_and_nothing_is_written(
    init: Init, tmp_path: Path, arguments: tuple[str, ...], stdin: str, code: int, said: str
) -> None:
    ended, _, err = init(*arguments, stdin=stdin)
    assert (ended, said in err) == (code, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_model_that_does_not_say_its_template_needs_one(init: Init, tmp_path: Path) -> None:
    (model := tmp_path / "plain").mkdir()
    for file in (fixtures() / "llama" / "hf").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    assert main_makes_gguf(model, tmp_path / "plain.gguf")
    path = str(tmp_path / "plain.gguf")
    code, _, err = init("-s", "repl", "-m", path)
    assert (code, "does not say which prompt template it wants: give it by --template" in err) == (2, True)
    code, _, err = init("-s", "repl", "-m", path, "-t", "alpacca")
    assert (code, "there is no template 'alpacca'; did you mean 'alpaca'?" in err) == (2, True)
    code, _, err = init(answers=("repl", path, "alpacca", "alpaca"))
    assert (code, "did you mean 'alpaca'?" in err) == (0, True), err
    (found,) = load(tmp_path / "bots.yaml", Plugins()).models.values()
    assert found.template == "alpaca"


def main_makes_gguf(source: Path, target: Path) -> bool:
    convert(source, target, "f16", {})
    return target.exists()


def test_what_is_there_is_never_written_over(init: Init, tmp_path: Path) -> None:
    (tmp_path / "bots.yaml").write_text("mine", encoding="utf-8")
    code, _, err = init("-s", "repl")
    assert (code, "bots.yaml is there already" in err) == (1, True)
    assert (tmp_path / "bots.yaml").read_text(encoding="utf-8") == "mine"
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "rooms.token").write_text("T-old", encoding="utf-8")
    code, _, err = init("other.yaml", "-s", "rooms", "--token-from", "-", stdin="T-1")
    assert (code, "rooms.token is there already" in err) == (1, True)
    assert (tmp_path / "secrets" / "rooms.token").read_text(encoding="utf-8") == "T-old"
    assert not (tmp_path / "other.yaml").exists()
