"""An answer on its way in a group is ended or changed by nobody but who asked for it and admins, whatever comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Literal

import pytest

from chatbridge import Author, Message, Press, ReplyStream
from chatbridge.bots.commands import BUILTIN
from chatbridge.config import Admins
from chatbridge.texts import say
from chatbridge.types import Finish

from .served import ANN, BOB, BUTTONS, GROUP, Served, Way, serving

BOSS = Author("boss", "Boss")
WHOLE = "one two three four"
FollowUp = Literal["queue", "merge", "interrupt"]

WAYS: dict[str, Way] = {
    "a message": lambda served, author: served.say("and me?", author),
    "a reply to the answer": lambda served, author: served.say("and me?", author, reply_to="shown"),
    "an edit": lambda served, author: served.bot.revised(Message("asked", GROUP, author, "others", mentions_bot=True)),
    "an edit of the answer": lambda served, author: served.bot.revised(Message("shown", GROUP, author, "others")),
}
WAYS |= {f"/{one.name}": lambda served, author, one=one: served.say(f"/{one.name}", author) for one in BUILTIN}
WAYS |= {
    text: lambda served, author, text=text: served.say(text, author)
    for text in (
        "/edit mine",
        "/model model",
        "/system Be rude.",
        "/set max_tokens 1",
        "/branch 1",
        "/branch c1",
        "+again",
    )
}
WAYS |= {
    f"the button {action}": lambda served, author, action=action: served.press(action, author)
    for action in BUTTONS
    if action != "stop"
}


class Answering:
    """Ann is being answered, and the rest of the answer waits for `go_on`."""

    def __init__(self, served: Served, reply: ReplyStream) -> None:
        self.served, self.reply = served, reply
        self._hold = served.backend.hold = asyncio.Event()
        self._chunks = aiter(reply)

    @classmethod
    async def begun(cls, served: Served) -> Answering:
        reply = await served.bot.receive(served.message("go on", ANN, id="asked"))
        assert isinstance(reply, ReplyStream)
        answering = cls(served, reply)
        await anext(answering._chunks)
        [asked] = [node for node in await served.bot.dialogue(GROUP).path() if node.text == "go on"]
        await served.bot.message_index.note("bot", GROUP.id, "asked", asked.id)
        return answering

    async def go_on(self) -> Finish:
        self._hold.set()
        chunks = [chunk async for chunk in self._chunks]
        assert chunks[-1].finish is not None
        return chunks[-1].finish


async def ended(served: Served, way: Way, author: Author) -> tuple[Finish, bool]:
    """How Ann's answer ends, where somebody comes while it is on its way; and whether another one took its place."""
    answering = await Answering.begun(served)
    coming = await comes(served, way(served, author))
    finish = await answering.go_on()
    await coming
    assert answering.reply.node is not None
    said = [node.text for node in await served.bot.services.store.path(1, answering.reply.node)]
    assert said[-2:] == ["go on", finish.reply.text]
    return finish, answering.reply.superseded


async def comes(served: Served, asked: Awaitable[object]) -> asyncio.Future[object]:
    """What somebody wants: done by now, or waiting for its turn."""
    served.replying.clear()
    coming, replying = asyncio.ensure_future(asked), asyncio.ensure_future(served.replying.wait())
    await asyncio.wait((coming, replying), return_when=asyncio.FIRST_COMPLETED)
    replying.cancel()
    return coming


@pytest.mark.parametrize("follow_up", ["queue", "merge", "interrupt"])
@pytest.mark.parametrize("way", WAYS)
async def test_nobody_else_ends_or_changes_an_answer_by_any_way(tmp_path: Path, way: str, follow_up: FollowUp) -> None:
    async with serving(tmp_path, ("one", WHOLE, "more"), follow_up=follow_up) as served:
        finish, superseded = await ended(served, WAYS[way], BOB)
        assert (finish.reason, finish.reply.text, superseded) == ("end", WHOLE, False)


async def test_the_button_stop_is_for_the_asker(tmp_path: Path) -> None:
    async with serving(tmp_path, ("one", WHOLE)) as served:
        answering = await Answering.begun(served)
        assert await served.bot.stop(Press("stop", "x", GROUP, BOB), answering.reply) == say("en", "not_yours")
        assert (await answering.go_on()).reason == "end"


@pytest.mark.parametrize(
    ("author", "change_answers", "over"),
    [(ANN, "asker", True), (BOB, "asker", False), (BOSS, "asker", True), (BOB, "everyone", True)],
)
async def test_a_message_interrupts_what_its_author_may_stop(
    tmp_path: Path, author: Author, change_answers: str, over: bool
) -> None:
    opened = {"follow_up": "interrupt", "change_answers": change_answers, "admins": Admins(users={"boss"})}
    async with serving(tmp_path, ("one", WHOLE, "more"), **opened) as served:
        finish, superseded = await ended(served, WAYS["a message"], author)
        assert (finish.reason == "cancelled", superseded) == (over, over)
        assert (await served.bot.dialogue(GROUP).path())[-1].text == "more"


async def test_who_waits_behind_an_answer_is_passed_over_by_nobody_else(tmp_path: Path) -> None:
    async with serving(tmp_path, ("one", WHOLE, "to Bob", "to Cid"), follow_up="interrupt") as served:
        answering = await Answering.begun(served)
        replies = [await comes(served, served.say(f"I am {one.name}", one)) for one in (BOB, Author("c", "Cid"))]
        await answering.go_on()
        assert await asyncio.gather(*replies) == ["to Bob", "to Cid"]


async def test_anybody_begins_a_shared_conversation_anew_and_an_answer_ends_in_the_old_one(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, ("one", WHOLE, "more")) as served:
        finish, _ = await ended(served, WAYS["/reset"], BOB)
        assert finish.reply.text == WHOLE
        assert await served.bot.dialogue(GROUP).path() == []
        assert await served.say("/branch c1", ANN) == say("en", "branch_taken", id="c1")
        assert (await served.bot.dialogue(GROUP).path())[-1].text == WHOLE
