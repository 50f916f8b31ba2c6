"""Answers while they are written: drafts in private chats, edits elsewhere, and how each is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from chatbridge import Chunk, Finish, Reply, Request, Usage
from chatbridge.testing import ScriptedBackend, TelegramServer, channel_settings

from .conftest import talking

STORY = "Once upon a time there was a bot."


def held(text: str = STORY) -> tuple[ScriptedBackend, asyncio.Event]:
    """A model that says one word, and the rest once it is let."""
    backend = ScriptedBackend(text)
    backend.hold = asyncio.Event()
    return backend, backend.hold


async def test_in_private_an_answer_is_a_draft_until_it_is_whole(telegram: TelegramServer, tmp_path: Path) -> None:
    backend, let = held()
    async with talking(telegram, backend, tmp_path):
        await telegram.say(telegram.private(), "tell me a story")
        await telegram.until(lambda: (draft := telegram.draft()) and draft.text == "Once", what="a draft")
        assert telegram.messages() == []
        let.set()
        assert (await telegram.next_answer()).text == STORY
        assert telegram.draft() is None
    names = [call.name for call in telegram.calls.to("send*") if call.name != "sendMessageDraft"]
    assert names == ["sendMessage"]


async def test_the_stop_button_of_a_draft_keeps_what_came(telegram: TelegramServer, tmp_path: Path) -> None:
    backend, _ = held()
    async with talking(telegram, backend, tmp_path):
        await telegram.say(telegram.private(), "tell me a story")
        await telegram.until(lambda: (draft := telegram.draft()) and draft.text == "Once", what="a draft")
        await telegram.stop()
        assert (await telegram.next_answer()).text == "Once"


async def test_a_server_without_drafts_gets_messages(telegram: TelegramServer, tmp_path: Path) -> None:
    backend, let = held()
    telegram.faults.refuse("sendMessageDraft", 404, "Not Found: method not found", times=1000)
    async with talking(telegram, backend, tmp_path):
        await telegram.say(telegram.private(), "tell me a story")
        shown = await telegram.next_message()
        await telegram.until(lambda: shown.text == "Once" or None, what="the beginning")
        let.set()
        assert (await telegram.until_final(shown)).text == STORY
        assert telegram.messages() == [shown]


async def test_in_a_group_an_answer_grows_by_edits_and_its_button_stops_it(
    telegram: TelegramServer, tmp_path: Path
) -> None:
    group, (backend, _) = telegram.add_group("Club"), held()
    async with talking(telegram, backend, tmp_path):
        asked = await telegram.say(group, "tell me a story", mention=True)
        shown = await telegram.next_message(group)
        assert shown.reply_to is asked
        await telegram.until(lambda: shown.text == "Once" or None, what="the beginning")
        query = await telegram.press(shown, "stop")
        await telegram.until_final(shown)
        assert (shown.text, query.answered) == ("Once", True)
        assert telegram.messages(group) == [shown]


async def test_typing_is_shown_where_there_is_no_draft(telegram: TelegramServer, tmp_path: Path) -> None:
    group, (backend, let) = telegram.add_group("Club"), held()
    backend.hold = None
    async with talking(telegram, backend, tmp_path):
        await telegram.say(group, "hello", mention=True)
        await telegram.calls.wait("sendChatAction")
        let.set()
        await telegram.next_answer(group)
        assert telegram.calls.to("sendChatAction")[0].params["action"] == "typing"


async def test_drafts_can_be_switched_off(telegram: TelegramServer, tmp_path: Path) -> None:
    backend, let = held()
    async with talking(telegram, backend, tmp_path, drafts=False):
        await telegram.say(telegram.private(), "tell me a story")
        shown = await telegram.next_message()
        let.set()
        assert (await telegram.until_final(shown)).text == STORY
    assert telegram.calls.to("sendMessageDraft") == []


class Thinker(ScriptedBackend):
    """Thinks two lines, and answers one."""

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        yield Chunk("Let me\nsee.", thinking=True)
        yield Chunk("Four.")
        yield Chunk(finish=Finish("end", Reply("Four.", thoughts="Let me\nsee."), Usage()))


async def test_a_folded_thought_is_a_quotation_that_can_be_expanded(roomy: TelegramServer, tmp_path: Path) -> None:
    async with talking(roomy, Thinker(), tmp_path, defaults=channel_settings(thinking="fold")):
        await roomy.say(roomy.private(), "two and two?")
        answer = await roomy.next_answer()
    assert answer.text == "Let me\nsee.\n\nFour."
    quoted = [(one["type"], one["offset"], one["length"]) for one in answer.entities]
    assert quoted == [("expandable_blockquote", 0, len("Let me\nsee."))]
