"""What people do to what was said: press buttons, give a service's commands, edit and delete messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge import Author, Button, Channel, Press
from chatbridge.config import Access
from chatbridge.delivery.chat import Action
from chatbridge.testing import ScriptedBackend
from chatbridge.texts import say

from .echo import EchoBackend, echo
from .place import ANN, PRIVATE, Place, said, spoken, virtually


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def press(action: Action, message_id: str, author: Author = ANN, channel: Channel = PRIVATE) -> Press:
    return Press(action, message_id, channel, author)


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
        export = await delivery.bot.services.store.export((await delivery.bot.dialogue(PRIVATE).conversation()).id)
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
