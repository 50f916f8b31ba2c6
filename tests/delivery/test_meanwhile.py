"""What people write meanwhile: messages while one is answered, a place in line, replies, and what is in doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge import Attachment, Chunk, Finish, Limits, Message, Reply, Request, Usage, Waiting
from chatbridge.config import Quota
from chatbridge.delivery.clock import LoopClock
from chatbridge.testing import Fault, ScriptedBackend, ServiceCall
from chatbridge.texts import say

from .echo import EchoBackend, echo
from .harness import ANN, GROUP, PRIVATE, Harness, said, spoken, virtually


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


# --- several messages ------------------------------------------------------------------------------------------------


async def three_in_a_row(harness: Harness, policy: str) -> tuple[list[str], list[list[str]]]:
    """What is shown, and what the model was asked, where two messages come while the first one is answered."""
    backend = EchoBackend(lambda question: echo(f"{question}: 20 words"), pauses=lambda: 0.5)
    async with harness.program(backend, settings={"follow_up": policy}) as delivery:
        await delivery.accept(said("a", "1"))
        await harness.service.clock.sleep(4)
        await delivery.accept(said("b", "2"))
        await delivery.accept(said("c", "3"))
    asked = [[turn.text for turn in request.turns if turn.role == "user"] for request in backend.requests]
    return harness.shown(), asked


@virtually
async def test_follow_ups_are_answered_one_by_one(harness: Harness) -> None:
    shown, asked = await three_in_a_row(harness, "queue")
    assert shown == [echo(f"{name}: 20 words") for name in "abc"]
    assert asked == [["a"], ["a", "b"], ["a", "b", "c"]]


@virtually
async def test_follow_ups_are_answered_together(harness: Harness) -> None:
    shown, asked = await three_in_a_row(harness, "merge")
    assert shown == [echo(f"{name}: 20 words") for name in "ac"]
    assert asked == [["a"], ["a", "b", "c"]]


@virtually
async def test_follow_ups_interrupt(harness: Harness) -> None:
    shown, asked = await three_in_a_row(harness, "interrupt")
    assert len(shown) == 2
    assert echo("a: 20 words").startswith(shown[0])
    assert shown[0] != echo("a: 20 words")
    assert shown[1] == echo("c: 20 words")
    assert asked[-1] == ["a", "b", "c"]


@virtually
async def test_one_that_is_interrupted_before_its_first_word_leaves_nothing_in_the_chat(harness: Harness) -> None:
    backend = EchoBackend(lambda question: f"answer to {question}", pauses=lambda: 5.0)
    async with harness.program(backend, settings={"follow_up": "interrupt"}) as delivery:
        await delivery.accept(said("a", "1"))
        await harness.service.clock.sleep(3)
        assert harness.shown() == ["…"]
        await delivery.accept(said("b", "2"))
        await harness.service.clock.sleep(60)
        assert await spoken(delivery) == ["a", "b", "answer to b"]
    assert harness.shown() == ["answer to b"]


@virtually
async def test_one_that_was_answered_with_a_later_one_before_a_crash_is_done_with(harness: Harness) -> None:
    async with harness.program(ScriptedBackend()) as delivery:
        store, talk = delivery.bot.services.store, await delivery.bot.dialogue(PRIVATE).conversation()
        item = await delivery.inbox.add("bot", said("a", "1"))
        assert item is not None
        await delivery.inbox.begin(item.id)
        parent = None
        for id, text in (("1", "a"), ("2", "b")):
            node = await store.append(talk.id, "user", text, parent=parent, service_id=id, channel="p")
            parent = node.id
        await store.append(talk.id, "assistant", "to both", parent=parent)
    backend = ScriptedBackend("never")
    async with harness.program(backend, settings={"follow_up": "merge"}) as delivery:
        await delivery.resume()
        await harness.service.clock.sleep(5)
        assert await delivery.inbox.open("bot") == []
    assert (harness.shown(), backend.requests) == ([], [])


class Crowded(ScriptedBackend):
    """Has others to answer first."""

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:  # type: ignore[override]
        for waiting in (Waiting(3), Waiting(2, 75.0), Waiting(1, 600.0)):
            yield Chunk(waiting=waiting)
            await LoopClock().sleep(10)
        yield Chunk("there")
        yield Chunk(finish=Finish("end", Reply("there"), Usage()))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_placeholder_tells_the_place_in_line_and_the_wait(tmp_path: Path, language: str) -> None:
    harness = Harness(tmp_path)
    seen: list[str] = []

    def watch(call: ServiceCall) -> Fault | None:
        if call.content is not None:
            seen.append(call.content.text)
        return None

    harness.service.fault = watch

    @virtually
    async def run(harness: Harness) -> None:
        async with harness.program(Crowded(), settings={"language": language}) as delivery:
            await delivery.accept(said("hello"))

    run(harness)
    words = {
        "en": ["number 3 in line.", "number 2 in line, about 75 s.", "number 1 in line, about 10 min."],
        "zh": ["第 3 位。", "第 2 位，大约还要 75 秒。", "第 1 位，大约还要 10 分钟。"],
    }
    assert seen[0] == "…"
    assert all(text.endswith(end) for text, end in zip(seen[1:4], words[language], strict=True))
    assert seen[-1] == "there"


@virtually
async def test_a_reply_to_what_the_bot_never_saw_brings_its_words_along(harness: Harness) -> None:
    backend = ScriptedBackend("one", "two")
    async with harness.program(backend) as delivery:
        await delivery.accept(Message("5", GROUP, ANN, "what is that?", reply_to="4", quoted="old\nwords"))
        await harness.service.clock.sleep(5)
        await delivery.accept(Message("6", GROUP, ANN, "and this?", reply_to=harness.id(0, "g"), quoted="one"))
        await harness.service.clock.sleep(5)
        # An attachment's words come behind.
        note = Attachment("n.txt", "text/plain", b"note")
        await delivery.accept(Message("7", GROUP, ANN, "see", attachments=(note,)))
    asked = [request.turns[-1].text for request in backend.requests]
    assert asked == ["> old\n> words\n\nwhat is that?", "and this?", "see\n\n[n.txt]\nnote"]


@virtually
async def test_what_was_within_the_limits_before_a_restart_still_is(harness: Harness) -> None:
    limits = Quota(messages_per_minute=1)
    async with harness.program(EchoBackend(pauses=lambda: 1.0), drain=0.0, bot={"limits": limits}) as delivery:
        for id in ("1", "2"):
            item = await delivery.inbox.add("bot", said("x: 3 words", id))
            assert item is not None
            await delivery.inbox.begin(item.id)
    async with harness.program(EchoBackend(), bot={"limits": limits}) as delivery:
        await delivery.resume()
        await harness.service.clock.sleep(30)
        await delivery.accept(said("one more", "3"))
        await delivery.accept(said("and one", "4"))
    assert harness.shown()[:2] == [echo("x: 3 words")] * 2
    refusal = say("en", "messages_per_minute", limit=1, wait="60 s")
    assert sorted(harness.shown()[2:]) == sorted([echo("one more"), refusal])


# --- a placeholder whose sending may have gone well ------------------------------------------------------------------


def test_a_message_begun_in_doubt_becomes_the_answer_where_a_nonce_says_which_it_is(tmp_path: Path) -> None:
    harness = Harness(tmp_path, Limits(2000, idempotent=True))
    harness.service.fault = lambda call: Fault("lost") if call.route == "send" and harness.shown() == [] else None

    @virtually
    async def talk(harness: Harness) -> None:
        async with harness.program(EchoBackend(pauses=lambda: 0.15)) as delivery:
            await delivery.accept(said("x: 3 words"))
        assert harness.shown() == [echo("x: 3 words")]
        assert [call.route for call in harness.service.calls if call.route != "typing"] == ["send", "send"]

    talk(harness)
