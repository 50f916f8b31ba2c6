"""Whatever goes wrong with calls, each message gets one whole answer and no more; no call is made inside a penalty
(the fixture sees to that)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge.testing import DiscordServer, ScriptedBackend
from chatbridge.testing.discord.faults import DiscordFaults
from chatbridge.testing.discord.state import Channel
from chatbridge.testing.wire.forms import Upload

from .conftest import talking, whole

SEND, EDIT = "POST /channels/*/messages", "PATCH /channels/*/messages/*"
FAULTS: dict[str, Callable[[DiscordFaults, str], None]] = {
    "429": lambda faults, name: faults.rate_limit(name, 7),
    "429 shared": lambda faults, name: faults.rate_limit(name, 7, scope="shared"),
    "429 global": lambda faults, name: faults.rate_limit(name, 7, scope="global"),
    "429 again and again": lambda faults, name: faults.rate_limit(name, 3, times=4),
    "429 of the proxy": lambda faults, name: faults.ban(name, times=2),
    "500": lambda faults, name: faults.error(name, 500, times=2),
    "500 after acting": lambda faults, name: faults.error(name, 500, acts=True),
    "502": lambda faults, name: faults.error(name, 502),
    "503": lambda faults, name: faults.error(name, 503, times=3),
    "504 after acting": lambda faults, name: faults.error(name, 504, acts=True),
    "reset": lambda faults, name: faults.reset(name, times=2),
    "lost answer": lambda faults, name: faults.lose_answer(name, times=2),
    "nested": lambda faults, name: faults.nested(name),
    "malformed": lambda faults, name: faults.malformed(name),
    "malformed, not acting": lambda faults, name: faults.malformed(name, acts=False),
}


@pytest.mark.parametrize("where", ["private", "channel"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_each_message_is_answered_once(hasty: DiscordServer, tmp_path: Path, where: str, fault: str) -> None:
    channel = hasty.dm() if where == "private" else hasty.general
    backend = ScriptedBackend("The first answer.", "The second answer.")
    async with talking(hasty, backend, tmp_path):
        FAULTS[fault](hasty.faults, SEND)
        for expected in ("The first answer.", "The second answer."):
            await hasty.say(channel, "hello")
            await hasty.until(lambda said=expected: _shown(hasty, channel, said) or None, within=60, what=expected)
    assert [message.text for message in hasty.messages(channel)] == ["The first answer.", "The second answer."]
    assert hasty.faults.pending == 0


def _shown(server: DiscordServer, channel: Channel, said: str) -> bool:
    return any(message.text == said and whole(message) for message in server.messages(channel))


@pytest.mark.parametrize("fault", FAULTS)
async def test_trouble_with_edits_leaves_the_whole_answer_in_one_message(
    hasty: DiscordServer, tmp_path: Path, fault: str
) -> None:
    backend = ScriptedBackend("one two three four")
    backend.hold = asyncio.Event()
    async with talking(hasty, backend, tmp_path):
        FAULTS[fault](hasty.faults, EDIT)
        await hasty.say(hasty.general, "hello")
        await hasty.calls.wait(EDIT, 2, within=60)
        backend.hold.set()
        await hasty.until(lambda: _shown(hasty, hasty.general, "one two three four") or None, within=60)
        assert [message.text for message in hasty.messages()] == ["one two three four"]


async def test_a_slow_answer_of_discord_is_waited_for(hasty: DiscordServer, tmp_path: Path) -> None:
    let = asyncio.Event()
    hasty.faults.slow(SEND, let)
    async with talking(hasty, ScriptedBackend("One.", "Two."), tmp_path):
        await hasty.say(hasty.general, "hello")
        await hasty.next_message()
        await hasty.say(hasty.general, "and again")
        let.set()
        await hasty.until(lambda: _shown(hasty, hasty.general, "Two.") or None)
    assert [message.text for message in hasty.messages()] == ["One.", "Two."]


@pytest.mark.parametrize("name", [SEND, EDIT])
async def test_what_discord_refuses_is_told_of(hasty: DiscordServer, tmp_path: Path, name: str) -> None:
    backend = ScriptedBackend("some words")
    backend.hold = asyncio.Event()
    async with talking(hasty, backend, tmp_path):
        await hasty.say(hasty.general, "hello")
        await hasty.until(lambda: [one for one in hasty.messages() if one.text == "some"] or None)
        hasty.faults.refuse(EDIT, 400, 50035, "Invalid Form Body", times=2)
        if name == SEND:
            hasty.faults.refuse(SEND, 400, 50035, "Invalid Form Body")
        backend.hold.set()
        await hasty.until(lambda: hasty.messages()[0].text not in ("some", "\u2026") or None)
        expected = "the chat service did not take it" if name == SEND else "some words"
        await hasty.until(lambda: expected in "".join(one.text for one in hasty.messages()) or None)


async def test_where_the_bot_may_not_write_others_do_not_wait(hasty: DiscordServer, tmp_path: Path) -> None:
    hasty.deny(hasty.general, "send_messages")
    async with talking(hasty, ScriptedBackend("One.", "Two."), tmp_path):
        await hasty.say(hasty.general, "hello")
        await hasty.calls.wait(SEND)
        await hasty.say(hasty.dm(), "hello")
        assert (await hasty.next_answer(hasty.dm())).text
    assert hasty.messages() == []
    assert len(hasty.calls.to(f"POST /channels/{hasty.general.id}/messages")) <= 2


async def test_a_file_that_can_not_be_fetched_is_told_of(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One."), tmp_path):
        file = Upload("a.txt", b"content", "text/plain")
        roomy.world.attachments = _Forgetful()
        await roomy.say(roomy.general, mention=True, files=[file])
        assert "send it again" in (await roomy.next_answer()).text


class _Forgetful(dict[int, object]):
    """Files that are not there any more."""

    def __setitem__(self, key: int, value: object) -> None: ...


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_is_no_longer_good_loses_nothing(hasty: DiscordServer, tmp_path: Path, status: int) -> None:
    hasty.faults.refuse("POST /channels/*/typing", status, 0, "no", times=3)
    if status == 401:
        hasty.faults.refuse(SEND, 401, 0, "401: Unauthorized", times=2)
    async with talking(hasty, ScriptedBackend("One."), tmp_path):
        await hasty.say(hasty.general, "hello")
        assert (await hasty.next_answer(within=30)).text == "One."
