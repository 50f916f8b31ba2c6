"""Prompts begin as the one before did, so that the model reads each token once; what it reads again is told.

Random conversations go the whole way from message to model. The model runs in this process, so that a test can look
at what it was given.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge import (
    Author,
    BackendType,
    Bot,
    Bridge,
    Channel,
    ChannelSettings,
    Chunk,
    Finish,
    Message,
    ModelInfo,
    Options,
    Plugins,
    Prompt,
    ReplyStream,
    Request,
    Sampling,
)
from chatbridge.config import ModelSettings, Settings, SettingsSource
from chatbridge.engine.engine import Engine
from chatbridge.testing import ToyModel, plugin_of

TEMPLATES = ("alpaca", "chinese-alpaca", "belle-bloom", "vicuna", "chatml", "rwkv-raven", "rwkv-world", "llama-2")
SYSTEMS = (None, "You are {bot} in {channel}; today is {date}, {time}. {user} began.", "Be kind.")
WORDS = (
    "hello",
    "你好",
    "tell me more",
    "why?\nreally",
    "### Response:",
    "Bot: no",
    "🙂🙂",
    "</s>",
    "a\n\nb",
    "…",
    "x" * 60,
)


@dataclass
class Looking:
    """A backend on an engine in this process. `given` are the ids of each request, `took` what it cost the model."""

    toy: ToyModel
    given: list[list[int]] = field(default_factory=list)
    took: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = Engine(self.toy)

    @property
    def info(self) -> ModelInfo:
        return self.toy.info

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        self.given.append([*self.engine.tokenize(request.prompt), *request.resume])
        before = len(self.toy.steps)
        self.engine.submit(request)
        while not self.engine.idle:
            for event in self.engine.step():
                if event.error is not None:
                    raise event.error
                if event.chunk is not None:
                    if event.chunk.finish is not None:
                        self.took.append(sum(sum(step) for step in self.toy.steps[before:]))
                    yield event.chunk

    def cancel(self, request_id: str) -> None:
        self.engine.cancel(request_id)

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(self.engine.tokenize(prompt))

    async def aclose(self) -> None:
        self.engine.close()


@asynccontextmanager
async def looking_bridge(
    store: Path, model: ToyModel, defaults: ChannelSettings
) -> AsyncIterator[tuple[Bridge, Looking]]:
    backend = Looking(model)

    async def connect(options: Options) -> Looking:
        return backend

    kind = BackendType("looking", Options, "shows what it is given", connect=connect)
    plugins = Plugins([plugin_of(backends=[kind])], discover=False)
    settings = Settings({"toy": ModelSettings("toy", "looking", Options())}, plugins.templates, store, defaults)
    async with Bridge(SettingsSource(settings), plugins) as bridge:
        yield bridge, backend


@dataclass
class Talk:
    """One random conversation. `read`: for each answer, all ids up to its end, and where its prompt began."""

    bot: Bot
    backend: Looking
    channel: Channel
    chance: random.Random
    number: int = 0
    turns: int = 0
    trims: int = 0
    read: dict[int, tuple[list[int], int | None]] = field(default_factory=dict)

    async def receive(self, text: str) -> Finish | None:
        self.number += 1
        name = self.chance.choice(("Ann", "Bob", "小明"))
        message = Message(f"{self.channel.id}-{self.number}", self.channel, Author(name, name), text, mentions_bot=True)
        turn = await self.bot.receive(message)
        if not isinstance(turn, ReplyStream):
            return None
        async for _ in turn:
            pass
        assert turn.finish is not None
        self.turns += 1
        self.trims += bool(turn.notices)
        await self.check(text, turn.finish, trimmed=bool(turn.notices))
        return turn.finish

    async def check(self, text: str, finish: Finish, *, trimmed: bool) -> None:
        given, usage = self.backend.given[-1], finish.usage
        dialogue = self.bot.dialogue(self.channel)
        *before, _, answer = await dialogue.path()
        trim = (await dialogue.conversation()).trim
        if text.startswith("/continue"):
            known, began = self.read[answer.id]
            assert given == known, "an answer is continued right where it ended"
        elif before:
            known, began = self.read[before[-1].id]
            # After a trim the prompt begins elsewhere, once, and that has been told.
            if trim == began:
                assert not trimmed
                assert given[: len(known)] == known, "the prompt does not go on where the last one ended"
        resumed = len(given) - usage.prompt
        # What is told is what the model read: what was not cached of the prompt, and each sampled token but the last.
        told = usage.read + usage.generated - 1
        assert self.backend.took[-1] == told if not resumed else usage.read <= self.backend.took[-1] <= told
        self.read[answer.id] = ([*given[: usage.prompt], *finish.reply.tokens], trim)


async def test_each_prompt_goes_on_where_the_last_one_ended(tmp_path: Path, scale: int) -> None:
    """Over 24 random conversations, or 600, with regenerations, edits and continuations."""
    chance = random.Random(20261124)
    trims = turns = 0
    rooms = 8 if scale == 1 else 20
    for start in range(3 * scale):
        defaults = ChannelSettings(
            template=chance.choice(TEMPLATES),
            system=chance.choice(SYSTEMS),
            sampling=Sampling(max_tokens=chance.choice((8, 30)), seed=1),
            speaker_names=chance.choice(("auto", "always", "never")),
            change_answers="everyone",
        )
        model = ToyModel(context_length=900)
        async with looking_bridge(tmp_path / f"{start}.sqlite3", model, defaults) as (bridge, backend):
            talks = [
                Talk(bridge.bot("bot"), backend, Channel(str(i), kind=chance.choice(("private", "group"))), chance)
                for i in range(rooms)
            ]
            for _ in range(14):
                for talk in talks:
                    await step(talk, chance)
            trims += sum(talk.trims for talk in talks)
            turns += sum(talk.turns for talk in talks)
    assert turns > 30 * scale * rooms
    assert 0 < trims < turns / 10, f"{trims} trims in {turns} turns"


async def step(talk: Talk, chance: random.Random) -> None:
    """One random thing that a person does."""
    action = chance.choice(["say"] * 6 + ["/regenerate", "/edit", "/continue", "/undo"])
    if action == "say" or not await talk.bot.dialogue(talk.channel).path():
        await talk.receive(" ".join(chance.choices(WORDS, k=chance.randint(1, 4))))
    elif action == "/edit":
        await talk.receive(f"/edit {chance.choice(WORDS)}")
    else:
        await talk.receive(action)


def shares(of: Iterable[Finish]) -> tuple[int, int]:
    """Cached tokens and all tokens of prompts."""
    usages = [finish.usage for finish in of]
    return sum(usage.cached for usage in usages), sum(usage.prompt for usage in usages)


async def test_a_long_conversation_is_read_once(tmp_path: Path) -> None:
    """The counter-check: of all tokens in prompts, nearly all come from the cache."""
    defaults = ChannelSettings(template="chatml", sampling=Sampling(max_tokens=20, seed=1), reply_to="always")
    async with looking_bridge(tmp_path / "store", ToyModel(context_length=4000), defaults) as (bridge, _):
        talk = Talk(bridge.bot("bot"), _, Channel("c"), random.Random(1))
        finishes = [await talk.receive(f"message {i}") for i in range(50)]
    cached, prompt = shares(finish for finish in finishes if finish is not None)
    assert cached > 0.95 * prompt


async def test_rooms_share_the_system_text_without_knowing_of_each_other(tmp_path: Path) -> None:
    defaults = ChannelSettings(template="chatml", system="S" * 500, sampling=Sampling(max_tokens=5, seed=1))
    async with looking_bridge(tmp_path / "store", ToyModel(), defaults) as (bridge, backend):
        finishes = []
        for i in range(4):
            finishes.append(await Talk(bridge.bot("bot"), backend, Channel(f"{i}"), random.Random(1)).receive(f"{i}!"))
    assert [finish is not None and finish.usage.cached > 500 for finish in finishes] == [False, True, True, True]
