"""A bot's delivery from message to answer: what is said in each case, and how it goes on after an interruption."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge import (
    Author,
    BackendError,
    Button,
    Channel,
    ChatCommand,
    Chunk,
    CommandContext,
    Finish,
    Message,
    Notice,
    Reply,
    ReplyStream,
    Request,
    Usage,
)
from chatbridge.delivery.chat import Limits, MessageContent, packed
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.delivery import SWEEP_SECONDS
from chatbridge.delivery.telegram_entities import as_entities
from chatbridge.errors import StoreError
from chatbridge.store import NewOutboxMessage
from chatbridge.store.queue import Queue
from chatbridge.testing import (
    FakeService,
    Fault,
    ScriptedBackend,
    ServiceCall,
    plugin_of,
    run_virtually,
)
from chatbridge.texts import say

from .echo import EchoBackend, echo
from .place import GROUP, PRIVATE, Place, said, virtually
from .texts import answer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@virtually
async def test_an_answer_a_command_and_a_wrong_command(place: Place) -> None:
    async with place.program(ScriptedBackend("**Good** day.")) as delivery:
        assert await delivery.accept(said("hello", "1"))
        await delivery.accept(said("/help", "2"))
        await delivery.accept(said("/nonsense", "3", language="zh"))
    shown = place.shown()
    assert len(shown) == 3
    assert "**Good** day." in shown
    assert any("/regenerate" in text for text in shown)
    assert any("/nonsense" in text for text in shown)


@virtually
async def test_replies_point_to_their_message_in_groups_alone(place: Place) -> None:
    replies = []

    class Listening:
        def __init__(self, id: str) -> None:
            self.id = id

        async def send(self, part: MessageContent, *, reply_to: str | None, nonce: str) -> str:
            replies.append((self.id, reply_to))
            return "m"

        async def typing(self) -> None: ...

    async with place.program(EchoBackend()) as delivery:
        delivery._dispatch._open_chat = Listening  # type: ignore[assignment]
        await delivery.accept(said("x: 200 words", "11", PRIVATE))
        await delivery.accept(said("x: 200 words", "12", GROUP))
    # The first of an answer's messages alone is a reply.
    assert [reply for chat, reply in replies if chat == "g"][:2] == ["12", None]
    assert {reply for chat, reply in replies if chat == "p"} == {None}


@virtually
async def test_errors_are_told_and_what_came_before_them_is_kept(place: Place) -> None:
    async with place.program(
        ScriptedBackend(BackendError("the model is on holiday"), ["half an ", "answer"])
    ) as delivery:
        await delivery.accept(said("one", "1"))
        await place.service.clock.sleep(5)
        assert len(place.shown()) == 1
        await delivery.accept(said("two", "2"))
    assert place.shown() == ["Sorry, I can't answer right now: the model is on holiday", "half an answer"]


class FailingBackend(ScriptedBackend):
    """Says a few words, then something happens that nobody expected."""

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:  # type: ignore[override]
        yield Chunk("a few words ")
        raise ZeroDivisionError("of all things")


@virtually
async def test_a_bug_is_told_in_a_friendly_line(place: Place) -> None:
    async with place.program(FailingBackend()) as delivery:
        await delivery.accept(said("one", language="en"))
    (text,) = place.shown()
    assert text == f"a few words\n\n{say('en', 'trouble_inside')}"
    assert "division" not in text.lower().replace("of all things", "")


class ThinkingBackend(ScriptedBackend):
    async def generate(self, request: Request) -> AsyncIterator[Chunk]:  # type: ignore[override]
        yield Chunk("hm,\nwell", thinking=True)
        yield Chunk("yes")
        yield Chunk(finish=Finish("end", Reply("yes"), Usage()))


@virtually
async def test_thoughts_are_a_quote_before_the_answer(place: Place) -> None:
    async with place.program(ThinkingBackend()) as delivery:
        await delivery.accept(said("one"))
    assert place.shown() == ["> hm,\n> well\n\nyes"]


@virtually
async def test_a_model_that_says_nothing_is_not_met_with_silence(place: Place) -> None:
    async with place.program(ScriptedBackend([])) as delivery:
        await delivery.accept(said("one"))
    assert place.shown() == [say("en", "said_nothing")]


@virtually
async def test_stopping_an_answer_that_is_shown_and_one_that_is_not(place: Place) -> None:
    clock = place.service.clock
    async with place.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 50 words", "1"))
        await delivery.accept(said("y: 50 words", "2"))
        await clock.sleep(10)
        dialogue = delivery.bot.dialogue(PRIVATE)
        assert dialogue.stop()
        assert len(place.shown()) == 1
        await clock.sleep(0.1)
    assert not dialogue.busy


@virtually
async def test_messages_that_are_not_for_the_bot_are_forgotten(place: Place) -> None:
    backend = ScriptedBackend("x")
    async with place.program(backend) as delivery:
        other = Message("1", GROUP, Author("b", "Bot", is_bot=True), "hello")
        await delivery.accept(other)
        assert not await delivery.accept(other)
    assert place.service.calls == []
    with sqlite3.connect(place.folder / "store.sqlite3") as raw:
        assert raw.execute("SELECT state, message FROM inbox").fetchall() == [("done", "")]
    raw.close()


@virtually
async def test_buttons_and_texts_of_our_own(place: Place) -> None:
    async with place.program(ScriptedBackend("one", "two")) as delivery:
        await delivery.accept(said("hello"))
        await place.service.clock.sleep(5)
        assert place.shown() == ["one"]
        await delivery.answer(delivery.bot.dialogue(PRIVATE).regenerate(), PRIVATE, language="en")
        assert place.shown() == ["one", "two"]
        await delivery.answer(Notice("Done."), PRIVATE)
        await delivery.say(PRIVATE, "Hello!")
    assert place.shown() == ["one", "two", "Done.", "Hello!"]


@virtually
async def test_messages_of_a_chat_are_taken_in_their_order(place: Place) -> None:
    backend = EchoBackend(lambda question: question)
    async with place.program(backend) as delivery:
        await asyncio.gather(*(delivery.accept(said(f"number {i}", str(i))) for i in range(20)))
    assert place.shown() == [f"number {i}" for i in range(20)]


# --- interruptions ---------------------------------------------------------------------------------------------------


@virtually
async def test_what_may_have_been_delivered_is_marked_after_a_crash_and_the_rest_is_not(place: Place) -> None:
    texts = ("one", "two", "three", "four")
    async with place.program(ScriptedBackend()) as delivery:
        shown = place.service.chat("p")
        message = await shown.send(MessageContent("…"), reply_to=None, nonce="n")
        letters = [NewOutboxMessage("edit", message, packed(MessageContent(texts[0])))]
        letters += [NewOutboxMessage("send", content=packed(MessageContent(text))) for text in texts[1:]]
        rows = await delivery.outbox.put("bot", "p", letters, language="zh")
        await delivery.outbox.attempting(rows[0].id, "edit", message)
        await delivery.outbox.attempting(rows[1].id, "send", "")
        await delivery.outbox.pending(rows[2].id, "lost", doubtful=True)
    async with place.program(ScriptedBackend()) as delivery:
        await delivery.resume()
        await delivery.resume()
    mark = say("zh", "maybe_duplicate")
    assert place.shown() == ["one", f"{mark}\ntwo", f"{mark}\nthree", "four"]


@virtually
async def test_what_a_crash_left_is_answered_before_what_comes_then(place: Place) -> None:
    """Behind a newer message it would pass for one that was answered together with that."""
    async with place.program(EchoBackend(str.upper, pauses=lambda: 100.0), drain=1.0) as delivery:
        await delivery.accept(said("one", "1"))
    async with place.program(EchoBackend(str.upper)) as delivery:
        await delivery.accept(said("two", "2"))
        await delivery.resume()
    assert place.shown() == ["ONE", "TWO"]


@virtually
async def test_a_shutdown_waits_for_answers_that_are_nearly_done(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 0.5), drain=60.0) as delivery:
        await delivery.accept(said("x: 10 words"))
    assert place.shown() == [echo("x: 10 words")]
    assert place.service.clock.time() < 61


@virtually
async def test_an_answer_that_a_shutdown_cut_goes_on_where_it_was_in_the_same_message(place: Place) -> None:
    async with place.program(EchoBackend(pauses=lambda: 1.0), drain=8.0) as delivery:
        await delivery.accept(said("x: 40 words"))
    (cut,) = place.shown()
    assert cut.startswith("x.0 and more")
    assert place.service.clock.time() < 10
    backend = ScriptedBackend("and now the end")
    async with place.program(backend) as delivery:
        await delivery.resume()
    (text,) = place.shown()
    assert text.startswith(cut)
    assert text.endswith("and now the end")
    async with place.program(ScriptedBackend("never")) as delivery:
        await delivery.resume()
        assert await Queue(delivery.bot.services.store).entries() == []
    assert place.shown() == [text]


@virtually
async def test_an_answer_that_was_kept_but_not_brought_is_brought_without_the_model(place: Place) -> None:
    async with place.program(ScriptedBackend("the answer")) as delivery:
        # As after a crash between the end of the answer and the outbox.
        received = await delivery.inbox.add("bot", said("hello"))
        assert received is not None
        await delivery.inbox.begin(received.id)
        turn = await delivery.bot.receive(said("hello"))
        assert isinstance(turn, ReplyStream)
        async for _ in turn:
            pass
    backend = ScriptedBackend("another answer")
    async with place.program(backend) as delivery:
        await delivery.resume()
    assert place.shown() == ["the answer"]
    assert backend.requests == []


@virtually
async def test_a_message_that_ends_the_program_again_and_again_is_given_up(place: Place) -> None:
    async with place.program(ScriptedBackend()) as delivery:
        received = await delivery.inbox.add("bot", said("poison"))
        assert received is not None
        for _ in range(5):
            await delivery.inbox.begin(received.id)
    backend = ScriptedBackend("never")
    async with place.program(backend) as delivery:
        await delivery.resume()
        await delivery.accept(said("hello", "2"))
        await place.service.clock.sleep(5)
        assert len(place.shown()) == 2
        (entry,) = await Queue(delivery.bot.services.store).entries()
        assert (entry.id, entry.state, entry.text) == ("in-1", "dead", "poison")
    assert place.shown() == [say("en", "gave_up", count=5), "never"]
    assert len(backend.requests) == 1


@virtually
async def test_messages_that_saw_several_crashes_are_answered_one_by_one(place: Place) -> None:
    async with place.program(ScriptedBackend()) as delivery:
        for i in range(4):
            received = await delivery.inbox.add("bot", said(f"m{i}: 5 words", str(i), Channel(f"c{i}")))
            assert received is not None
            for _ in range(0 if i == 3 else 2):
                await delivery.inbox.begin(received.id)
    async with place.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.resume()
        running = []
        for _ in range(20):
            await place.service.clock.sleep(1)
            open_now = await delivery.inbox.open("bot")
            running.append([each.channel for each in open_now if each.state == "running" and each.attempts == 3])
    assert max(map(len, running)) == 1
    assert [place.shown(f"c{i}") for i in range(4)] == [[echo(f"m{i}: 5 words")] for i in range(4)]
    sent = [(call.time, call.chat) for call in place.service.calls if call.part is not None and not call.part.live]
    assert [chat for _, chat in sorted(sent)] == ["c0", "c3", "c1", "c2"]


@virtually
async def test_what_the_queue_puts_back_is_taken_up_by_a_running_program(place: Place) -> None:
    down = True

    def fault(call: ServiceCall) -> Fault | None:
        return Fault("gone") if down and call.route == "send" else None

    place.service.fault = fault
    async with place.program(ScriptedBackend("the answer")) as delivery:
        await delivery.resume()
        queue = Queue(delivery.bot.services.store)
        await delivery.accept(said("hello"))
        await place.service.clock.sleep(100)
        (entry,) = await queue.entries()
        assert (entry.state, entry.error) == ("failed", "bot was blocked by the user")
        down = False
        await queue.retry(entry.id)
        await place.service.clock.sleep(SWEEP_SECONDS)
        assert await queue.entries() == []
    assert place.shown() == ["the answer"]


@virtually
async def test_a_message_is_not_taken_in_if_it_can_not_be_stored(place: Place) -> None:
    async with place.program(ScriptedBackend("x")) as delivery:
        store = delivery.bot.services.store
        await store.aclose()
        with pytest.raises((StoreError, RuntimeError)):
            await delivery.accept(said("hello"))
        assert place.service.calls == []
        delivery.bot.services.store = await type(store).open(place.folder / "store.sqlite3")


# --- long answers, and services of all kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [5, 100])
def test_thirty_thousand_characters_arrive_whole(tmp_path: Path, parts: int) -> None:
    source = answer(30_000)
    limits = Limits(4096, render=as_entities, parts=parts)
    place = Place(tmp_path, limits)

    async def run() -> None:
        async with place.program(EchoBackend(lambda question: source, pauses=lambda: 0.01)) as delivery:
            await delivery.accept(said("tell me all"))

    run_virtually(run())
    assert place.service.violations == []
    buttons = (Button("regenerate", "Answer again"), Button("branch", "Branch from here"))
    expected = split_answer(source.strip(), limits, buttons=buttons)
    assert list(place.service.messages["p"].values()) == list(expected)
    assert (expected[-1].file is not None) == (parts == 5)


@virtually
async def test_a_stubborn_service_is_sent_plain_text_then_an_apology(place: Place) -> None:
    place.service = FakeService(
        Limits(500, render=as_entities, first_preview=1e9),
        lambda call: Fault("refused") if call.part and (call.part.entities or "never" in call.part.text) else None,
    )
    async with place.program(ScriptedBackend("**bold**", "never this", "**never**")) as delivery:
        for id in "123":
            await delivery.accept(said("hello", id))
    apology = say("en", "part_refused", why="can't parse entities")
    assert place.shown() == ["bold", apology, apology]


@virtually
async def test_commands_of_plugins_may_take_their_time(place: Place) -> None:
    async def slow(context: CommandContext, argument: str) -> str:
        await place.service.clock.sleep(30)
        return "slowly"

    plugin = plugin_of(chat_commands=[ChatCommand("slow", "is slow", "慢", slow)])
    async with place.program(ScriptedBackend("x"), plugins=[plugin]) as delivery:
        await delivery.accept(said("/slow"))
    assert place.shown() == ["slowly"]
