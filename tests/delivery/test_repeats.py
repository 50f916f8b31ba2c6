"""Presses, commands and what can't be read, when the program ends in the middle: repeated, or told of; never twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import ChatCommand, CommandContext, Limits, MessageContent, Press
from chatbridge.delivery.chat import packed
from chatbridge.store import NewOutboxMessage
from chatbridge.store.queue import Queue
from chatbridge.testing import FakeService, Fault, ScriptedBackend, plugin_of
from chatbridge.texts import say

from .echo import EchoBackend
from .place import ANN, GROUP, PRIVATE, Place, said, virtually


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def answered(place: Place, text: str = "the first answer") -> None:
    async with place.program(ScriptedBackend(text)) as delivery:
        await delivery.accept(said("hello"))


def slow() -> EchoBackend:
    return EchoBackend(lambda question: " ".join(f"w{i}" for i in range(100)), pauses=lambda: 1.0)


@virtually
async def test_a_press_that_the_end_interrupts_is_carried_out_after_it(place: Place) -> None:
    await answered(place)
    press = Press("regenerate", place.id(0), PRIVATE, ANN, id="77")
    async with place.program(slow(), drain=5.0) as delivery:
        assert await delivery.press(press) == ""
    assert len(place.shown()) == 2
    backend = ScriptedBackend("the second answer")
    async with place.program(backend) as delivery:
        await delivery.resume()
        assert await delivery.press(press) == ""  # as a service that tells of it again
    assert place.shown() == ["the first answer", "the second answer"]
    assert place.buttons()[1] == ("regenerate", "branch")
    assert len(backend.requests) == 1


@virtually
async def test_a_press_is_kept_before_anything_is_done_about_it(place: Place) -> None:
    await answered(place)
    async with place.program(ScriptedBackend()) as delivery:
        # As after a crash between storing it and the first word.
        received = await delivery.inbox.add("bot", Press("regenerate", place.id(0), PRIVATE, ANN))
        assert received is not None
        await delivery.inbox.begin(received.id)
        (entry,) = await Queue(delivery.bot.services.store).entries()
        assert entry.text == "regenerate"
    async with place.program(ScriptedBackend("the second answer")) as delivery:
        await delivery.resume()
    assert place.shown() == ["the first answer", "the second answer"]


@virtually
async def test_an_answer_that_was_being_continued_is_there_as_a_whole(place: Place) -> None:
    """The message that showed its end is replaced, and nothing of it may be missing."""
    await answered(place, "it begins")
    async with place.program(slow(), drain=9.0) as delivery:
        await delivery.press(Press("continue", place.id(0), PRIVATE, ANN))
    cut = place.shown()[1]
    assert cut.startswith("w0 w1")
    async with place.program(ScriptedBackend("and ends")) as delivery:
        await delivery.resume()
    assert place.shown()[0] == "it begins"
    assert place.shown()[1].startswith("it begins")
    assert cut in place.shown()[1]
    assert place.shown()[1].endswith("and ends")


@virtually
async def test_an_offer_becomes_the_answer_also_after_an_interruption(place: Place) -> None:
    await answered(place)
    async with place.program(slow(), drain=5.0) as delivery:
        await delivery.edited(said("good bye"))
        await place.service.clock.sleep(1)
        await delivery.press(Press("answer", place.id(1), PRIVATE, ANN))
    async with place.program(ScriptedBackend("the new answer")) as delivery:
        await delivery.resume()
    assert place.shown() == ["the first answer", "the new answer"]


@virtually
async def test_a_command_of_the_service_is_no_message_to_reply_to(place: Place) -> None:
    async with place.program(ScriptedBackend("one", "two")) as delivery:
        await delivery.accept(replace(said("hello", "1", GROUP), mentions_bot=True))
        await place.service.clock.sleep(5)
    async with place.program(slow(), drain=5.0) as delivery:
        assert await delivery.call(said("/regenerate", "99", GROUP)) == ()
    async with place.program(ScriptedBackend("two")) as delivery:
        await delivery.resume()
    assert place.shown("g") == ["one", "two"]
    assert [call.reply_to for call in place.service.calls if call.route == "send"] == ["1", None]


@virtually
async def test_a_command_that_may_be_done_is_not_done_twice(place: Place) -> None:
    done = []

    async def pay(context: CommandContext, argument: str) -> str:
        done.append(argument)
        return "paid"

    commands = plugin_of(
        chat_commands=[ChatCommand("pay", "pay", "付款", pay), ChatCommand("look", "look", "看", pay, repeatable=True)]
    )
    async with place.program(ScriptedBackend(), plugins=[commands]) as delivery:
        for id, text in (("1", "/pay 5"), ("2", "/look 6")):
            received = await delivery.inbox.add("bot", said(text, id))
            assert received is not None
            await delivery.inbox.begin(received.id)
    async with place.program(ScriptedBackend(), plugins=[commands]) as delivery:
        await delivery.resume()
    assert sorted(place.shown()) == sorted([say("en", "maybe_done", name="pay"), "paid"])
    assert done == ["6"]


@virtually
async def test_what_can_not_be_read_is_answered_once_and_only_to_those_it_listens_to(place: Place) -> None:
    unreadable = replace(said("", "5"), unreadable="No voices, please.")
    async with place.program(ScriptedBackend()) as delivery:
        assert await delivery.accept(unreadable)
        assert not await delivery.accept(unreadable)
        await delivery.accept(replace(unreadable, id="6", channel=GROUP, author=replace(ANN, is_bot=True)))
    assert place.shown() == ["No voices, please."]
    assert place.shown("g") == []


@virtually
async def test_a_chat_that_has_another_id_goes_on_there(place: Place) -> None:
    async with place.program(ScriptedBackend("one", "two")) as delivery:
        await delivery.accept(said("hello", "1"))
        await delivery.settled()
        await delivery.moved("p", "q")
        await delivery.accept(said("and again", "1", replace(PRIVATE, id="q")))
        await delivery.settled()
        path = await delivery.bot.dialogue(replace(PRIVATE, id="q")).path()
        assert [node.text for node in path] == ["hello", "one", "and again", "two"]
        assert await delivery.bot.dialogue(PRIVATE).path() == []


@virtually
async def test_what_is_being_answered_while_its_chat_gets_another_id_ends_there(place: Place) -> None:
    there = replace(PRIVATE, id="q")
    async with place.program(EchoBackend(str.upper, pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("one two three", "1"))
        await place.service.clock.sleep(1.5)
        await delivery.moved("p", "q")
        await delivery.accept(said("four", "1", there))
        await delivery.settled()
        path = await delivery.bot.dialogue(there).path()
    assert [node.text for node in path] == ["one two three", "ONE TWO THREE", "four", "FOUR"]


@virtually
async def test_a_placeholder_that_nobody_remembers_becomes_the_answer(place: Place) -> None:
    """It was sent in the moment of a crash; the service knows its nonce again."""
    place.service = FakeService(Limits(2000, idempotent=True))
    async with place.program(ScriptedBackend()) as delivery:
        received = await delivery.inbox.add("bot", said("hello"))
        assert received is not None
        await delivery.inbox.begin(received.id)
        await place.service.chat("p").send(MessageContent("…"), reply_to=None, nonce=f"{received.key}-0")
    async with place.program(ScriptedBackend("One.")) as delivery:
        await delivery.resume()
    assert place.shown() == ["One."]


@virtually
async def test_a_nonce_stays_the_same_for_all_tries_and_runs(place: Place) -> None:
    place.service = FakeService(Limits(2000, idempotent=True), lambda call: Fault("unreachable"))
    async with place.program(ScriptedBackend(), drain=5.0) as delivery:
        await delivery.outbox.put("bot", "p", [NewOutboxMessage("send", "n", packed(MessageContent("One.")))])
        await delivery.resume()
        await place.service.clock.sleep(1)
        (letter,) = await delivery.outbox.open("bot")
    assert letter.attempts > 0
    assert letter.nonce == "n"


@virtually
async def test_what_was_tried_a_moment_ago_needs_no_mark_where_nonces_are_known(place: Place) -> None:
    place.service = FakeService(Limits(2000, idempotent=True))
    async with place.program(ScriptedBackend()) as delivery:
        await place.service.chat("p").send(MessageContent("One."), reply_to=None, nonce="n")
        (row,) = await delivery.outbox.put("bot", "p", [NewOutboxMessage("send", "n", packed(MessageContent("One.")))])
        await delivery.outbox.attempting(row.id, "send", row.nonce)
    async with place.program(ScriptedBackend()) as delivery:
        await delivery.resume()
    assert place.shown() == ["One."]
