"""`/save` and `/load`: for a person at a terminal, for the owner's eyes, and never through a link."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import Author, Bot, Channel, CommandError, Message, Notice
from chatbridge.bots import conversation_files as files
from tests.bots.conftest import Say

TERMINAL = Channel("alone", kind="terminal")
posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")


@dataclass
class Person:
    """Somebody who answers what is asked."""

    answer: bool = True
    asked: list[str] = field(default_factory=list)

    async def __call__(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer


async def typed(bot: Bot, text: str, ask: Callable[[str], Awaitable[bool]] | None, channel: Channel = TERMINAL) -> str:
    result = await bot.receive(Message(text, channel, Author("ann", "Ann"), text), ask=ask)
    assert isinstance(result, Notice)
    return result.text


def names_in(folder: Path) -> list[str]:
    """What was saved there; the store's files are beside it."""
    return sorted(path.name for path in folder.iterdir() if "sqlite" not in path.name and "store" not in path.name)


async def test_without_a_person_nothing_is_written(bot: Bot, say: Say, tmp_path: Path) -> None:
    await say("one")
    for channel in (TERMINAL, Channel("alone")):
        with pytest.raises(CommandError, match="typed by a person"):
            await typed(bot, f"/save {tmp_path}/a", None, channel)
    with pytest.raises(CommandError, match="typed by a person"):
        await typed(bot, f"/save {tmp_path}/a", Person(), Channel("alone"))
    assert names_in(tmp_path) == []


async def test_a_file_that_is_there_is_asked_about(bot: Bot, say: Say, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    await say("one")
    nobody = Person(False)
    await typed(bot, f"/save {file}", nobody)
    assert nobody.asked == []
    file.write_text("mine", "utf-8")
    assert await typed(bot, f"/save {file}", nobody) == "Not saved."
    assert file.read_text("utf-8") == "mine"
    assert str(file) in nobody.asked[0]
    assert "Saved" in await typed(bot, f"/save {file}", Person())
    assert "one" in file.read_text("utf-8")
    assert names_in(tmp_path) == ["a.json"], "nothing half-written is left"


@posix
async def test_the_file_is_the_owners_alone(bot: Bot, say: Say, tmp_path: Path) -> None:
    await say("one")
    before = os.umask(0)
    try:
        await typed(bot, f"/save {tmp_path}/a", Person())
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@posix
@pytest.mark.parametrize("command", ["save", "load"])
async def test_what_is_no_plain_file_is_told_in_a_line(bot: Bot, say: Say, tmp_path: Path, command: str) -> None:
    await say("one")
    (tmp_path / "mine").write_text("mine", "utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    bad = ["link", "dangling", "folder", "pipe", "missing/a", "mine/a", "a" * 300, "folder/"]
    for name in [str(tmp_path / name) for name in bad] + ["/dev/full", "~nobody-of-that-name/a"]:
        with pytest.raises(CommandError) as told:
            await typed(bot, f"/{command} {name}", Person())
        assert "\n" not in str(told.value)
        assert "None" not in str(told.value)
    assert (tmp_path / "mine").read_text("utf-8") == "mine"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000], ids=["empty", "bytes", "cut", "deep", "deeper"]
)
async def test_what_is_no_conversation_is_told_in_a_line(bot: Bot, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CommandError, match="is no conversation"):
        await typed(bot, f"/load {tmp_path}/a", Person())


async def test_a_file_that_is_too_big_names_the_setting(bot: Bot, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b" " * (bot.services.settings.load_mib * 2**20 + 1))
    with pytest.raises(CommandError, match=r"more than 32 MiB .`load_mib` in bots\.yaml"):
        await typed(bot, f"/load {tmp_path}/a", Person())
    with pytest.raises(OSError, match="more than 1 MiB"):
        files.read_text(tmp_path / "a", 1)


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("mine", "utf-8")
    with pytest.raises(FileExistsError):
        files.write_text(path, "other", replace=False)
    assert [found.name for found in tmp_path.iterdir()] == ["a"]
    assert path.read_text("utf-8") == "mine"


@posix
def test_a_file_system_without_links_keeps_what_is_there_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: object, **options: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    files.write_text(tmp_path / "a", "mine", replace=False)
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "a", "other", replace=False)
    assert (tmp_path / "a").read_text("utf-8") == "mine"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["a"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("files") / "a"
    files.write_text(path, text, replace=False)
    assert files.read_text(path, 1) == text.removeprefix("\ufeff")


def test_a_file_is_read_up_to_its_last_byte_and_one_more_is_too_many(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"x" * (1 << 20))
    assert len(files.read_text(file, 1)) == 1 << 20
    file.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(OSError, match="more than 1 MiB"):
        files.read_text(file, 1)
