"""Presses, commands and what can't be read, when the program ends in the middle: repeated, or told of; never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import Channel, ChatCommand, CommandContext, Limits, MessageContent, Press, StoreError
from chatbridge.delivery.content_json import to_json
from chatbridge.store import InboxItem, NewOutboxMessage
from chatbridge.store.queue import Queue
from chatbridge.testing import FakeService, Fault, ScriptedBackend, plugin_of, run_virtually
from chatbridge.texts import say

from .echo import EchoBackend
from .harness import ANN, GROUP, PRIVATE, Harness, said, virtually


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


async def answered(harness: Harness, text: str = "the first answer") -> None:
    async with harness.program(ScriptedBackend(text)) as delivery:
        await delivery.accept(said("hello"))


def slow() -> EchoBackend:
    return EchoBackend(lambda question: " ".join(f"w{i}" for i in range(100)), pauses=lambda: 1.0)


@virtually
async def test_a_press_that_the_end_interrupts_is_carried_out_after_it(harness: Harness) -> None:
    await answered(harness)
    press = Press("regenerate", harness.id(0), PRIVATE, ANN, id="77")
    async with harness.program(slow(), drain=5.0) as delivery:
        assert await delivery.press(press) == ""
    assert len(harness.shown()) == 2
    backend = ScriptedBackend("the second answer")
    async with harness.program(backend) as delivery:
        await delivery.resume()
        assert await delivery.press(press) == ""  # as a service that tells of it again
    assert harness.shown() == ["the first answer", "the second answer"]
    assert harness.buttons()[1] == ("regenerate", "branch")
    assert len(backend.requests) == 1


@virtually
async def test_a_shutdown_does_not_wait_for_a_button_whose_answer_hangs(harness: Harness) -> None:
    await answered(harness)
    began = harness.service.clock.time
    async with harness.program(EchoBackend(pauses=lambda: 1e9), drain=5.0) as delivery:
        before = began()
        assert await delivery.press(Press("regenerate", harness.id(0), PRIVATE, ANN, id="77")) == ""
    assert 5 <= began() - before < 6
    async with harness.program(ScriptedBackend("the second answer")) as delivery:
        (item,) = await delivery.inbox.open("bot")
        assert (item.state, item.attempts) == ("waiting", 0), "an interruption on purpose is no failed try"
        await delivery.resume()
    assert harness.shown() == ["the first answer", "the second answer"]


@virtually
async def test_what_is_pressed_or_said_during_a_shutdown_is_answered_after_it(harness: Harness) -> None:
    await answered(harness)
    backend = EchoBackend(pauses=lambda: 1e9)
    async with harness.program(backend, drain=10.0) as delivery:
        await delivery.accept(said("one", "2", Channel("busy")))

        async def late() -> None:
            await harness.service.clock.sleep(5)
            assert await delivery.press(Press("regenerate", harness.id(0), PRIVATE, ANN, id="77")) == ""
            assert await delivery.accept(said("two", "3", Channel("quiet")))
            assert await delivery.call(said("/regenerate", "99")) == ()

        later = asyncio.create_task(late())
    await later
    assert len(backend.requests) == 1, "nothing is begun that would only be cut"
    async with harness.program(ScriptedBackend(*"abcd")) as delivery:
        assert {item.attempts for item in await delivery.inbox.open("bot")} == {0}
        assert len(await delivery.inbox.open("bot")) == 4
        await delivery.resume()
        await delivery.settled()
        assert await delivery.inbox.open("bot") == []


@virtually
async def test_what_is_in_hand_is_not_taken_up_a_second_time(harness: Harness) -> None:
    await answered(harness)
    backend = slow()
    async with harness.program(backend) as delivery:
        await delivery.accept(said("one", "2", Channel("a")))
        await delivery.press(Press("regenerate", harness.id(0), PRIVATE, ANN, id="77"))
        await harness.service.clock.sleep(150)
        await delivery.call(said("/regenerate", "i1"))
        for _ in range(3):
            await harness.service.clock.sleep(5)
            await delivery.resume()
        await delivery.settled()
    assert len(backend.requests) == 3
    assert [len(harness.shown(chat)) for chat in ("p", "a")] == [3, 1]


@virtually
async def test_of_a_delivery_that_has_ended_nothing_goes_on(harness: Harness) -> None:
    async with harness.program(slow(), drain=1.0) as delivery:
        services = delivery.bot.services
        assert list(services.deliveries) == [delivery]
        await delivery.accept(said("one", "2"))
        await delivery.__aexit__(None, None, None)
        assert list(services.deliveries) == []
        made = len(harness.service.calls)
        await harness.service.clock.sleep(1000)
        assert len(harness.service.calls) == made


@virtually
async def test_how_far_each_source_was_read_is_kept(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one")) as delivery:
        await delivery.accept(said("hello", "2"), cursor=("updates", 7))
        await delivery.advance("room", 5)
        await delivery.advance("room", 3)
    async with harness.program(ScriptedBackend()) as delivery:
        assert await delivery.cursors() == {"updates": 7, "room": 5}


@virtually
async def test_a_press_is_kept_before_anything_is_done_about_it(harness: Harness) -> None:
    await answered(harness)
    async with harness.program(ScriptedBackend()) as delivery:
        # As after a crash between storing it and the first word.
        item = await delivery.inbox.add("bot", Press("regenerate", harness.id(0), PRIVATE, ANN))
        assert item is not None
        await delivery.inbox.begin(item.id)
        (entry,) = await Queue(delivery.bot.services.store).entries()
        assert entry.text == "regenerate"
    async with harness.program(ScriptedBackend("the second answer")) as delivery:
        await delivery.resume()
    assert harness.shown() == ["the first answer", "the second answer"]


@pytest.mark.parametrize("way", ["a press", "a command"])
@pytest.mark.parametrize("failure", [StoreError("the disk is full"), asyncio.CancelledError()], ids=["fails", "ends"])
def test_what_can_not_be_begun_is_not_in_hand_and_comes_again(
    harness: Harness, way: str, failure: BaseException
) -> None:
    async def run() -> None:
        await answered(harness)
        async with harness.program(ScriptedBackend("the second answer")) as delivery:
            begin, delivery.inbox.begin = delivery.inbox.begin, _raising(failure)  # type: ignore[method-assign]
            press = Press("regenerate", harness.id(0), PRIVATE, ANN)
            with pytest.raises(type(failure)):
                await (delivery.press(press) if way == "a press" else delivery.call(said("/regenerate", "i1")))
            assert delivery.in_hand == 0
            delivery.inbox.begin = begin  # type: ignore[method-assign]
            await delivery.resume()
        assert harness.shown() == ["the first answer", "the second answer"]

    run_virtually(run())


def _raising(failure: BaseException) -> Callable[[int], Awaitable[InboxItem | None]]:
    async def begin(id: int) -> InboxItem | None:
        raise failure

    return begin


@virtually
async def test_an_answer_that_was_being_continued_is_there_as_a_whole(harness: Harness) -> None:
    """The message that showed its end is replaced, and nothing of it may be missing."""
    await answered(harness, "it begins")
    async with harness.program(slow(), drain=9.0) as delivery:
        await delivery.press(Press("continue", harness.id(0), PRIVATE, ANN))
    cut = harness.shown()[1]
    assert cut.startswith("w0 w1")
    async with harness.program(ScriptedBackend("and ends")) as delivery:
        await delivery.resume()
    assert harness.shown()[0] == "it begins"
    assert harness.shown()[1].startswith("it begins")
    assert cut in harness.shown()[1]
    assert harness.shown()[1].endswith("and ends")


@virtually
async def test_an_offer_becomes_the_answer_also_after_an_interruption(harness: Harness) -> None:
    await answered(harness)
    async with harness.program(slow(), drain=5.0) as delivery:
        await delivery.edited(said("good bye"))
        await harness.service.clock.sleep(1)
        await delivery.press(Press("answer", harness.id(1), PRIVATE, ANN))
    async with harness.program(ScriptedBackend("the new answer")) as delivery:
        await delivery.resume()
    assert harness.shown() == ["the first answer", "the new answer"]


@virtually
async def test_a_command_of_the_service_is_no_message_to_reply_to(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two")) as delivery:
        await delivery.accept(replace(said("hello", "1", GROUP), mentions_bot=True))
        await harness.service.clock.sleep(5)
    async with harness.program(slow(), drain=5.0) as delivery:
        assert await delivery.call(said("/regenerate", "99", GROUP)) == ()
    async with harness.program(ScriptedBackend("two")) as delivery:
        await delivery.resume()
    assert harness.shown("g") == ["one", "two"]
    assert [call.reply_to for call in harness.service.calls if call.route == "send"] == ["1", None]


@virtually
async def test_a_command_that_may_be_done_is_not_done_twice(harness: Harness) -> None:
    done = []

    async def pay(context: CommandContext, argument: str) -> str:
        done.append(argument)
        return "paid"

    commands = plugin_of(
        chat_commands=[ChatCommand("pay", "pay", "付款", pay), ChatCommand("look", "look", "看", pay, repeatable=True)]
    )
    async with harness.program(ScriptedBackend(), plugins=[commands]) as delivery:
        for id, text in (("1", "/pay 5"), ("2", "/look 6")):
            item = await delivery.inbox.add("bot", said(text, id))
            assert item is not None
            await delivery.inbox.begin(item.id)
    async with harness.program(ScriptedBackend(), plugins=[commands]) as delivery:
        await delivery.resume()
    assert sorted(harness.shown()) == sorted([say("en", "maybe_done", name="pay"), "paid"])
    assert done == ["6"]


@virtually
async def test_what_can_not_be_read_is_answered_once_and_only_to_those_it_listens_to(harness: Harness) -> None:
    unreadable = replace(said("", "5"), unreadable="No voices, please.")
    async with harness.program(ScriptedBackend()) as delivery:
        assert await delivery.accept(unreadable)
        assert not await delivery.accept(unreadable)
        await delivery.accept(replace(unreadable, id="6", channel=GROUP, author=replace(ANN, is_bot=True)))
    assert harness.shown() == ["No voices, please."]
    assert harness.shown("g") == []


@virtually
async def test_a_chat_that_has_another_id_goes_on_there(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two")) as delivery:
        await delivery.accept(said("hello", "1"))
        await delivery.settled()
        await delivery.moved("p", "q")
        await delivery.accept(said("and again", "1", replace(PRIVATE, id="q")))
        await delivery.settled()
        path = await delivery.bot.dialogue(replace(PRIVATE, id="q")).path()
        assert [node.text for node in path] == ["hello", "one", "and again", "two"]
        assert await delivery.bot.dialogue(PRIVATE).path() == []


@virtually
async def test_what_is_being_answered_while_its_chat_gets_another_id_ends_there(harness: Harness) -> None:
    there = replace(PRIVATE, id="q")
    async with harness.program(EchoBackend(str.upper, pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("one two three", "1"))
        await harness.service.clock.sleep(1.5)
        await delivery.moved("p", "q")
        await delivery.accept(said("four", "1", there))
        await delivery.settled()
        path = await delivery.bot.dialogue(there).path()
    assert [node.text for node in path] == ["one two three", "ONE TWO THREE", "four", "FOUR"]


@virtually
async def test_a_placeholder_that_nobody_remembers_becomes_the_answer(harness: Harness) -> None:
    """It was sent in the moment of a crash; the service knows its nonce again."""
    harness.service = FakeService(Limits(2000, idempotent=True))
    async with harness.program(ScriptedBackend()) as delivery:
        item = await delivery.inbox.add("bot", said("hello"))
        assert item is not None
        await delivery.inbox.begin(item.id)
        await harness.service.chat("p").send(MessageContent("…"), reply_to=None, nonce=f"{item.key}-0")
    async with harness.program(ScriptedBackend("One.")) as delivery:
        await delivery.resume()
    assert harness.shown() == ["One."]


@virtually
async def test_a_nonce_stays_the_same_for_all_tries_and_runs(harness: Harness) -> None:
    harness.service = FakeService(Limits(2000, idempotent=True), lambda call: Fault("unreachable"))
    async with harness.program(ScriptedBackend(), drain=5.0) as delivery:
        await delivery.outbox.put("bot", "p", [NewOutboxMessage("send", "n", to_json(MessageContent("One.")))])
        await delivery.resume()
        await harness.service.clock.sleep(1)
        (message,) = await delivery.outbox.open("bot")
    assert message.attempts > 0
    assert message.nonce == "n"


@virtually
async def test_what_was_tried_a_moment_ago_needs_no_mark_where_nonces_are_known(harness: Harness) -> None:
    harness.service = FakeService(Limits(2000, idempotent=True))
    async with harness.program(ScriptedBackend()) as delivery:
        await harness.service.chat("p").send(MessageContent("One."), reply_to=None, nonce="n")
        (row,) = await delivery.outbox.put("bot", "p", [NewOutboxMessage("send", "n", to_json(MessageContent("One.")))])
        await delivery.outbox.attempting(row.id, "send", row.nonce)
    async with harness.program(ScriptedBackend()) as delivery:
        await delivery.resume()
    assert harness.shown() == ["One."]
