"""The talk itself, with a view that writes down what it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest
from chatbridge_repl.session import CHANNEL, Session
from obedient import obedient

from chatbridge import (
    Author,
    BackendError,
    Bridge,
    ChannelSettings,
    Chunk,
    CommandError,
    StoreError,
)
from chatbridge.testing import bridge_with


class View:
    """Writes down what it is shown; `on_chunk` is called with each piece of an answer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.loads: list[tuple[str, float, str]] = []
        self.on_chunk: Callable[[Chunk], object] = lambda chunk: None

    @contextmanager
    def answering(self) -> Iterator[View]:
        self.lines.append("")
        yield self
        self.lines[-1] += "."

    def feed(self, chunk: Chunk) -> None:
        self.lines[-1] += chunk.text
        self.on_chunk(chunk)

    def loading(self, model: str, share: float, doing: str) -> None:
        self.loads.append((model, share, doing))

    def answer(self, text: str) -> None:
        self.lines.append(text)

    def notice(self, text: str) -> None:
        self.lines.append(f"({text})")

    def error(self, text: str) -> None:
        self.lines.append(f"! {text}")


def bridged(folder: Path, **defaults: object) -> AbstractAsyncContextManager[Bridge]:
    settings = ChannelSettings.model_validate(defaults)
    return bridge_with(obedient, folder / "talks.sqlite3", defaults=settings, shared=True)


def session(bridge: Bridge, view: View, language: str = "en") -> Session:
    return Session(bridge.bot("terminal"), view, Author("terminal", "ann"), language)


async def test_messages_are_answered_in_turn(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()
        await talk.send("hello")
        await talk.send("again")
        assert view.lines == ["1: hello.", "3: again."]


async def test_two_terminals_keep_to_their_own_conversations(tmp_path: Path) -> None:
    async with bridged(tmp_path) as one, bridged(tmp_path) as other:
        ours, theirs = session(one, view := View()), session(other, other_view := View())
        await ours.begin()
        await theirs.begin()
        await ours.send("a")
        await theirs.send("b")
        await ours.send("c")
        await theirs.send("/reset")
        await theirs.send("d")
        await ours.send("e")
        assert view.lines == ["1: a.", "3: c.", "5: e."]
        assert other_view.lines[0] == "1: b."
        assert other_view.lines[-1] == "1: d."


async def test_another_conversation_taken_by_a_command_is_gone_on_with(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        first, second = session(bridge, View()), session(bridge, view := View())
        await first.begin()
        await first.send("a")
        await second.begin()
        await second.send("/branch c1")
        await second.send("b")
        assert view.lines[-1] == "3: b."


async def test_commands_at_the_start_say_nothing_and_have_their_effect(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin(commands=["/system Be brief.", "/set max_tokens 2"])
        assert await talk.model() == "model"
        await talk.send("say one two three")
        await talk.send("system")
        assert view.lines == ["one two.", "Be brief.."]
        with pytest.raises(CommandError, match="nosuch"):
            await talk.begin(commands=["/model nosuch"])


async def test_empty_starts_are_not_resumed(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        first = session(bridge, View())
        await first.begin()
        await first.send("a long story\nin two lines")
        await session(bridge, View()).begin()
        talk = session(bridge, view := View(), "zh")
        await talk.begin("latest")
        assert view.lines == ["(继续对话 c1：a long story in two lines)"]


async def test_another_bots_conversation_is_not_resumed(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        await bridge.bot("another").dialogue(CHANNEL).conversation()
        with pytest.raises(StoreError, match="not held here"):
            await session(bridge, View()).begin("c1")


async def test_an_interrupted_answer_keeps_what_came(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()
        view.on_chunk = lambda chunk: "so on" in chunk.text and talk.interrupt()
        await talk.send("slowly")
        assert view.lines == ["1: slowly and so on."]
        path = await bridge.bot("terminal").dialogue(CHANNEL).path()
        assert [node.text for node in path] == ["slowly", "1: slowly and so on"]
        await talk.send("go on")
        assert view.lines[-1] == "3: go on."


async def test_a_second_interrupt_gives_the_answer_up(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()

        def twice(chunk: Chunk) -> None:
            if chunk.text:
                talk.interrupt()
                talk.interrupt()

        view.on_chunk = twice
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(talk.send("slowly"))
        view.on_chunk = lambda chunk: None
        await talk.send("still here")
        assert view.lines[-1] == "3: still here."


async def test_an_interrupt_with_nothing_to_stop_does_nothing(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()
        talk.interrupt()
        await talk.send("hello")
        assert view.lines == ["1: hello."]


async def test_a_failed_answer_raises_and_the_talk_goes_on(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()
        with pytest.raises(BackendError, match="as I was told"):
            await talk.send("fail")
        await talk.send("say better")
        assert view.lines[-1] == "better."


async def test_a_view_that_fails_leaves_the_conversation_free(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()

        def fail(chunk: Chunk) -> None:
            raise BrokenPipeError

        view.on_chunk = fail
        with pytest.raises(BrokenPipeError):
            await talk.send("hello")
        assert not bridge.bot("terminal").dialogue(CHANNEL).busy


@pytest.mark.parametrize("id", ["7", "c7", "seven", "c", "-1", "9" * 30])
async def test_what_is_not_there_cannot_be_resumed(id: str, tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        with pytest.raises(StoreError, match=id.removeprefix("c") or "no conversation"):
            await session(bridge, View()).begin(id)


async def test_where_the_bot_is_silent_the_person_is_told(tmp_path: Path) -> None:
    async with bridged(tmp_path, reply_to="never") as bridge:
        talk = session(bridge, view := View())
        await talk.begin()
        await talk.send("hello")
        assert "reply_to" in view.lines[0]


async def test_progress_of_a_load_goes_to_the_answer_that_waits_for_it(tmp_path: Path) -> None:
    async with bridged(tmp_path) as bridge:
        talk = session(bridge, view := View())
        await talk.begin()
        outside: list[float] = []
        bridge.models.on_progress = lambda model, share, doing: outside.append(share)

        def load(chunk: Chunk) -> None:
            assert bridge.models.on_progress is not None
            bridge.models.on_progress("first", 0.5, "reading")

        view.on_chunk = load
        await talk.send("say hello")
        assert view.loads[0] == ("first", 0.5, "reading")
        bridge.models.on_progress("first", 0.7, "reading")
        assert outside == [0.7], "what was told before is told again afterwards"
