"""`chatbridge forget`: what it deletes and says, that it asks before, and that it needs the store for itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatbridge.cli import cli
from chatbridge.config import Options
from chatbridge.errors import StoreInUse
from chatbridge.store import Store


def said(path: Path) -> None:
    """A store in which Ann and Ben have spoken in a group, and Ann alone."""

    async def fill() -> None:
        store = await Store.open(path)
        for room, authors in (("group", ("111", "222")), ("private", ("111",))):
            talk = await store.conversation("bot", room)
            for author in authors:
                await store.append(talk.id, "user", f"words of {author}", parent=None, author=author)
        await store.aclose()

    asyncio.run(fill())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bots.yaml"
    path.write_text("models: {g: {backend: numpy}}\nbots: {t: {frontend: repl}}\n")
    said(tmp_path / "chatbridge.sqlite3")
    return path


def run(config: Path, *arguments: str, answer: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["forget", "-c", str(config), *arguments], input=answer)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_it_says_what_it_deleted_and_what_is_left(config: Path) -> None:
    code, output = run(config, "--yes", "111")
    assert code == 0
    assert "deleted: 1 conversations with 1 messages" in output
    assert "deleted: 1 messages and answers in conversations with others" in output
    assert "left: 1 conversations with others" in output
    data = b"".join(file.read_bytes() for file in config.parent.glob("chatbridge.sqlite3*"))
    assert b"words of 222" in data
    assert b"words of 111" not in data


def test_it_asks_before_and_does_nothing_unless_told_so(config: Path) -> None:
    code, output = run(config, "111", answer="n\n")
    assert code == 1
    assert "for good" in output
    assert b"words of 111" in (config.parent / "chatbridge.sqlite3").read_bytes()
    assert run(config, "111", answer="y\n")[0] == 0


def test_programs_are_told_in_json(config: Path) -> None:
    code, output = run(config, "--yes", "--json", "222")
    assert code == 0
    told = json.loads(output)
    assert (told["blanked"], told["conversations"], told["kept_states"], told["emptied"]) == (1, 0, 0, True)


def test_what_nobody_said_is_not_there(config: Path) -> None:
    assert run(config, "--yes", "333") == (
        0,
        "nothing of that id was in the store; in a chat, `/usage` shows the ids of people\n",
    )


def test_beside_a_program_that_has_the_store_it_says_who_that_is(config: Path) -> None:
    async def hold() -> None:
        store = await Store.open(config.parent / "chatbridge.sqlite3", config=str(config))
        try:
            await asyncio.to_thread(refused)
        finally:
            await store.aclose()

    def refused() -> None:
        with pytest.raises(StoreInUse, match=r"in use by another program: process \d+.*would write back"):
            run(config, "--yes", "111")

    asyncio.run(hold())


def test_kept_states_go_with_it(tmp_path: Path) -> None:
    from chatbridge.cli.forget import delete_states
    from chatbridge.config import ModelSettings, Settings

    class Keeping(Options):
        keep_states: Path | None = None

    (tmp_path / "states").mkdir()
    for name in ("a.state", "b.state", "c.1.part", "other.txt"):
        (tmp_path / "states" / name).write_text("what somebody said")
    (tmp_path / "idle-states").mkdir()
    (tmp_path / "idle-states" / "d.state").write_text("what somebody said before a model was unloaded")
    models = {
        "one": ModelSettings("one", "x", Keeping(keep_states=tmp_path / "states")),
        "two": ModelSettings("two", "x", Keeping(keep_states=tmp_path / "states")),
        "three": ModelSettings("three", "x", Keeping()),
    }
    assert delete_states(Settings(models, {}, tmp_path / "store")) == 4
    assert [*(tmp_path / "idle-states").iterdir()] == []
    assert [file.name for file in (tmp_path / "states").iterdir()] == ["other.txt"]
