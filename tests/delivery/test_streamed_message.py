"""What shows an answer while it is written: one call a step, and none that could show it twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from chatbridge import Chunk, Limits, MessageContent, NotFound, OutcomeUnknown
from chatbridge.delivery.rendered import Rendered
from chatbridge.delivery.streamed_message import LONG, MAX_RENDERINGS, StreamedMessage


class LosingChat:
    """A chat in which each message may have been sent, or not."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.sent += 1
        raise OutcomeUnknown("the answer to the call got lost")


class PlainChat:
    """A chat in which all goes well."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.calls.append("send")
        return str(len(self.calls))

    async def edit(self, id: str, content: MessageContent) -> None:
        self.calls.append("edit")

    async def draft(self, id: int, content: MessageContent) -> None:
        self.calls.append("draft")


@pytest.mark.parametrize("previews", ["edit", "draft"])
async def test_each_step_tells_which_route_it_has_called(
    previews: Literal["edit", "draft"],
) -> None:
    chat, streamed = PlainChat(), StreamedMessage(Limits(2000, previews=previews))
    told: list[str | None] = []
    for chunk in ("hello", " world", ""):
        streamed.feed(Chunk(chunk))
        while await streamed.step(chat):
            told.append(streamed.route)
        told.append(streamed.route)
    assert [route for route in told if route] == chat.calls
    assert told[-1] is None, "there was nothing to do"


async def test_after_a_message_that_may_be_there_nothing_more_is_to_be_shown() -> None:
    chat, streamed = LosingChat(), StreamedMessage(Limits(2000))
    streamed.feed(Chunk("hello"))
    with pytest.raises(OutcomeUnknown):
        await streamed.step(chat)
    for _ in range(2):
        assert await streamed.step(chat) is False
    assert chat.sent == 1, "a second one might show it twice"


async def test_where_nonces_are_known_it_is_tried_again() -> None:
    chat, streamed = LosingChat(), StreamedMessage(Limits(2000, idempotent=True), key="k")
    streamed.feed(Chunk("hello"))
    for tries in (1, 2):
        with pytest.raises(OutcomeUnknown):
            await streamed.step(chat)
        assert chat.sent == tries
    assert streamed.uncertain_nonce == "k-0"


class Room(PlainChat):
    """A chat that knows what was sent as a reply to what, and fails once where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[str | None] = []
        self.shown: dict[str, str] = {}
        self.error: Exception | None = None

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.replies.append(reply_to)
        id = await super().send(content, reply_to=reply_to, nonce=nonce)
        self.shown[id] = content.text
        return id

    async def edit(self, id: str, content: MessageContent) -> None:
        await super().edit(id, content)
        error, self.error = self.error, None
        if not isinstance(error, NotFound):
            self.shown[id] = content.text
        if error is not None:
            raise error


async def test_the_first_message_alone_is_a_reply() -> None:
    chat, streamed = Room(), StreamedMessage(Limits(100), reply_to="asked")
    streamed.feed(Chunk("word " * 30))
    while await streamed.step(chat):
        pass
    assert chat.replies == ["asked", None, None][: len(chat.replies)]
    assert len(chat.replies) > 1
    assert "".join(chat.shown.values()).replace(" ", "") == "word" * 30


async def test_an_edit_of_which_nobody_knows_whether_it_arrived_is_made_good() -> None:
    chat, streamed = Room(), StreamedMessage(Limits(2000))
    for status in ("place 2", "place 1", "place 2"):
        streamed.status = status
        try:
            while await streamed.step(chat):
                pass
        except OutcomeUnknown:
            continue
        chat.error = OutcomeUnknown("lost")
    assert list(chat.shown.values()) == ["place 2"]


async def test_behind_a_message_that_somebody_deleted_none_is_begun() -> None:
    chat, streamed = Room(), StreamedMessage(Limits(100))
    streamed.feed(Chunk("word"))
    while await streamed.step(chat):
        pass
    chat.error = NotFound("deleted")
    streamed.feed(Chunk(" word" * 30))
    with pytest.raises(NotFound):
        await streamed.step(chat)
    assert await streamed.step(chat) is False
    assert chat.calls == ["send", "edit", "edit"]


