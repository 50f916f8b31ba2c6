"""Answers while they are written: edits at a pace that Discord allows, long ones in components, and what stops them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from chatbridge import Chunk, Finish, Reply, Request, Usage
from chatbridge.testing import DiscordServer, ScriptedBackend, channel_settings

from .conftest import names, talking, whole

STORY = "Once upon a time there was a bot."


def held(text: str = STORY) -> tuple[ScriptedBackend, asyncio.Event]:
    """A model that says one word, and the rest once it is let."""
    backend = ScriptedBackend(text)
    backend.hold = asyncio.Event()
    return backend, backend.hold


async def test_an_answer_grows_by_edits(hasty: DiscordServer, tmp_path: Path) -> None:
    backend, let = held()
    async with talking(hasty, backend, tmp_path):
        asked = await hasty.say(hasty.general, "tell me a story")
        shown = await hasty.next_message()
        await hasty.until(lambda: shown.text == "Once" or None, what="the beginning")
        assert names(shown) == ["stop"]
        let.set()
        await hasty.until_final(shown)
        assert (shown.text, shown.reply_to, hasty.messages()) == (STORY, asked, [shown])
    assert len(hasty.calls.to("POST /channels/*/typing")) >= 1
    assert len({call.params["nonce"] for call in hasty.calls.to("POST /channels/*/messages")}) == 1


async def test_the_stop_button_keeps_what_came(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, _ = held()
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "tell me a story")
        shown = await roomy.next_message()
        await roomy.until(lambda: shown.text == "Once" or None, what="the beginning")
        pressed = await roomy.click(shown, "Stop")
        await roomy.until_final(shown)
        assert (shown.text, pressed.answered is not None) == ("Once", True)
        assert names(shown) == ["regenerate", "continue", "branch"]


async def test_a_preview_that_somebody_deleted_comes_anew(hasty: DiscordServer, tmp_path: Path) -> None:
    backend, let = held()
    async with talking(hasty, backend, tmp_path):
        await hasty.say(hasty.general, "tell me a story")
        shown = await hasty.next_message()
        await hasty.delete(shown)
        let.set()
        assert (await hasty.next_answer()).text == STORY
        assert len(hasty.messages()) == 1


async def test_a_long_answer_is_one_message_of_components(roomy: DiscordServer, tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(400))
    assert 2000 < len(text) < 3900
    backend, let = held(text)
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "tell me a story")
        shown = await roomy.next_message()
        await roomy.until(lambda: shown.text == "word0" or None, what="the beginning, as ordinary text")
        let.set()
        await roomy.until_final(shown)
        assert (shown.text, shown.content, roomy.messages()) == (text, "", [shown])
        pressed = await roomy.click(shown, "Answer again")
        second = await roomy.next_answer()
        assert (second.text, pressed.answered is not None) == (text, True)


@pytest.mark.parametrize(("length", "ordinary"), [(2000, True), (2001, False)])
async def test_ordinary_text_has_2000_characters_at_most(
    roomy: DiscordServer, tmp_path: Path, length: int, ordinary: bool
) -> None:
    async with talking(roomy, ScriptedBackend("x" * length), tmp_path):
        await roomy.say(roomy.general, "tell me a story")
        shown = await roomy.next_answer()
        assert (shown.text, shown.content) == ("x" * length, "x" * length if ordinary else "")
        assert roomy.messages() == [shown]


@pytest.mark.parametrize(("more", "count"), [(0, 1), (1, 2)])
async def test_without_components_a_message_is_filled_but_for_the_mark_of_a_double(
    roomy: DiscordServer, tmp_path: Path, more: int, count: int
) -> None:
    text = "x" * (2000 - len("⚠ This may be a duplicate:\n") + more)
    async with talking(roomy, ScriptedBackend(text), tmp_path, long_messages=False):
        await roomy.say(roomy.general, "tell me a story")
        shown = await roomy.next_answer_messages()
        assert (len(shown), "".join(message.content for message in shown)) == (count, text)


async def test_components_can_be_switched_off(roomy: DiscordServer, tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(400))
    async with talking(roomy, ScriptedBackend(text), tmp_path, long_messages=False):
        await roomy.say(roomy.general, "tell me a story")
        await roomy.until(lambda: [one for one in roomy.messages() if whole(one)] or None)
        assert len(roomy.messages()) == 2
        assert " ".join(message.content for message in roomy.messages()) == text


LONG = "\n\n".join(
    f"## Chapter {number}\n\nWords of chapter {number} 很长 🙂, one after another, and *more* of them.\n\n"
    f"```python\n" + "\n".join(f"line_{number}_{line} = {line} * 'x'" for line in range(18)) + "\n```"
    for number in range(65)
)


async def test_an_answer_of_30000_characters_arrives_whole(hasty: DiscordServer, tmp_path: Path) -> None:
    assert len(LONG) > 30_000
    async with talking(hasty, ScriptedBackend([LONG]), tmp_path):
        await hasty.say(hasty.general, "tell me all")
        await hasty.until(lambda: any(whole(message) for message in hasty.messages()) or None, within=60)
    shown = [message.text for message in hasty.messages()]
    assert 8 <= len(shown) <= 10
    assert all(len(text) <= 4000 and text.count("```") % 2 == 0 for text in shown)
    assert re.findall(r"^line_.*$", "\n".join(shown), re.MULTILINE) == re.findall(r"^line_.*$", LONG, re.MULTILINE)
    unfenced = [re.sub(r"^```.*$", "", text, flags=re.MULTILINE) for text in (*shown, LONG)]
    assert " ".join(unfenced[:-1]).split() == unfenced[-1].split()


async def test_what_is_more_than_the_messages_allowed_comes_as_a_file(hasty: DiscordServer, tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {number}: {'word ' * 60}" for number in range(200))
    async with talking(hasty, ScriptedBackend([text]), tmp_path, max_parts=3):
        await hasty.say(hasty.general, "tell me all")
        await hasty.until(lambda: len(hasty.messages()) >= 4 or None, within=60)
    *parts, last = hasty.messages()
    (file,) = last.attachments
    told = " ".join([*(part.text for part in parts), file.content.decode()]).split()
    assert told == text.split()


async def test_nobody_is_notified_by_an_answer(roomy: DiscordServer, tmp_path: Path) -> None:
    everyone = roomy.guild.roles[roomy.guild.id]
    everyone.permissions |= 1 << 17  # may mention everyone
    role = roomy.add_role("crew")
    text = (
        f"Hi @everyone and @here, {roomy.person.mention}, <@&{role.id}>! `@everyone`\n```\n@here\n```\n" + "x " * 1200
    )
    async with talking(roomy, ScriptedBackend(text, text), tmp_path):
        await roomy.say(roomy.general, "greet all")
        first = await roomy.next_answer()
        await roomy.click(first, "Answer again")
        await roomy.next_answer()
    for call in [*roomy.calls.to("POST /channels/*/messages"), *roomy.calls.to("PATCH /channels/*/messages/*")]:
        assert call.params["allowed_mentions"] == {"parse": [], "replied_user": False}
    assert [message.pings for message in roomy.messages()] == [[], []]


async def test_who_may_be_notified_can_be_allowed(roomy: DiscordServer, tmp_path: Path) -> None:
    text = f"Hi @everyone, {roomy.person.mention}!"
    async with talking(roomy, ScriptedBackend(text), tmp_path, allowed_mentions=["users"]):
        await roomy.say(roomy.general, "greet me")
        shown = await roomy.next_answer()
        assert shown.pings == [roomy.person.mention]


async def test_links_have_no_previews_unless_they_are_wanted(roomy: DiscordServer, tmp_path: Path) -> None:
    for wanted in (False, True):
        async with talking(roomy, ScriptedBackend("See https://example.org"), tmp_path, embeds=wanted):
            await roomy.say(roomy.general, "where?")
            assert bool((await roomy.next_answer()).flags & 4) is not wanted


class Thinker(ScriptedBackend):
    """Thinks two lines, and answers one."""

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        yield Chunk("Let me\nsee.", thinking=True)
        yield Chunk("Four.")
        yield Chunk(finish=Finish("end", Reply("Four.", thoughts="Let me\nsee."), Usage()))


async def test_a_folded_thought_is_hidden_until_somebody_presses_it(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, Thinker(), tmp_path, defaults=channel_settings(thinking="fold")):
        await roomy.say(roomy.general, "two and two?")
        shown = await roomy.next_message()
        await roomy.until_final(shown)
    assert shown.text == "> ||Let me||\n> ||see.||\n\nFour."
