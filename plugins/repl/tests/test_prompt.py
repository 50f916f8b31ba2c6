"""What the keys do, and what is completed, with prompt_toolkit's own pipe in place of a keyboard."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chatbridge_repl.prompt import ChatCompleter, prompt_session
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput


def words(command: str) -> Mapping[str, str]:
    known = {"": {"model": "change it", "help": "list"}, "model": {"guide": "numpy", "gpt-2": "numpy"}}
    return known.get(command, {})


@asynccontextmanager
async def prompt(history: Path) -> AsyncIterator[tuple[PromptSession[str], PipeInput]]:
    with create_pipe_input() as keys:
        yield prompt_session(words, history, colors=False, input=keys, output=DummyOutput()), keys


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~pasted\nlines\n\x1b[201~\r", "pasted\nlines\n"),
        ("wrong\x03right\r", "right"),
        ("a\x1b\rb\x03c\r", "c"),
        ("中文\r", "中文"),
    ],
)
async def test_keys(typed: str, text: str, tmp_path: Path) -> None:
    async with prompt(tmp_path / "history") as (session, keys):
        keys.send_text(typed)
        assert await session.prompt_async() == text


@pytest.mark.parametrize(("typed", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError), ("x\x03\x04", EOFError)])
async def test_ways_out(typed: str, error: type[BaseException], tmp_path: Path) -> None:
    async with prompt(tmp_path / "history") as (session, keys):
        keys.send_text(typed)
        with pytest.raises(error):
            await session.prompt_async()


async def test_history_comes_back_in_the_next_talk(tmp_path: Path) -> None:
    history = tmp_path / "new" / "folder" / "history"
    async with prompt(history) as (session, keys):
        keys.send_text("one\x1b\rtwo\r")
        await session.prompt_async()
    if sys.platform != "win32":
        assert history.stat().st_mode & 0o077 == 0, "nobody else may read it"
    async with prompt(history) as (session, keys):
        assert [item async for item in session.history.load()] == ["one\ntwo"]


async def test_without_a_place_for_the_history_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with prompt(tmp_path / "file" / "history") as (session, _):
        assert isinstance(session.history, InMemoryHistory)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/", ["/model", "/help"]),
        ("/h", ["/help"]),
        ("/model ", ["/model guide", "/model gpt-2"]),
        ("/model  gp", ["/model  gpt-2"]),
        ("/model guide ", []),
        ("/nosuch ", []),
        ("", []),
        ("and /h", []),
        ("/h\n", []),
    ],
)
def test_completion(typed: str, completed: list[str]) -> None:
    found = ChatCompleter(words).get_completions(Document(typed), CompleteEvent())
    assert [typed[: len(typed) + one.start_position] + one.text for one in found] == completed


def test_a_path_is_completed_where_one_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "talk.json").touch()
    found = ChatCompleter(words).get_completions(Document(f"/load {tmp_path}/ta"), CompleteEvent())
    assert [one.text for one in found] == ["lk.json"]
