"""Many chats at once within Discord's limits: all of it arrives in order. Discord takes every part of any answer."""

from __future__ import annotations

import os
import re
from pathlib import Path

from chatbridge_discord.chat import limits_of
from chatbridge_discord.options import DiscordOptions
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from chatbridge.delivery.contents import split_answer
from chatbridge.testing import DiscordServer, EchoBackend

from .conftest import talking, whole

ROUNDS = 10 if os.environ.get("CHATBRIDGE_FULL") == "1" else 2
CHATS = 50


async def test_fifty_chats_at_once_are_answered_in_order(hasty: DiscordServer, tmp_path: Path) -> None:
    people = [hasty.add_person(f"person{number}") for number in range(CHATS)]
    chats = [hasty.dm(person) for person in people]
    async with talking(hasty, EchoBackend(pauses=lambda: 0.002), tmp_path):
        for number in range(ROUNDS):
            for chat, person in zip(chats, people, strict=True):
                await hasty.say(chat, f"message {number} of {person.name}", author=person)
        count = ROUNDS * CHATS
        await hasty.until(
            lambda: sum(whole(message) for chat in chats for message in hasty.messages(chat)) >= count or None,
            within=100,
            what="answers",
        )
    for chat, person in zip(chats, people, strict=True):
        expected = [f"MESSAGE {number} OF {person.name.upper()}" for number in range(ROUNDS)]
        assert [message.text for message in hasty.messages(chat)] == expected
    assert [call for call in hasty.calls if call.status == 429] == []


LIMITS = {
    long: limits_of(DiscordOptions.model_validate({"token": "t", "long_messages": long})) for long in (True, False)
}
MARKDOWN = st.lists(
    st.sampled_from(
        ["**bold**", "`code`", "```py\nx = 1\n```", "> quote", "- item", "# Title", "[a](https://x.org)", "~~no~~",
         "👩‍👩‍👧", "汉字", "שלום", "é́", "word " * 99, "\n", "\n\n", " ", "@everyone", "<@123456789012345678>", "<@&1>",
         "*", "_", "`", "```", "|a|b|\n|-|-|\n|1|2|"]
    ),
    max_size=60,
).map("".join)  # fmt: skip


@tried(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(MARKDOWN, st.booleans())
def test_discord_takes_every_part(source: str, long: bool) -> None:
    for part in split_answer(source, LIMITS[long]):
        assert part.text.strip()
        assert len(part.text) <= (4000 if long else 2000)
        if "`" not in source:  # in code Discord mentions nobody
            assert not re.search("@everyone|<@1|<@&", part.text)
        assert part.text.count("```") % 2 == 0
