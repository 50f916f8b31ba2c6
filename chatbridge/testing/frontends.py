"""What every frontend must do, as tests: subclass `FrontendContract` and say how people talk in your chat service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chatbridge.errors import BackendError
from chatbridge.testing.script import ScriptedBackend, scripted
from chatbridge.testing.setup import bridge_with
from chatbridge.texts import say

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot


class Room(Protocol):
    """One chat with one person and the bot, in a stand-in of the service that the real client library talks to."""

    async def say(self, text: str) -> None:
        """The person sends a message that the bot should answer."""
        ...

    async def hear(self) -> str:
        """Wait for the bot's next answer, and return it whole: final, its parts joined, without previews."""
        ...


class FrontendContract:
    """Subclass it and define `room`. `texts`: what people say; leave out what your service can't carry."""

    texts: Sequence[str] = ("plain words", "two\nlines", "汉字和 emoji 🙂", "*stars* and <tags> & `ticks`")

    def room(self, bot: Bot) -> AbstractAsyncContextManager[Room]:
        """A chat served by your frontend for `bot`; leaving the context stops the frontend."""
        raise NotImplementedError("define `room(bot)`: an async context manager that gives a Room")

    @asynccontextmanager
    async def _talk(self, backend: ScriptedBackend, folder: Path) -> AsyncIterator[Room]:
        async with bridge_with(scripted(backend), folder / "store") as bridge, self.room(bridge.bot("bot")) as room:
            yield room

    async def test_an_answer_comes_once_and_whole(self, tmp_path: Path) -> None:
        """Fails where an answer is lost, doubled, or cut."""
        async with self._talk(ScriptedBackend("Good day to you!", "And again."), tmp_path) as room:
            await room.say("hello")
            assert same(await room.hear(), "Good day to you!")
            await room.say("hello")
            assert same(await room.hear(), "And again.")

    async def test_a_long_answer_is_not_cut(self, tmp_path: Path) -> None:
        """Fails where a service's limit for one message truncates an answer, or splits a character."""
        long = "\n\n".join(f"Paragraph {i}: 很长的回答 🙂 and so on, word after word." for i in range(150))
        async with self._talk(ScriptedBackend(long), tmp_path) as room:
            await room.say("tell me all")
            assert same(await room.hear(), long)

    async def test_an_error_is_told_and_the_next_message_is_answered(self, tmp_path: Path) -> None:
        """Fails where a person is left without a word, or an error ends the frontend."""
        backend = ScriptedBackend(BackendError("the model is on holiday"), "Back again.")
        async with self._talk(backend, tmp_path) as room:
            await room.say("hello")
            heard = await room.hear()  # a terminal tells its owner all; strangers in a chat read a sentence of ours
            assert "the model is on holiday" in heard or say("en", "trouble_model") in heard
            await room.say("hello")
            assert same(await room.hear(), "Back again.")

    async def test_commands_are_answered(self, tmp_path: Path) -> None:
        """Fails where a frontend shows models' answers only, or raises on a wrong command."""
        async with self._talk(ScriptedBackend("Yes."), tmp_path) as room:
            await room.say("/help")
            assert "/regenerate" in await room.hear()
            await room.say("/nonsense")
            assert "/nonsense" in await room.hear()
            await room.say("hello")
            assert same(await room.hear(), "Yes.")

    async def test_what_people_said_reaches_the_model(self, tmp_path: Path) -> None:
        """Fails where text is changed on its way in: mentions cut too far, characters lost."""
        backend = ScriptedBackend("Yes.")
        async with self._talk(backend, tmp_path) as room:
            for text in self.texts:
                await room.say(text)
                await room.hear()
        assert [request.turns[-1].text for request in backend.requests] == list(self.texts)

    async def test_stopping_the_frontend_ends_it(self, tmp_path: Path) -> None:
        """Fails where a frontend that is cancelled goes on waiting, for a model or for its service."""
        backend = ScriptedBackend("one two three")
        backend.hold = asyncio.Event()
        async with asyncio.timeout(100), self._talk(backend, tmp_path) as room:
            await room.say("hello")
            await backend.asked.wait()


def same(heard: str, said: str) -> bool:
    """Whether two texts are equal but for blanks, where services and screens break lines as they like."""
    return heard.split() == said.split()
