"""Whatever goes wrong with calls, each message gets one whole answer or a line that says what is wrong; no call is
made inside a penalty (the fixture sees to that), and an answer that may be there twice is marked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge.testing import ScriptedBackend, TelegramServer
from chatbridge.testing.telegram.faults import TelegramFaults
from chatbridge.testing.telegram.state import Chat

from .conftest import talking

MARK = "may be a duplicate"
FAULTS: dict[str, Callable[[TelegramFaults, str], None]] = {
    "429": lambda faults, name: faults.flood(name, 7),
    "429 everywhere": lambda faults, name: faults.flood(name, 7, everywhere=True),
    "429 again and again": lambda faults, name: faults.flood(name, 3, times=4),
    "429 without a word": lambda faults, name: faults.flood_without_word(name, times=2),
    "500": lambda faults, name: faults.error(name, 500, times=2),
    "502 after acting": lambda faults, name: faults.error(name, 502, acts=True),
    "504": lambda faults, name: faults.error(name, 504),
    "reset": lambda faults, name: faults.reset(name, times=2),
    "lost answer": lambda faults, name: faults.lose_answer(name),
    "nested": lambda faults, name: faults.nested(name),
    "malformed": lambda faults, name: faults.malformed(name),
    "malformed, not acting": lambda faults, name: faults.malformed(name, acts=False),
}
ONCE = frozenset({"429", "429 everywhere", "429 again and again", "429 without a word"})
"""These are known to have had no effect: what is sent again is not marked."""


@pytest.mark.parametrize("where", ["private", "group"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_each_message_is_answered_once_or_the_double_is_marked(
    telegram: TelegramServer, tmp_path: Path, where: str, fault: str
) -> None:
    chat = telegram.private() if where == "private" else telegram.add_group("Club")
    backend = ScriptedBackend("The first answer.", "The second answer.")
    async with talking(telegram, backend, tmp_path):
        FAULTS[fault](telegram.faults, "sendMessage")
        for expected in ("The first answer.", "The second answer."):
            await telegram.say(chat, "hello", mention=where == "group")
            await telegram.until(lambda said=expected: _whole(telegram, chat, said) or None, within=60, what=expected)
    texts = [message.text for message in telegram.messages(chat)]
    plain = [text for text in texts if MARK not in text and text != "…"]
    assert plain in (["The first answer.", "The second answer."], ["The second answer."])
    marked = [text for text in texts if MARK in text]
    assert len(plain) + len(marked) >= 2
    assert len(marked) <= 1
    assert not (marked and fault in ONCE)
    assert telegram.faults.pending == 0


def _whole(server: TelegramServer, chat: Chat, said: str) -> bool:
    return any(message.text.endswith(said) and "stop" not in str(message.keyboard) for message in server.messages(chat))


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "429 everywhere"])
async def test_trouble_with_edits_leaves_the_whole_answer_in_one_message(
    telegram: TelegramServer, tmp_path: Path, fault: str
) -> None:
    group, backend = telegram.add_group("Club"), ScriptedBackend("one two three four")
    backend.hold = asyncio.Event()
    async with talking(telegram, backend, tmp_path):
        FAULTS[fault](telegram.faults, "editMessageText")
        await telegram.say(group, "hello", mention=True)
        await telegram.calls.wait("editMessageText", 2, within=60)
        backend.hold.set()
        await telegram.until(lambda: _whole(telegram, group, "one two three four") or None, within=60)
        assert [message.text for message in telegram.messages(group)] == ["one two three four"]


async def test_a_preview_that_somebody_deleted_is_sent_anew(telegram: TelegramServer, tmp_path: Path) -> None:
    group, backend = telegram.add_group("Club"), ScriptedBackend("one two three four")
    backend.hold = asyncio.Event()
    async with talking(telegram, backend, tmp_path):
        await telegram.say(group, "hello", mention=True)
        shown = await telegram.next_message(group)
        await telegram.delete(shown)
        backend.hold.set()
        await telegram.until(lambda: _whole(telegram, group, "one two three four") or None, within=60)
        assert [message.text for message in telegram.messages(group)] == ["one two three four"]


@pytest.mark.parametrize(("more", "count"), [(0, 1), (1, 2)])
async def test_a_message_has_room_for_the_mark_of_a_double_and_for_nothing_more(
    telegram: TelegramServer, tmp_path: Path, more: int, count: int
) -> None:
    text = "x" * (4096 - len(f"⚠ This {MARK}:\n") + more)
    telegram.faults.lose_answer("sendMessage")
    async with talking(telegram, ScriptedBackend(text), tmp_path):
        await telegram.say(telegram.private(), "hello")
        await telegram.until(lambda: len(telegram.messages()) == count + 1)
    first, marked, *rest = [message.text for message in telegram.messages()]
    assert marked.startswith("⚠")
    assert (len(marked), "".join([first, *rest])) == (4096, text)


async def test_what_telegram_can_not_parse_is_sent_plain(telegram: TelegramServer, tmp_path: Path) -> None:
    telegram.faults.refuse("sendMessage", 400, "Bad Request: can't parse entities: whatever")
    async with talking(telegram, ScriptedBackend("**bold** words"), tmp_path):
        await telegram.say(telegram.private(), "hello")
        answer = await telegram.next_answer()
        assert (answer.text, answer.entities) == ("bold words", [])


async def test_who_has_blocked_the_bot_does_not_keep_others_waiting(telegram: TelegramServer, tmp_path: Path) -> None:
    bob, backend = telegram.add_person("Bob"), ScriptedBackend("one two")
    backend.hold = asyncio.Event()
    async with talking(telegram, backend, tmp_path):
        await telegram.say(telegram.private(), "hello")
        await backend.asked.wait()
        await telegram.block()
        backend.hold.set()
        await telegram.calls.wait("sendMessage", 1)
        await telegram.say(telegram.private(bob), "hello", author=bob)
        assert (await telegram.next_answer(telegram.private(bob))).text == "one two"
    blocked = [call for call in telegram.calls.to("sendMessage") if call.status == 403]
    assert len(blocked) == 1, "it is not tried again"


async def test_a_slow_answer_of_telegram_is_waited_for(telegram: TelegramServer, tmp_path: Path) -> None:
    let = asyncio.Event()
    telegram.faults.slow("sendMessage", let)
    async with talking(telegram, ScriptedBackend("One.", "Two."), tmp_path):
        await telegram.say(telegram.private(), "hello")
        await telegram.next_answer()
        await telegram.say(telegram.private(), "and again")
        let.set()
        assert (await telegram.next_answer()).text == "Two."
    assert [message.text for message in telegram.messages()] == ["One.", "Two."]
