"""A bridge on the toy model, whose answers depend on every token of the prompt, so that a wrong prompt shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest

from chatbridge import (
    Author,
    BackendType,
    Bot,
    Bridge,
    Channel,
    ChannelSettings,
    Chunk,
    FinishedReply,
    Message,
    Plugins,
    ReplyStream,
    Sampling,
    hookimpl,
)
from chatbridge.config import ModelSettings, Settings, SettingsSource
from chatbridge.testing.toy import ToyOptions
from chatbridge.types import Finish

from .in_process import in_process

ROOM = Channel("room", "Room", kind="group")
ALONE = Channel("alone")


class ToyPlugin:
    """Offers the toy model, and remembers every turn that ended."""

    def __init__(self, toy: BackendType) -> None:
        self.toy = toy
        self.turns: list[FinishedReply] = []

    @hookimpl
    def register_backends(self) -> Iterable[BackendType]:
        return [self.toy]

    @hookimpl
    def turn_finished(self, reply: FinishedReply) -> None:
        self.turns.append(reply)


@pytest.fixture
def toy() -> BackendType:
    """Where the toy model runs: in this process, unless a test's own parameter says that a worker does it."""
    return in_process


@pytest.fixture
def plugin(toy: BackendType) -> ToyPlugin:
    return ToyPlugin(toy)


@pytest.fixture
def settings(tmp_path: Path, plugin: ToyPlugin) -> Settings:
    """Two toy models with the ChatML template."""
    plugins = Plugins([plugin], discover=False)
    models = {
        "toy": ModelSettings("toy", "toy", ToyOptions(context_length=600), template="chatml"),
        "short": ModelSettings("short", "toy", ToyOptions(eos_every=5), template="vicuna"),
    }
    defaults = ChannelSettings(sampling=Sampling(seed=7, max_tokens=40), reply_to="always")
    return Settings(models, plugins.templates, tmp_path / "store.sqlite3", defaults)


@pytest.fixture
async def bridge(settings: Settings, plugin: ToyPlugin) -> AsyncIterator[Bridge]:
    async with Bridge(SettingsSource(settings), Plugins([plugin], discover=False)) as bridge:
        yield bridge


@pytest.fixture
def bot(bridge: Bridge) -> Bot:
    return bridge.bot("tester")


@pytest.fixture
def message() -> Callable[..., Message]:
    """Makes messages, each with an id of its own."""
    numbers: Iterator[int] = count(1)

    def make(text: str, channel: Channel = ALONE, name: str = "Ann", **more: object) -> Message:
        fields: dict[str, object] = {"id": f"m{next(numbers)}", "author": Author(name.lower(), name), **more}
        return Message(channel=channel, text=text, **fields)  # type: ignore[arg-type]

    return make


Say = Callable[..., Awaitable[Finish]]


@pytest.fixture
def say(bot: Bot, message: Callable[..., Message]) -> Say:
    """Sends a text and returns how its answer ended."""

    async def run(text: str, channel: Channel = ALONE, **more: object) -> Finish:
        answer = await bot.receive(message(text, channel, **more))
        assert isinstance(answer, ReplyStream), answer
        finish = None
        async for chunk in answer:
            finish = chunk.finish
        assert finish is not None
        return finish

    return run


Make = Callable[..., Message]


async def drained(turn: object) -> tuple[str, Finish | None]:
    assert isinstance(turn, ReplyStream), turn
    text, finish = "", None
    async for chunk in turn:
        text += chunk.text
        finish = chunk.finish
    return text, finish


async def first_words(chunks: AsyncIterator[Chunk]) -> str:
    """What the model says first; chunks before that tell that it is being loaded."""
    while not (chunk := await anext(chunks)).text:
        assert chunk.finish is None, "it said nothing"
    return chunk.text


async def command(bot: Bot, text: str, channel: Channel = ALONE, make: Make | None = None) -> object:
    """What the bot says to a command; those that touch files come from a person at a terminal, who says yes."""

    async def ask(question: str) -> bool:
        return True

    kind = Channel(channel.id, kind="terminal") if text.startswith(("/save", "/load")) else channel
    return await bot.receive(Message("c" + text, kind, Author("ann", "Ann"), text), ask=ask)


async def said(bot: Bot, channel: Channel = ALONE) -> list[tuple[str, str]]:
    return [(node.role, node.text) for node in await bot.dialogue(channel).path()]
