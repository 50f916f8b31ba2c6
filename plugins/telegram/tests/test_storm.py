"""Many chats at once, and very long answers, within Telegram's limits: all of it arrives, whole and in order."""

from __future__ import annotations

import os
import re
from pathlib import Path

from chatbridge_telegram.channels import ChatAddress
from chatbridge_telegram.chat import entities, limits_of
from chatbridge_telegram.options import TelegramOptions
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from chatbridge import Limits
from chatbridge.delivery.contents import split_answer
from chatbridge.testing import EchoBackend, ScriptedBackend, TelegramServer
from chatbridge.testing.telegram.text import checked_entities, clean, utf16_length

from .conftest import talking

ROUNDS = 10 if os.environ.get("CHATBRIDGE_FULL") == "1" else 2
CHATS = 50


async def test_fifty_chats_at_once_are_answered_in_order(telegram: TelegramServer, tmp_path: Path) -> None:
    people = [telegram.add_person(f"Person{number}") for number in range(CHATS)]
    chats = [telegram.private(person) for person in people]
    async with talking(telegram, EchoBackend(pauses=lambda: 0.002), tmp_path, menu=False):
        for number in range(ROUNDS):
            for chat, person in zip(chats, people, strict=True):
                await telegram.say(chat, f"message {number} of {person.first_name}", author=person)
        count = ROUNDS * CHATS
        await telegram.until(
            lambda: sum(len(telegram.messages(chat)) for chat in chats) >= count or None, within=100, what="answers"
        )
    for chat, person in zip(chats, people, strict=True):
        expected = [f"MESSAGE {number} OF {person.first_name.upper()}" for number in range(ROUNDS)]
        assert [message.text for message in telegram.messages(chat)] == expected


LONG = "\n\n".join(
    f"## Chapter {number}\n\nWords of chapter {number} 很长 🙂, one after another, and *more* of them.\n\n"
    f"```python\n" + "\n".join(f"line_{number}_{line} = {line} * 'x'" for line in range(18)) + "\n```"
    for number in range(65)
)


async def test_an_answer_of_30000_characters_arrives_whole(telegram: TelegramServer, tmp_path: Path) -> None:
    assert len(LONG) > 30_000
    async with talking(telegram, ScriptedBackend([LONG]), tmp_path):
        await telegram.say(telegram.private(), "tell me all")
        await telegram.until(lambda: any(message.keyboard for message in telegram.messages()) or None, within=60)
    shown = telegram.messages()
    assert 8 <= len(shown) <= 10
    code = [
        message.text.encode("utf-16-le")[2 * one["offset"] : 2 * (one["offset"] + one["length"])].decode("utf-16-le")
        for message in shown
        for one in message.entities
        if one["type"] == "pre"
    ]
    lines = [line for block in code for line in block.split("\n")]
    assert lines == re.findall(r"^line_.*$", LONG, re.MULTILINE)
    told = " ".join(message.text for message in shown).split()
    assert told == re.sub(r"^## |^```.*$|\*(?=\w)|(?<=\w)\*", "", LONG, flags=re.MULTILINE).split()


async def test_what_is_more_than_ten_messages_comes_as_a_file(telegram: TelegramServer, tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {number}: {'word ' * 60}" for number in range(200))
    async with talking(telegram, ScriptedBackend([text]), tmp_path, max_parts=3):
        await telegram.say(telegram.private(), "tell me all")
        await telegram.until(lambda: len(telegram.messages()) >= 4 or None, within=60)
    *parts, last = telegram.messages()
    assert last.file is not None
    told = " ".join([*(part.text for part in parts), last.file.content.decode()]).split()
    assert told == text.split()


LIMITS = {place: limits_of(ChatAddress.of(place), TelegramOptions(token="1:x")) for place in ("1", "-100")}
MARKDOWN = st.lists(
    st.sampled_from(
        ["**bold**", "`code`", "```py\nx = 1\n```", "> quote", "- item", "# Title", "[a](https://x.org)", "~~no~~",
         "👩‍👩‍👧", "汉字", "שלום", "é́", "word", "\n", "\n\n", " ", "@alice", "*", "_", "`", "|a|b|\n|-|-|\n|1|2|"]
    ),
    max_size=60,
).map("".join)  # fmt: skip


@tried(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(MARKDOWN, st.sampled_from(sorted(LIMITS)))
def test_telegram_takes_every_part(source: str, place: str) -> None:
    limits: Limits = LIMITS[place]
    for part in split_answer(source, limits):
        marks = [one.to_dict() for one in entities(part)]
        text, kept = clean(part.text, checked_entities(marks, part.text))
        assert 0 < utf16_length(text) <= 4096
        assert text == part.text.strip()
        assert not [one for one in kept if one["type"] in ("mention", "text_mention")]
