"""What people do to what was said: press buttons, give a service's commands, edit and delete messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import Attachment, Author, Button, Channel, Downloads, Message, Press
from chatbridge.config import Access
from chatbridge.delivery import delivery as delivery_module
from chatbridge.delivery.chat import Action
from chatbridge.testing import ScriptedBackend
from chatbridge.texts import say

from .echo import EchoBackend, echo
from .harness import ANN, PRIVATE, Harness, said, spoken, virtually


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.fixture
def room_for_two_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "MAX_OFFERS", 2)


def press(action: Action, message_id: str, author: Author = ANN, channel: Channel = PRIVATE) -> Press:
    return Press(action, message_id, channel, author)


# --- buttons ---------------------------------------------------------------------------------------------------------


@virtually
async def test_buttons_change_with_the_answer(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 10 words"))
        await harness.service.clock.sleep(5)
        assert harness.buttons() == [("stop",)]
        assert harness.service.messages["p"][harness.id(0)].buttons == (Button("stop", "Stop"),)
    assert harness.buttons() == [("regenerate", "branch")]


@virtually
async def test_an_answer_in_several_messages_has_its_buttons_under_the_last(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 0.01)) as delivery:
        await delivery.accept(said("x: 300 words"))
    assert len(harness.buttons()) > 2
    assert set(harness.buttons()[:-1]) == {()}
    assert harness.buttons()[-1] == ("regenerate", "branch")


@virtually
async def test_no_buttons_where_none_are_wanted(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0), settings={"buttons": False}) as delivery:
        await delivery.accept(said("x: 10 words"))
        await harness.service.clock.sleep(5)
        assert harness.buttons() == [()]
        await delivery.edited(said("y: 3 words"))
    assert harness.buttons() == [()]


@virtually
async def test_stop_keeps_what_came_and_offers_to_continue(harness: Harness) -> None:
    backend = EchoBackend(pauses=lambda: 1.0)
    async with harness.program(backend) as delivery:
        await delivery.accept(said("x: 50 words"))
        await harness.service.clock.sleep(10)
        assert await delivery.press(press("stop", harness.id(0))) == ""
        await harness.service.clock.sleep(5)
        (kept,) = harness.shown()
        assert echo("x: 50 words").startswith(kept)
        assert harness.buttons() == [("regenerate", "continue", "branch")]
        assert await spoken(delivery) == ["x: 50 words", kept]
        assert await delivery.press(press("stop", harness.id(0))) == say("en", "nothing_to_stop")
        assert await delivery.press(press("continue", harness.id(0))) == ""
    assert harness.shown()[0] == kept
    assert len(harness.shown()) == 2


@virtually
async def test_regenerate_under_an_old_answer_branches_there(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two", "one again", "three")) as delivery:
        for id, text in enumerate(("first", "second")):
            await delivery.accept(said(text, str(id)))
            await harness.service.clock.sleep(5)
        assert await delivery.press(press("regenerate", harness.id(0))) == ""
        await harness.service.clock.sleep(5)
        assert await spoken(delivery) == ["first", "one again"]
        await delivery.accept(said("third", "3"))
        await harness.service.clock.sleep(5)
        assert await spoken(delivery) == ["first", "one again", "third", "three"]
        assert await delivery.press(press("branch", harness.id(1))) == say("en", "branched")
        assert await spoken(delivery) == ["first", "one", "second", "two"]
    assert harness.shown() == ["one", "two", "one again", "three"]


@virtually
async def test_buttons_still_work_after_a_restart_and_in_an_earlier_conversation(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one")) as delivery:
        await delivery.accept(said("first"))
    async with harness.program(ScriptedBackend("one again")) as delivery:
        await delivery.accept(said("/reset", "2"))
        await harness.service.clock.sleep(5)
        assert await spoken(delivery) == []
        await delivery.press(press("regenerate", harness.id(0)))
        await harness.service.clock.sleep(5)
        assert await spoken(delivery) == ["first", "one again"]
        await delivery.accept(said("/reset", "3"))
        await harness.service.clock.sleep(5)
        await delivery.press(press("branch", harness.id(0)))
        assert await spoken(delivery) == ["first", "one"]


@virtually
async def test_strangers_press_in_vain_and_old_buttons_say_so(harness: Harness) -> None:
    stranger = Author("s", "Stranger")
    async with harness.program(
        EchoBackend(pauses=lambda: 1.0), bot={"allow": Access(users=frozenset("a"))}
    ) as delivery:
        await delivery.accept(said("x: 20 words"))
        await harness.service.clock.sleep(5)
        for action in ("stop", "regenerate"):
            assert await delivery.press(press(action, harness.id(0), stranger)) == say("en", "not_permitted")
        assert await delivery.press(press("regenerate", "unknown")) == say("en", "button_stale")
    assert harness.shown() == [echo("x: 20 words")]


# --- a service's own commands ----------------------------------------------------------------------------------------


@virtually
async def test_a_services_command_is_answered_to_whom_gave_it_or_streams_into_the_chat(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two"), settings={"language": "auto"}) as delivery:
        await delivery.accept(said("hello"))
        await harness.service.clock.sleep(5)
        (content,) = await delivery.call(said("/stop", "i1", language="zh-CN"))
        assert (content.text, content.ends_answer) == (say("zh", "nothing_to_stop"), True)
        (content,) = await delivery.call(said("/nonsense", "i2"))
        assert "/nonsense" in content.text
        assert await delivery.call(said("/regenerate", "i3")) == ()
    assert harness.shown() == ["one", "two"]


@virtually
async def test_whoever_may_not_give_a_services_command_is_told_so(harness: Harness) -> None:
    async with harness.program(
        ScriptedBackend("one"), bot={"allow": Access(users=frozenset({"somebody"}))}
    ) as delivery:
        (content,) = await delivery.call(said("/help", "i1", language="en"))
    assert content.text == say("en", "not_permitted")


@virtually
async def test_a_long_answer_to_a_command_comes_in_messages_that_fit(harness: Harness) -> None:
    harness.service.limits = type(harness.service.limits)(300)
    async with harness.program(ScriptedBackend("one")) as delivery:
        contents = await delivery.call(said("/help", "i1"))
    assert len(contents) > 2
    assert all(len(content.text) <= 300 for content in contents)


# --- edited and deleted messages -------------------------------------------------------------------------------------


@virtually
async def test_an_edited_message_offers_to_answer_it_again_once(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two", "three")) as delivery:
        await delivery.accept(said("hello", "1"))
        await harness.service.clock.sleep(5)
        await delivery.edited(said("hello", "1"))  # a service tells of edits that change no word
        await harness.service.clock.sleep(5)
        assert harness.shown() == ["one"]
        await delivery.edited(said("hello there", "1"))
        await harness.service.clock.sleep(5)
        assert harness.shown() == ["one", say("en", "edited")]
        assert harness.buttons()[1] == ("answer",)
        await delivery.edited(said("hello you there", "1"))
        await harness.service.clock.sleep(5)
        assert len(harness.shown()) == 2
        assert await spoken(delivery) == ["hello", "one"]
        await delivery.press(press("answer", harness.id(1)))
        await harness.service.clock.sleep(5)
        # The answer comes in the place of the offer, to the latest words.
        assert harness.shown() == ["one", "two"]
        assert harness.buttons()[1] == ("regenerate", "branch")
        assert await spoken(delivery) == ["hello you there", "two"]
        await delivery.edited(said("never mind", "unknown"))
        await delivery.edited(said("hello", "1"))  # as it was at first, and not what was answered last
        await harness.service.clock.sleep(5)
        assert harness.shown() == ["one", "two", say("en", "edited")]
        await delivery.deleted(PRIVATE, ["1"])
        assert await spoken(delivery) == []


@pytest.mark.usefixtures("room_for_two_offers")
@virtually
async def test_as_many_offers_are_remembered_as_there_is_room_for(harness: Harness) -> None:
    offer = say("en", "edited")
    async with harness.program(ScriptedBackend("one", "two", "three")) as delivery:
        for id in ("1", "2", "3"):
            await delivery.accept(said(f"hello {id}", id))
            await harness.service.clock.sleep(5)
            await delivery.edited(said(f"hello again {id}", id))
            await harness.service.clock.sleep(5)
        assert harness.shown().count(offer) == 3
        for id, offers in (("3", 3), ("2", 3), ("1", 4)):
            await delivery.edited(said(f"hello once more {id}", id))
            await harness.service.clock.sleep(5)
            assert harness.shown().count(offer) == offers


@virtually
async def test_a_message_edited_before_its_turn_is_answered_as_it_is_now(harness: Harness) -> None:
    backend = EchoBackend(lambda question: f"answer to {question}", pauses=lambda: 1.0)
    async with harness.program(backend) as delivery:
        item = await delivery.inbox.add("bot", said("first", "1"))
        assert item is not None
        await delivery.edited(said("second", "1"))
        await delivery.resume()
    assert harness.shown() == ["answer to second"]


@virtually
async def test_a_message_edited_or_deleted_while_its_files_are_fetched(harness: Harness) -> None:
    async def fetch(source: str, max_bytes: int) -> bytes:
        await harness.service.clock.sleep(5)
        return b"contents"

    backend = ScriptedBackend("one", "two")
    files = (Attachment("a.txt", "text/plain", b"", source="there"),)
    async with harness.program(backend, downloads=Downloads("Chat", fetch)) as delivery:
        for id in ("1", "2"):
            await delivery.accept(replace(said("first", id, Channel(id)), attachments=files))
        await harness.service.clock.sleep(1)
        await delivery.edited(said("second", "1", Channel("1")))
        await delivery.deleted(Channel("2"), ["2"])
    assert (harness.shown("1"), harness.shown("2")) == (["one"], [])
    assert [request.turns[-1].text for request in backend.requests] == ["second\n\n[a.txt]\ncontents"]


@virtually
async def test_the_files_of_an_edited_message_are_fetched_before_it_is_answered_again(harness: Harness) -> None:
    async def fetch(source: str, max_bytes: int) -> bytes:
        return source.encode()

    backend = ScriptedBackend("one", "two")
    async with harness.program(backend, downloads=Downloads("Chat", fetch)) as delivery:
        for id, source in (("1", "old"), ("1", "new")):
            message = replace(
                said("read this", id), attachments=(Attachment("a.txt", "text/plain", b"", source=source),)
            )
            await (delivery.accept(message) if source == "old" else delivery.edited(message))
            await harness.service.clock.sleep(5)
        await delivery.press(press("answer", harness.id(1)))
        await harness.service.clock.sleep(5)
    read = [request.turns[-1].text for request in backend.requests]
    assert read == ["read this\n\n[a.txt]\nold", "read this\n\n[a.txt]\nnew"]


@virtually
async def test_of_two_edits_whose_files_are_fetched_the_later_one_counts(harness: Harness) -> None:
    async def fetch(source: str, max_bytes: int) -> bytes:
        await harness.service.clock.sleep({"old": 0, "slow": 9, "new": 15}[source])
        return source.encode()

    def read(source: str) -> Message:
        return replace(said(f"read {source}"), attachments=(Attachment("a.txt", "text/plain", b"", source=source),))

    backend = ScriptedBackend("one", "two", "three")
    async with harness.program(backend, downloads=Downloads("Chat", fetch)) as delivery:
        await delivery.accept(read("old"))
        await harness.service.clock.sleep(5)
        await delivery.edited(read("slow"))
        await harness.service.clock.sleep(1)
        await delivery.edited(read("new"))
        await harness.service.clock.sleep(20)
        await delivery.press(press("answer", harness.id(1)))
        await harness.service.clock.sleep(5)
        assert harness.shown() == ["one", "two"]
        await delivery.edited(read("slow"))  # and once more, when nothing is being fetched any more
        await harness.service.clock.sleep(20)
        await delivery.press(press("answer", harness.id(2)))
        await harness.service.clock.sleep(5)
    read_last = [request.turns[-1].text for request in backend.requests]
    assert read_last == [f"read {source}\n\n[a.txt]\n{source}" for source in ("old", "new", "slow")]


@virtually
async def test_the_files_of_a_message_that_was_never_answered_are_not_fetched_for_an_edit(harness: Harness) -> None:
    asked = []

    async def fetch(source: str, max_bytes: int) -> bytes:
        asked.append(source)
        return b"contents"

    async with harness.program(ScriptedBackend("one"), downloads=Downloads("Chat", fetch)) as delivery:
        files = (Attachment("a.txt", "text/plain", b"", source="there"),)
        await delivery.edited(replace(said("read this", "unknown"), attachments=files))
    assert (asked, harness.shown()) == ([], [])


@virtually
async def test_an_edit_that_can_not_be_read_is_told_of_where_the_message_was_answered(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one")) as delivery:
        await delivery.accept(said("hello", "1"))
        await harness.service.clock.sleep(5)
        for id in ("unknown", "1"):
            await delivery.edited(replace(said("", id), unreadable=f"{id} is too long."))
            await harness.service.clock.sleep(5)
        assert await spoken(delivery) == ["hello", "one"]
    assert harness.shown() == ["one", "1 is too long."]


@virtually
async def test_a_message_edited_while_it_waits_for_the_answer_before_it(harness: Harness) -> None:
    backend = EchoBackend(lambda question: f"answer to {question}", pauses=lambda: 1.0)
    async with harness.program(backend, settings={"prefix": "!"}) as delivery:
        await delivery.accept(said("!first", "1"))
        await harness.service.clock.sleep(0.5)
        await delivery.accept(said("!second", "2"))
        await harness.service.clock.sleep(0.5)
        await delivery.edited(said("!third", "2"))
    assert harness.shown() == ["answer to first", "answer to third"]


@virtually
async def test_a_message_deleted_while_it_waits_for_the_answer_before_it(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 5 words", "1"))
        await harness.service.clock.sleep(0.5)
        await delivery.accept(said("y: 5 words", "2"))
        await harness.service.clock.sleep(0.5)
        await delivery.deleted(PRIVATE, ["2"])
        await harness.service.clock.sleep(60)
        assert await spoken(delivery) == ["x: 5 words", echo("x: 5 words")]
    assert harness.shown() == [echo("x: 5 words")]


@virtually
async def test_deleted_messages_leave_the_history_with_their_answers(harness: Harness) -> None:
    backend = ScriptedBackend("one", "two", "three")
    async with harness.program(backend) as delivery:
        for id, text in enumerate(("my secret", "second")):
            await delivery.accept(said(text, str(id)))
            await harness.service.clock.sleep(5)
        await delivery.deleted(PRIVATE, ["0", "unknown"])
        assert await spoken(delivery) == ["second", "two"]
        await delivery.accept(said("third", "3"))
        await harness.service.clock.sleep(5)
        assert [turn.text for turn in backend.requests[-1].turns if turn.role != "system"] == ["second", "two", "third"]
        await delivery.deleted(PRIVATE, [harness.id(1)])  # an answer of ours, taken away by a moderator
        assert await spoken(delivery) == ["second", "third", "three"]
        export = await delivery.bot.services.store.export((await delivery.bot.dialogue(PRIVATE).conversation()).id)
        assert "my secret" not in str(export)


@virtually
async def test_a_message_deleted_while_it_is_answered_takes_its_answer_along(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 50 words", "1"))
        await harness.service.clock.sleep(10.5)  # between two words: the answer ends after it was deleted
        assert harness.shown()
        await delivery.deleted(PRIVATE, ["1"])
        await harness.service.clock.sleep(10)
        assert harness.shown() == []
        assert await spoken(delivery) == []
        assert delivery.in_hand == 0


@virtually
async def test_a_message_deleted_before_its_turn_is_not_answered(harness: Harness) -> None:
    backend = ScriptedBackend("never")
    async with harness.program(backend) as delivery:
        await delivery.inbox.add("bot", said("first", "1"))
        await delivery.deleted(PRIVATE, ["1"])
        await delivery.resume()
    assert backend.requests == []


@virtually
async def test_a_preview_that_somebody_deleted_is_edited_no_more(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 30 words"))
        await harness.service.clock.sleep(5)
        harness.service.messages["p"].clear()
        before = len(harness.service.calls)
        await harness.service.clock.sleep(15)
        later = harness.service.calls[before:]
        assert [call.outcome for call in later if call.route != "typing"] == ["NotFound"]
    assert harness.shown() == [echo("x: 30 words")]
