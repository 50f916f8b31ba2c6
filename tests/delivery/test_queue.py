"""`chatbridge queue` on the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import click
import pytest

from chatbridge.cli import main
from chatbridge.cli.queue import describe
from chatbridge.store import Inbox, NewOutboxMessage, Outbox, Store
from chatbridge.store.queue import Entry
from chatbridge.types import Author, Channel, Message

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `chatbridge queue` in this process, which is sooner there than one of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main(["queue", *arguments])
        assert isinstance(ended.value.code, int)
        return CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store with something in each state, where bots.yaml says."""

    async def fill() -> None:
        store = await Store.open(tmp_path / "bots.sqlite3")
        inbox, outbox = Inbox(store), Outbox(store)
        for id in "12":
            await inbox.add("guild", Message(id, Channel("room"), Author("a", "Ann"), f"what about {id}?\n" * 20))
        await inbox.dead_letter(1, "answering it ended the program 3 times")
        await outbox.put("guild", "room", [NewOutboxMessage("send", content='{"text": "an answer"}')] * 2)
        await outbox.failed(2, "bot was blocked by the user", doubtful=False)
        await store.aclose()

    asyncio.run(fill())
    (tmp_path / "bots.yaml").write_text("models: {guide: {backend: numpy}}\nstore: bots.sqlite3\n")
    return tmp_path / "bots.sqlite3"


def test_what_waits_and_what_was_given_up_is_listed(filled: Path, chatbridge: Run, queue: Run) -> None:
    done = chatbridge("queue")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:3] for line in done.stdout.splitlines() if not line.startswith(" ")] == [
        ["in-1", "dead", "guild/room"],
        ["in-2", "waiting", "guild/room"],
        ["out-1", "pending", "guild/room"],
        ["out-2", "failed", "guild/room"],
    ]
    assert "error: bot was blocked by the user" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 120
    listed = json.loads(queue("--store", str(filled), "list", "--json").stdout)
    assert [(entry["id"], entry["text"][:10]) for entry in listed][2:] == [
        ("out-1", "an answer"),
        ("out-2", "an answer"),
    ]


def test_retry_and_drop(filled: Path, queue: Run) -> None:
    assert queue("retry", "in-1").stdout == "in-1: to be tried again\n"
    assert queue("retry", "--all").stdout == "out-2: to be tried again\n"
    assert queue("drop", "in-2", "out-1").stdout == "in-2: dropped\nout-1: dropped\n"
    states = [(entry["id"], entry["state"]) for entry in json.loads(queue("--json").stdout)]
    assert states == [("in-1", "waiting"), ("out-2", "pending")]
    queue("drop", "in-1", "out-2")
    assert queue().stdout == "nothing waits, and nothing was given up\n"


def test_mistakes_are_told(filled: Path, tmp_path: Path, queue: Run) -> None:
    done = queue("retry", "out-1")
    assert done.returncode == 1
    assert "nothing to be done about out-1" in done.stderr
    assert queue("retry").returncode == 2
    assert queue("drop", "in-1", "--all").returncode == 2
    assert "no entry of the queue" in queue("drop", "7").stderr
    (tmp_path / "bots.yaml").write_text("models: {guide: {backend: numpy}}\nstore: other.sqlite3\n")
    done = queue()
    assert done.returncode == 1
    assert "`chatbridge run` makes it" in done.stderr
    assert not (tmp_path / "other.sqlite3").exists()


def test_an_error_is_told_where_there_is_one() -> None:
    entry = Entry("in-1", "bot", "p", "open", attempts=1, error="", text="hello", created=0.0)
    assert click.unstyle(str(describe(entry))).split("\n")[1:] == ["  hello"]
    failed = replace(entry, error="it was too long", text="")
    assert click.unstyle(str(describe(failed))).split("\n")[1:] == ["  error: it was too long"]
