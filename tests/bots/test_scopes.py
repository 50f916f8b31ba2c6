"""Which messages make one conversation, by `scope`; what the model is asked tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from chatbridge import Author, Bot, Channel, ChannelSettings, Message, Notice, ReplyStream
from chatbridge.bots.bot import MAX_DIALOGUES
from chatbridge.bots.scopes import SIDE, moved_key, owner_of
from chatbridge.testing import ScriptedBackend, bridge_with, scripted

from .conftest import first_words

HALL = Channel("hall", kind="group")
THREAD = Channel("thread", kind="group", parent="hall")
ANN, BOB = Author("a", "Ann"), Author("b", "Bob")


class Talk:
    """People write; the answers get ids of their own, as delivery would give them."""

    def __init__(self, bot: Bot, backend: ScriptedBackend) -> None:
        self.bot = bot
        self._backend = backend
        self._ids = count(1)

    async def say(
        self, text: str, author: Author = ANN, channel: Channel = HALL, reply_to: str | None = None
    ) -> tuple[str, list[str]]:
        """The id of the answer, and all that the model was asked."""
        id = str(next(self._ids))
        result = await self.bot.receive(Message(id, channel, author, text, mentions_bot=True, reply_to=reply_to))
        if isinstance(result, Notice):
            return result.text, []
        assert isinstance(result, ReplyStream)
        async for _ in result:
            pass
        assert result.node is not None
        await self.bot.message_index.note(self.bot.name, channel.id, f"m{id}", result.node)
        turns = self._backend.requests[-1].turns
        return f"m{id}", [turn.text for turn in turns if turn.role == "user"]


@asynccontextmanager
async def talking(folder: Path, scope: str) -> AsyncIterator[Talk]:
    backend = ScriptedBackend("yes")
    defaults = ChannelSettings.model_validate({"scope": scope})
    async with bridge_with(scripted(backend), folder / "db", defaults=defaults) as bridge:
        yield Talk(bridge.bot("bot"), backend)


@pytest.mark.parametrize(
    ("scope", "of_bob", "in_thread"),
    [
        ("thread", ["one", "two"], ["three"]),
        ("channel", ["one", "two"], ["one", "two", "three"]),
        ("user", ["two"], ["three"]),
        ("replies", ["two"], ["three"]),
    ],
)
async def test_what_belongs_together(tmp_path: Path, scope: str, of_bob: list[str], in_thread: list[str]) -> None:
    async with talking(tmp_path, scope) as talk:
        assert (await talk.say("one"))[1] == ["one"]
        assert (await talk.say("two", BOB))[1] == of_bob
        assert (await talk.say("three", ANN, THREAD))[1] == in_thread


async def test_private_chats_are_one_conversation_in_every_scope(tmp_path: Path) -> None:
    async with talking(tmp_path, "replies") as talk:
        await talk.say("one", ANN, Channel("p"))
        assert (await talk.say("two", ANN, Channel("p")))[1] == ["one", "two"]


async def test_chains_of_replies_grow_and_branch(tmp_path: Path) -> None:
    async with talking(tmp_path, "replies") as talk:
        first, _ = await talk.say("one")
        second, asked = await talk.say("two", BOB, reply_to=first)
        assert asked == ["one", "two"]
        assert (await talk.say("aside"))[1] == ["aside"]
        assert (await talk.say("three", reply_to=second))[1] == ["one", "two", "three"]
        # A reply to an old message goes on from there; what was said since is on another branch.
        assert (await talk.say("instead", reply_to=first))[1] == ["one", "instead"]
        # Also one to what a person wrote.
        assert (await talk.say("me too", BOB, reply_to="1"))[1] == ["one", "me too"]


async def test_a_command_in_a_chain_is_about_its_chain_or_the_latest(tmp_path: Path) -> None:
    async with talking(tmp_path, "replies") as talk:
        first, _ = await talk.say("one")
        await talk.say("aside")
        assert (await talk.say("/regenerate"))[1] == ["aside"]
        assert (await talk.say("/regenerate", reply_to=first))[1] == ["one"]


async def test_commands_are_about_ones_own_conversation(tmp_path: Path) -> None:
    async with talking(tmp_path, "user") as talk:
        await talk.say("one")
        await talk.say("two", BOB)
        await talk.say("/reset", BOB)
        assert (await talk.say("three", BOB))[1] == ["three"]
        assert (await talk.say("four"))[1] == ["one", "four"]


def test_the_keys_of_a_channel_move_with_it_in_every_scope_and_no_others() -> None:
    keys = ["-5", "-5/ann", "-5#77", "-5/aside/notes", "-55", "-55/ann", "7/-5", ""]
    moved = [moved_key(key, "-5", "-100") for key in keys]
    assert moved == ["-100", "-100/ann", "-100#77", "-100/aside/notes", "-55", "-55/ann", "7/-5", ""]


def test_whose_own_conversation_a_key_is() -> None:
    assert owner_of("hall/ann", HALL) == "ann"
    for key in ("hall", "hall#7", f"hall{SIDE}notes", "elsewhere/ann"):
        assert owner_of(key, HALL) is None
    assert owner_of("p/ann", Channel("p")) is None


async def test_of_idle_conversations_one_that_is_answered_in_stays(tmp_path: Path) -> None:
    async with talking(tmp_path, "thread") as talk:
        reply = await talk.bot.receive(Message("1", HALL, ANN, "one", mentions_bot=True))
        assert isinstance(reply, ReplyStream)
        chunks = aiter(reply)
        await first_words(chunks)
        for i in range(MAX_DIALOGUES + 5):
            talk.bot.dialogue(Channel(str(i)))
        assert talk.bot.uses(HALL.id)
        assert talk.bot.dialogue(HALL).answering
        async for _ in chunks:
            pass
        assert not talk.bot.dialogue(HALL).answering


async def test_idle_conversations_are_let_go_of(tmp_path: Path) -> None:
    async with talking(tmp_path, "thread") as talk:
        for i in range(MAX_DIALOGUES + 50):
            talk.bot.dialogue(Channel(str(i)))
        assert len(talk.bot._dialogues) == MAX_DIALOGUES
