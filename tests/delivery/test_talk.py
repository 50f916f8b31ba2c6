"""What people do besides writing: press buttons, give a service's commands, edit, delete, and write on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge import (
    Attachment,
    Author,
    Button,
    Channel,
    Chunk,
    Delivery,
    Finish,
    Limits,
    Message,
    Press,
    Reply,
    Request,
    Usage,
)
from chatbridge.config import Access, Quota
from chatbridge.delivery.chat import Action, LoopClock
from chatbridge.testing import Fault, ScriptedBackend, ServiceCall
from chatbridge.texts import say
from chatbridge.types import Waiting

from .echo import EchoBackend, echo
from .place import ANN, GROUP, PRIVATE, Place, said, virtually


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def press(action: Action, message_id: str, author: Author = ANN, channel: Channel = PRIVATE) -> Press:
    return Press(action, message_id, channel, author)


async def spoken(delivery: Delivery, channel: Channel = PRIVATE) -> list[str]:
    return [node.text for node in await delivery.bot.dialogue(channel).path()]


# --- buttons ---------------------------------------------------------------------------------------------------------


@virtually
async def test_buttons_change_with_the_answer(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 10 words"))
        await place.service.clock.sleep(5)
        assert place.buttons() == [("stop",)]
        assert place.service.messages["p"][place.id(0)].buttons == (Button("stop", "Stop"),)
    assert place.buttons() == [("regenerate", "branch")]


@virtually
async def test_an_answer_in_several_messages_has_its_buttons_under_the_last(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 0.01)) as delivery:
        await delivery.accept(said("x: 300 words"))
    assert len(place.buttons()) > 2
    assert set(place.buttons()[:-1]) == {()}
    assert place.buttons()[-1] == ("regenerate", "branch")


@virtually
async def test_no_buttons_where_none_are_wanted(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 1.0), settings={"buttons": False}) as delivery:
        await delivery.accept(said("x: 10 words"))
        await place.service.clock.sleep(5)
        assert place.buttons() == [()]
        await delivery.edited(said("y: 3 words"))
    assert place.buttons() == [()]


@virtually
async def test_stop_keeps_what_came_and_offers_to_continue(place: Place) -> None:
    backend = EchoBackend(pauses=lambda: 1.0)
    async with place.program(backend) as delivery:
        await delivery.accept(said("x: 50 words"))
        await place.service.clock.sleep(10)
        assert await delivery.press(press("stop", place.id(0))) == ""
        await place.service.clock.sleep(5)
        (kept,) = place.shown()
        assert echo("x: 50 words").startswith(kept)
        assert place.buttons() == [("regenerate", "continue", "branch")]
        assert await spoken(delivery) == ["x: 50 words", kept]
        assert await delivery.press(press("stop", place.id(0))) == say("en", "nothing_to_stop")
        assert await delivery.press(press("continue", place.id(0))) == ""
    assert place.shown()[0] == kept
    assert len(place.shown()) == 2


@virtually
async def test_regenerate_under_an_old_answer_branches_there(place: Place) -> None:
    async with place.program(ScriptedBackend("one", "two", "one again", "three")) as delivery:
        for id, text in enumerate(("first", "second")):
            await delivery.accept(said(text, str(id)))
            await place.service.clock.sleep(5)
        assert await delivery.press(press("regenerate", place.id(0))) == ""
        await place.service.clock.sleep(5)
        assert await spoken(delivery) == ["first", "one again"]
        await delivery.accept(said("third", "3"))
        await place.service.clock.sleep(5)
        assert await spoken(delivery) == ["first", "one again", "third", "three"]
        assert await delivery.press(press("branch", place.id(1))) == say("en", "branched")
        assert await spoken(delivery) == ["first", "one", "second", "two"]
    assert place.shown() == ["one", "two", "one again", "three"]


@virtually
async def test_buttons_still_work_after_a_restart_and_in_an_earlier_conversation(place: Place) -> None:
    async with place.program(ScriptedBackend("one")) as delivery:
        await delivery.accept(said("first"))
    async with place.program(ScriptedBackend("one again")) as delivery:
        await delivery.accept(said("/reset", "2"))
        await place.service.clock.sleep(5)
        assert await spoken(delivery) == []
        await delivery.press(press("regenerate", place.id(0)))
        await place.service.clock.sleep(5)
        assert await spoken(delivery) == ["first", "one again"]
        await delivery.accept(said("/reset", "3"))
        await place.service.clock.sleep(5)
        await delivery.press(press("branch", place.id(0)))
        assert await spoken(delivery) == ["first", "one"]


@virtually
async def test_strangers_press_in_vain_and_old_buttons_say_so(place: Place) -> None:
    stranger = Author("s", "Stranger")
    async with place.program(EchoBackend(pauses=lambda: 1.0), bot={"allow": Access(users=frozenset("a"))}) as delivery:
        await delivery.accept(said("x: 20 words"))
        await place.service.clock.sleep(5)
        for action in ("stop", "regenerate"):
            assert await delivery.press(press(action, place.id(0), stranger)) == say("en", "not_permitted")
        assert await delivery.press(press("regenerate", "unknown")) == say("en", "button_stale")
    assert place.shown() == [echo("x: 20 words")]


# --- a service's own commands ----------------------------------------------------------------------------------------


@virtually
async def test_a_services_command_is_answered_to_whom_gave_it_or_streams_into_the_chat(place: Place) -> None:
    async with place.program(ScriptedBackend("one", "two"), settings={"language": "auto"}) as delivery:
        await delivery.accept(said("hello"))
        await place.service.clock.sleep(5)
        (part,) = await delivery.call(said("/stop", "i1", language="zh-CN"))
        assert (part.text, part.last) == (say("zh", "nothing_to_stop"), True)
        (part,) = await delivery.call(said("/nonsense", "i2"))
        assert "/nonsense" in part.text
        assert await delivery.call(said("/regenerate", "i3")) == ()
    assert place.shown() == ["one", "two"]


@virtually
async def test_a_long_answer_to_a_command_comes_in_parts_that_fit(place: Place) -> None:
    place.service.limits = type(place.service.limits)(300)
    async with place.program(ScriptedBackend("one")) as delivery:
        parts = await delivery.call(said("/help", "i1"))
    assert len(parts) > 2
    assert all(len(part.text) <= 300 for part in parts)


# --- edited and deleted messages -------------------------------------------------------------------------------------


@virtually
async def test_an_edited_message_offers_to_answer_it_again_once(place: Place) -> None:
    async with place.program(ScriptedBackend("one", "two", "three")) as delivery:
        await delivery.accept(said("hello", "1"))
        await place.service.clock.sleep(5)
        await delivery.edited(said("hello", "1"))  # a service tells of edits that change no word
        await place.service.clock.sleep(5)
        assert place.shown() == ["one"]
        await delivery.edited(said("hello there", "1"))
        await place.service.clock.sleep(5)
        assert place.shown() == ["one", say("en", "edited")]
        assert place.buttons()[1] == ("answer",)
        await delivery.edited(said("hello you there", "1"))
        await place.service.clock.sleep(5)
        assert len(place.shown()) == 2
        assert await spoken(delivery) == ["hello", "one"]
        await delivery.press(press("answer", place.id(1)))
        await place.service.clock.sleep(5)
        # The answer comes in the place of the offer, to the latest words.
        assert place.shown() == ["one", "two"]
        assert place.buttons()[1] == ("regenerate", "branch")
        assert await spoken(delivery) == ["hello you there", "two"]
        await delivery.edited(said("never mind", "unknown"))
        await delivery.edited(said("hello", "1"))  # as it was at first, and not what was answered last
        await place.service.clock.sleep(5)
        assert place.shown() == ["one", "two", say("en", "edited")]
        await delivery.deleted(PRIVATE, ["1"])
        assert await spoken(delivery) == []


@virtually
async def test_a_message_edited_before_its_turn_is_answered_as_it_is_now(place: Place) -> None:
    backend = EchoBackend(lambda question: f"answer to {question}", pauses=lambda: 1.0)
    async with place.program(backend) as delivery:
        received = await delivery.inbox.add("bot", said("first", "1"))
        assert received is not None
        await delivery.edited(said("second", "1"))
        await delivery.resume()
    assert place.shown() == ["answer to second"]


@virtually
async def test_a_message_edited_while_it_waits_for_the_answer_before_it(place: Place) -> None:
    backend = EchoBackend(lambda question: f"answer to {question}", pauses=lambda: 1.0)
    async with place.program(backend, settings={"prefix": "!"}) as delivery:
        await delivery.accept(said("!first", "1"))
        await place.service.clock.sleep(0.5)
        await delivery.accept(said("!second", "2"))
        await place.service.clock.sleep(0.5)
        await delivery.edited(said("!third", "2"))
    assert place.shown() == ["answer to first", "answer to third"]


@virtually
async def test_a_message_deleted_while_it_waits_for_the_answer_before_it(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 5 words", "1"))
        await place.service.clock.sleep(0.5)
        await delivery.accept(said("y: 5 words", "2"))
        await place.service.clock.sleep(0.5)
        await delivery.deleted(PRIVATE, ["2"])
        await place.service.clock.sleep(60)
        assert await spoken(delivery) == ["x: 5 words", echo("x: 5 words")]
    assert place.shown() == [echo("x: 5 words")]


@virtually
async def test_what_was_within_the_limits_before_a_restart_still_is(place: Place) -> None:
    limits = Quota(messages_per_minute=1)
    async with place.program(EchoBackend(pauses=lambda: 1.0), drain=0.0, bot={"limits": limits}) as delivery:
        for id in ("1", "2"):
            received = await delivery.inbox.add("bot", said("x: 3 words", id))
            assert received is not None
            await delivery.inbox.begin(received.id)
    async with place.program(EchoBackend(), bot={"limits": limits}) as delivery:
        await delivery.resume()
        await place.service.clock.sleep(30)
        await delivery.accept(said("one more", "3"))
        await delivery.accept(said("and one", "4"))
    assert place.shown()[:2] == [echo("x: 3 words")] * 2
    refusal = say("en", "messages_per_minute", limit=1, wait="60 s")
    assert sorted(place.shown()[2:]) == sorted([echo("one more"), refusal])


@virtually
async def test_deleted_messages_leave_the_history_with_their_answers(place: Place) -> None:
    backend = ScriptedBackend("one", "two", "three")
    async with place.program(backend) as delivery:
        for id, text in enumerate(("my secret", "second")):
            await delivery.accept(said(text, str(id)))
            await place.service.clock.sleep(5)
        await delivery.deleted(PRIVATE, ["0", "unknown"])
        assert await spoken(delivery) == ["second", "two"]
        await delivery.accept(said("third", "3"))
        await place.service.clock.sleep(5)
        assert [turn.text for turn in backend.requests[-1].turns if turn.role != "system"] == ["second", "two", "third"]
        await delivery.deleted(PRIVATE, [place.id(1)])  # an answer of ours, taken away by a moderator
        assert await spoken(delivery) == ["second", "third", "three"]
        export = await delivery.bot.bridge.store.export((await delivery.bot.dialogue(PRIVATE).conversation()).id)
        assert "my secret" not in str(export)


@virtually
async def test_a_message_deleted_while_it_is_answered_takes_its_answer_along(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 50 words", "1"))
        await place.service.clock.sleep(10.5)  # between two words: the answer ends after it was deleted
        assert place.shown()
        await delivery.deleted(PRIVATE, ["1"])
        await place.service.clock.sleep(10)
        assert place.shown() == []
        assert await spoken(delivery) == []
        assert delivery.in_hand == 0


@virtually
async def test_a_message_deleted_before_its_turn_is_not_answered(place: Place) -> None:
    backend = ScriptedBackend("never")
    async with place.program(backend) as delivery:
        await delivery.inbox.add("bot", said("first", "1"))
        await delivery.deleted(PRIVATE, ["1"])
        await delivery.resume()
    assert backend.requests == []


# --- several messages ------------------------------------------------------------------------------------------------


async def three_in_a_row(place: Place, policy: str) -> tuple[list[str], list[list[str]]]:
    """What is shown, and what the model was asked, where two messages come while the first one is answered."""
    backend = EchoBackend(lambda question: echo(f"{question}: 20 words"), pauses=lambda: 0.5)
    async with place.program(backend, settings={"follow_up": policy}) as delivery:
        await delivery.accept(said("a", "1"))
        await place.service.clock.sleep(4)
        await delivery.accept(said("b", "2"))
        await delivery.accept(said("c", "3"))
    asked = [[turn.text for turn in request.turns if turn.role == "user"] for request in backend.requests]
    return place.shown(), asked


@virtually
async def test_follow_ups_are_answered_one_by_one(place: Place) -> None:
    shown, asked = await three_in_a_row(place, "queue")
    assert shown == [echo(f"{name}: 20 words") for name in "abc"]
    assert asked == [["a"], ["a", "b"], ["a", "b", "c"]]


@virtually
async def test_follow_ups_are_answered_together(place: Place) -> None:
    shown, asked = await three_in_a_row(place, "merge")
    assert shown == [echo(f"{name}: 20 words") for name in "ac"]
    assert asked == [["a"], ["a", "b", "c"]]


@virtually
async def test_follow_ups_interrupt(place: Place) -> None:
    shown, asked = await three_in_a_row(place, "interrupt")
    assert len(shown) == 2
    assert echo("a: 20 words").startswith(shown[0])
    assert shown[0] != echo("a: 20 words")
    assert shown[1] == echo("c: 20 words")
    assert asked[-1] == ["a", "b", "c"]


@virtually
async def test_one_that_is_interrupted_before_its_first_word_leaves_nothing_in_the_chat(place: Place) -> None:
    backend = EchoBackend(lambda question: f"answer to {question}", pauses=lambda: 5.0)
    async with place.program(backend, settings={"follow_up": "interrupt"}) as delivery:
        await delivery.accept(said("a", "1"))
        await place.service.clock.sleep(3)
        assert place.shown() == ["…"]
        await delivery.accept(said("b", "2"))
        await place.service.clock.sleep(60)
        assert await spoken(delivery) == ["a", "b", "answer to b"]
    assert place.shown() == ["answer to b"]


@virtually
async def test_one_that_was_answered_with_a_later_one_before_a_crash_is_done_with(place: Place) -> None:
    async with place.program(ScriptedBackend()) as delivery:
        store, talk = delivery.bot.bridge.store, await delivery.bot.dialogue(PRIVATE).conversation()
        received = await delivery.inbox.add("bot", said("a", "1"))
        assert received is not None
        await delivery.inbox.begin(received.id)
        parent = None
        for id, text in (("1", "a"), ("2", "b")):
            node = await store.append(talk.id, "user", text, parent=parent, service_id=id, channel="p")
            parent = node.id
        await store.append(talk.id, "assistant", "to both", parent=parent)
    backend = ScriptedBackend("never")
    async with place.program(backend, settings={"follow_up": "merge"}) as delivery:
        await delivery.resume()
        await place.service.clock.sleep(5)
        assert await delivery.inbox.open("bot") == []
    assert (place.shown(), backend.requests) == ([], [])


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
    place = Place(tmp_path)
    seen: list[str] = []

    def watch(call: ServiceCall) -> Fault | None:
        if call.part is not None:
            seen.append(call.part.text)
        return None

    place.service.fault = watch

    @virtually
    async def run(place: Place) -> None:
        async with place.program(Crowded(), settings={"language": language}) as delivery:
            await delivery.accept(said("hello"))

    run(place)
    words = {
        "en": ["number 3 in line.", "number 2 in line, about 75 s.", "number 1 in line, about 10 min."],
        "zh": ["第 3 位。", "第 2 位，大约还要 75 秒。", "第 1 位，大约还要 10 分钟。"],
    }
    assert seen[0] == "…"
    assert all(text.endswith(end) for text, end in zip(seen[1:4], words[language], strict=True))
    assert seen[-1] == "there"


@virtually
async def test_a_reply_to_what_the_bot_never_saw_brings_its_words_along(place: Place) -> None:
    backend = ScriptedBackend("one", "two")
    async with place.program(backend) as delivery:
        await delivery.accept(Message("5", GROUP, ANN, "what is that?", reply_to="4", quoted="old\nwords"))
        await place.service.clock.sleep(5)
        await delivery.accept(Message("6", GROUP, ANN, "and this?", reply_to=place.id(0, "g"), quoted="one"))
        await place.service.clock.sleep(5)
        # An attachment's words come behind.
        note = Attachment("n.txt", "text/plain", b"note")
        await delivery.accept(Message("7", GROUP, ANN, "see", attachments=(note,)))
    asked = [request.turns[-1].text for request in backend.requests]
    assert asked == ["> old\n> words\n\nwhat is that?", "and this?", "see\n\n[n.txt]\nnote"]


# --- a placeholder whose sending may have gone well ------------------------------------------------------------------


def test_a_message_begun_in_doubt_becomes_the_answer_where_a_nonce_says_which_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path, Limits(2000, idempotent=True))
    place.service.fault = lambda call: Fault("lost") if call.route == "send" and place.shown() == [] else None

    @virtually
    async def talk(place: Place) -> None:
        async with place.program(EchoBackend(pauses=lambda: 0.15)) as delivery:
            await delivery.accept(said("x: 3 words"))
        assert place.shown() == [echo("x: 3 words")]
        assert [call.route for call in place.service.calls if call.route != "typing"] == ["send", "send"]

    talk(place)