async def test_a_draft_shows_the_end_of_a_long_answer_in_one_call() -> None:
    chat, streamed = PlainChat(), StreamedMessage(Limits(100, previews="draft"))
    streamed.feed(Chunk("word " * 60))
    assert await streamed.step(chat) is False
    assert chat.calls == ["draft"]


async def test_however_long_an_answer_gets_it_is_not_rendered_at_each_step() -> None:
    lengths: list[int] = []

    def render(source: str) -> Rendered:
        lengths.append(len(source))
        return Rendered("shown")

    chat, streamed = PlainChat(), StreamedMessage(Limits(2000, render=render))
    for _ in range(1500):
        streamed.feed(Chunk("x" * 10))
        await streamed.step(chat)
        await streamed.step(chat)
    assert lengths == sorted(set(lengths)), "what has not grown is not rendered again"
    assert LONG < sum(lengths) <= MAX_RENDERINGS * 15_000


def test_only_what_an_earlier_run_may_have_sent_is_looked_for_by_its_nonce() -> None:
    def nonce(redelivered: bool, idempotent: bool, *ids: str) -> str:
        limits = Limits(2000, idempotent=idempotent)
        return StreamedMessage(limits, key="k", redelivered=redelivered, message_ids=ids).uncertain_nonce

    assert [nonce(True, False), nonce(False, True), nonce(False, False)] == ["", "", ""]
    assert [nonce(True, True), nonce(True, True, "m1", "m2")] == ["k-0", "k-2"]


def test_thoughts_stand_in_a_quote_above_the_words_and_notices_above_both() -> None:
    streamed = StreamedMessage(Limits(2000), language="zh", text_before="so")
    for chunk in (Chunk("let me\nsee", thinking=True), Chunk(" far ")):
        streamed.feed(chunk)
    streamed.notices = ("one", "two")
    assert streamed.source == "one\ntwo\n\n> let me\n> see\n\nso far"
    assert (streamed.text, streamed.status, streamed.language) == ("so far", "", "zh")


def test_folded_thoughts_are_written_as_the_service_folds_them() -> None:
    limits = Limits(2000, fold=lambda thought: f"({thought})")
    for fold, source in ((True, "(hm)\n\nyes"), (False, "> hm\n\nyes")):
        streamed = StreamedMessage(limits, fold=fold)
        for chunk in (Chunk("hm", thinking=True), Chunk("yes")):
            streamed.feed(chunk)
        assert streamed.source == source


async def test_once_its_id_is_known_a_message_is_remembered_and_in_doubt_no_more() -> None:
    remembered: list[list[str]] = []

    async def remember(ids: Sequence[str]) -> None:
        remembered.append([*ids])

    limits = Limits(100, idempotent=True)
    streamed = StreamedMessage(limits, key="k", redelivered=True, remember=remember)
    streamed.feed(Chunk("word " * 30))
    chat = PlainChat()
    while await streamed.step(chat):
        pass
    assert (remembered[0], streamed.uncertain_nonce) == (streamed.message_ids[:1], "")
    assert remembered[-1] == streamed.message_ids
    assert len(remembered) == chat.calls.count("send") > 1


async def test_an_answer_is_shown_by_its_messages_and_by_the_draft_that_was_made_of_it() -> None:
    streamed = StreamedMessage(Limits(100), message_ids=["7"])
    assert [streamed.is_shown_by(id) for id in ("7", "8", str(streamed._draft_id))] == [True, False, False]
    drafted = StreamedMessage(Limits(100, previews="draft"))
    drafted.feed(Chunk("word"))
    await drafted.step(PlainChat())
    assert [drafted.is_shown_by(id) for id in ("8", str(drafted._draft_id))] == [False, True]


async def test_a_step_tells_whether_messages_behind_its_own_are_to_change() -> None:
    streamed = StreamedMessage(Limits(100))
    chat = PlainChat()
    streamed.feed(Chunk("word " * 50))
    while await streamed.step(chat):
        pass
    assert len(streamed.message_ids) > 2
    streamed._shown[0] = None
    assert await streamed.step(chat) is False
    streamed._shown[0] = streamed._shown[1] = None
    assert await streamed.step(chat) is True
    assert await streamed.step(chat) is False
