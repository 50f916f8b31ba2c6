"""A bot's delivery from message to answer: what is said in each case, and how it goes on after an interruption."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
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
from chatbridge.delivery.chat import Limits, MessageContent
from chatbridge.delivery.content_json import to_json
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.delivery import SWEEP_SECONDS
from chatbridge.delivery.telegram_entities import as_entities
from chatbridge.errors import StoreError
from chatbridge.store import NewOutboxMessage, Outbox
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
from chatbridge.types import FinishReason

from .echo import EchoBackend, echo
from .harness import GROUP, PRIVATE, Harness, said, virtually
from .texts import answer


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@virtually
async def test_an_answer_a_command_and_a_wrong_command(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("**Good** day.")) as delivery:
        assert await delivery.accept(said("hello", "1"))
        await delivery.accept(said("/help", "2"))
        await delivery.accept(said("/nonsense", "3", language="zh"))
    shown = harness.shown()
    assert len(shown) == 3
    assert "**Good** day." in shown
    assert any("/regenerate" in text for text in shown)
    assert any("/nonsense" in text for text in shown)


@virtually
async def test_replies_point_to_their_message_in_groups_alone(harness: Harness) -> None:
    replies = []

    class Listening:
        def __init__(self, id: str) -> None:
            self.id = id

        async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
            replies.append((self.id, reply_to))
            return "m"

        async def typing(self) -> None: ...

    async with harness.program(EchoBackend(), open_chat=Listening) as delivery:
        await delivery.accept(said("x: 200 words", "11", PRIVATE))
        await delivery.accept(said("x: 200 words", "12", GROUP))
    # The first of an answer's messages alone is a reply.
    assert [reply for chat, reply in replies if chat == "g"][:2] == ["12", None]
    assert {reply for chat, reply in replies if chat == "p"} == {None}


@virtually
async def test_errors_are_told_and_what_came_before_them_is_kept(harness: Harness) -> None:
    async with harness.program(
        ScriptedBackend(BackendError("the model is on holiday"), ["half an ", "answer"])
    ) as delivery:
        await delivery.accept(said("one", "1"))
        await harness.service.clock.sleep(5)
        assert len(harness.shown()) == 1
        await delivery.accept(said("two", "2"))
    told, answer = harness.shown()
    assert told.startswith(say("en", "trouble_model"))
    assert answer == "half an answer"


class FailingBackend(ScriptedBackend):
    """Says a few words, then something happens that nobody expected."""

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:  # type: ignore[override]
        yield Chunk("a few words ")
        raise ZeroDivisionError("of all things")


@virtually
async def test_a_bug_is_told_in_a_friendly_line(harness: Harness) -> None:
    async with harness.program(FailingBackend()) as delivery:
        await delivery.accept(said("one", language="en"))
    (text,) = harness.shown()
    assert text.startswith(f"a few words\n\n{say('en', 'trouble_inside')} ")
    assert "division" not in text.lower().replace("of all things", "")


class ThinkingBackend(ScriptedBackend):
    async def generate(self, request: Request) -> AsyncIterator[Chunk]:  # type: ignore[override]
        yield Chunk("hm,\nwell", thinking=True)
        yield Chunk("yes")
        yield Chunk(finish=Finish("end", Reply("yes"), Usage()))


@virtually
async def test_thoughts_are_a_quote_before_the_answer(harness: Harness) -> None:
    async with harness.program(ThinkingBackend()) as delivery:
        await delivery.accept(said("one"))
    assert harness.shown() == ["> hm,\n> well\n\nyes"]


@virtually
async def test_a_model_that_says_nothing_is_not_met_with_silence(harness: Harness) -> None:
    async with harness.program(ScriptedBackend([])) as delivery:
        await delivery.accept(said("one"))
    assert harness.shown() == [say("en", "said_nothing")]


class ThoughtfulBackend(ScriptedBackend):
    """Says nothing but to itself, and ends for a reason."""

    def __init__(self, reason: FinishReason, thoughts: str) -> None:
        super().__init__()
        self._end = Finish(reason, Reply("", thoughts=thoughts), Usage(generated=512))

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        if request.show_thinking and self._end.reply.thoughts:
            yield Chunk(self._end.reply.thoughts, thinking=True)
        yield Chunk(finish=self._end)


@pytest.mark.parametrize("thinking", ["hide", "show", "fold"])
@pytest.mark.parametrize(
    ("reason", "thoughts", "told"),
    [
        ("length", "", say("en", "thought_to_limit", count=512)),
        ("length", "hm", say("en", "thought_to_limit", count=512)),
        ("end", "hm", say("en", "thought_only")),
        ("end", "", say("en", "said_nothing")),
    ],
)
def test_an_answer_of_thoughts_alone_says_so(
    harness: Harness, thinking: str, reason: FinishReason, thoughts: str, told: str
) -> None:
    async def main() -> None:
        async with harness.program(ThoughtfulBackend(reason, thoughts), settings={"thinking": thinking}) as delivery:
            await delivery.accept(said("one"))

    run_virtually(main())
    shown = f"> {thoughts}\n\n" if thoughts and thinking != "hide" else ""
    assert harness.shown() == [shown + told]


@virtually
async def test_stopping_an_answer_that_is_shown_and_one_that_is_not(harness: Harness) -> None:
    clock = harness.service.clock
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 50 words", "1"))
        await delivery.accept(said("y: 50 words", "2"))
        await clock.sleep(10)
        dialogue = delivery.bot.dialogue(PRIVATE)
        assert dialogue.stop()
        assert len(harness.shown()) == 1
        await clock.sleep(0.1)
    assert not dialogue.busy


@virtually
async def test_messages_that_are_not_for_the_bot_are_forgotten(harness: Harness) -> None:
    backend = ScriptedBackend("x")
    async with harness.program(backend) as delivery:
        other = Message("1", GROUP, Author("b", "Bot", is_bot=True), "hello")
        await delivery.accept(other)
        assert not await delivery.accept(other)
    assert harness.service.calls == []
    with sqlite3.connect(harness.folder / "store.sqlite3") as raw:
        assert raw.execute("SELECT state, message FROM inbox").fetchall() == [("done", "")]
    raw.close()


@virtually
async def test_buttons_and_texts_of_our_own(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two")) as delivery:
        await delivery.accept(said("hello"))
        await harness.service.clock.sleep(5)
        assert harness.shown() == ["one"]
        await delivery.answer(delivery.bot.dialogue(PRIVATE).regenerate(), PRIVATE, language="en")
        assert harness.shown() == ["one", "two"]
        await delivery.answer(Notice("Done."), PRIVATE)
        await delivery.say(PRIVATE, "Hello!")
    assert harness.shown() == ["one", "two", "Done.", "Hello!"]


@virtually
async def test_messages_of_a_chat_are_taken_in_their_order(harness: Harness) -> None:
    backend = EchoBackend(lambda question: question)
    async with harness.program(backend) as delivery:
        await asyncio.gather(*(delivery.accept(said(f"number {i}", str(i))) for i in range(20)))
    assert harness.shown() == [f"number {i}" for i in range(20)]


# --- interruptions ---------------------------------------------------------------------------------------------------


@virtually
async def test_what_may_have_been_delivered_is_marked_after_a_crash_and_the_rest_is_not(harness: Harness) -> None:
    texts = ("one", "two", "three", "four")
    async with harness.program(ScriptedBackend()) as delivery:
        shown = harness.service.chat("p")
        message = await shown.send(MessageContent("…"), reply_to=None, nonce="n")
        messages = [NewOutboxMessage("edit", message, to_json(MessageContent(texts[0])))]
        messages += [NewOutboxMessage("send", content=to_json(MessageContent(text))) for text in texts[1:]]
        rows = await delivery.outbox.put("bot", "p", messages, language="zh")
        await delivery.outbox.attempting(rows[0].id, "edit", message)
        await delivery.outbox.attempting(rows[1].id, "send", "")
        await delivery.outbox.pending(rows[2].id, "lost", doubtful=True)
    async with harness.program(ScriptedBackend()) as delivery:
        await delivery.resume()
        await delivery.resume()
    mark = say("zh", "maybe_duplicate")
    assert harness.shown() == ["one", f"{mark}\ntwo", f"{mark}\nthree", "four"]


@virtually
async def test_what_a_crash_left_is_answered_before_what_comes_then(harness: Harness) -> None:
    """Behind a newer message it would pass for one that was answered together with that."""
    async with harness.program(EchoBackend(str.upper, pauses=lambda: 100.0), drain=1.0) as delivery:
        await delivery.accept(said("one", "1"))
    async with harness.program(EchoBackend(str.upper)) as delivery:
        await delivery.accept(said("two", "2"))
        await delivery.resume()
    assert harness.shown() == ["ONE", "TWO"]


@virtually
async def test_a_shutdown_waits_for_answers_that_are_nearly_done(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 0.5), drain=60.0) as delivery:
        await delivery.accept(said("x: 10 words"))
    assert harness.shown() == [echo("x: 10 words")]
    assert harness.service.clock.time() < 61


@virtually
async def test_an_answer_that_a_shutdown_cut_goes_on_where_it_was_in_the_same_message(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0), drain=8.0) as delivery:
        await delivery.accept(said("x: 40 words"))
    (cut,) = harness.shown()
    assert cut.startswith("x.0 and more")
    assert harness.service.clock.time() < 10
    backend = ScriptedBackend("and now the end")
    async with harness.program(backend) as delivery:
        await delivery.resume()
    (text,) = harness.shown()
    assert text.startswith(cut)
    assert text.endswith("and now the end")
    async with harness.program(ScriptedBackend("never")) as delivery:
        await delivery.resume()
        assert await Queue(delivery.bot.services.store).entries() == []
    assert harness.shown() == [text]


@virtually
async def test_an_answer_that_was_kept_but_not_brought_is_brought_without_the_model(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("the answer")) as delivery:
        # As after a crash between the end of the answer and the outbox.
        item = await delivery.inbox.add("bot", said("hello"))
        assert item is not None
        await delivery.inbox.begin(item.id)
        turn = await delivery.bot.receive(said("hello"))
        assert isinstance(turn, ReplyStream)
        async for _ in turn:
            pass
    backend = ScriptedBackend("another answer")
    async with harness.program(backend) as delivery:
        await delivery.resume()
    assert harness.shown() == ["the answer"]
    assert backend.requests == []


@virtually
async def test_a_message_that_ends_the_program_again_and_again_is_given_up(harness: Harness) -> None:
    async with harness.program(ScriptedBackend()) as delivery:
        item = await delivery.inbox.add("bot", said("poison"))
        assert item is not None
        for _ in range(5):
            await delivery.inbox.begin(item.id)
    backend = ScriptedBackend("never")
    async with harness.program(backend) as delivery:
        await delivery.resume()
        await delivery.accept(said("hello", "2"))
        await harness.service.clock.sleep(5)
        assert len(harness.shown()) == 2
        (entry,) = await Queue(delivery.bot.services.store).entries()
        assert (entry.id, entry.state, entry.text) == ("in-1", "dead", "poison")
    assert harness.shown() == [say("en", "gave_up", count=5), "never"]
    assert len(backend.requests) == 1


@virtually
async def test_a_message_that_ended_the_program_four_times_is_tried_a_fifth_time(harness: Harness) -> None:
    async with harness.program(ScriptedBackend()) as delivery:
        item = await delivery.inbox.add("bot", said("hello"))
        assert item is not None
        for _ in range(4):
            await delivery.inbox.begin(item.id)
    async with harness.program(ScriptedBackend("there you are")) as delivery:
        await delivery.resume()
    assert harness.shown() == ["there you are"]


@virtually
async def test_messages_that_saw_several_crashes_are_answered_one_by_one(harness: Harness) -> None:
    async with harness.program(ScriptedBackend()) as delivery:
        for i in range(4):
            item = await delivery.inbox.add("bot", said(f"m{i}: 5 words", str(i), Channel(f"c{i}")))
            assert item is not None
            for _ in range(0 if i == 3 else 2):
                await delivery.inbox.begin(item.id)
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.resume()
        running = []
        for _ in range(20):
            await harness.service.clock.sleep(1)
            open_now = await delivery.inbox.open("bot")
            running.append([each.channel for each in open_now if each.state == "running" and each.attempts == 3])
    assert max(map(len, running)) == 1
    assert [harness.shown(f"c{i}") for i in range(4)] == [[echo(f"m{i}: 5 words")] for i in range(4)]
    sent = [
        (call.time, call.chat)
        for call in harness.service.calls
        if call.content is not None and not call.content.preview
    ]
    assert [chat for _, chat in sorted(sent)] == ["c0", "c3", "c1", "c2"]


@virtually
async def test_what_the_queue_puts_back_is_taken_up_by_a_running_program(harness: Harness) -> None:
    down = True

    def fault(call: ServiceCall) -> Fault | None:
        return Fault("not_found") if down and call.route == "send" else None

    harness.service.fault = fault
    async with harness.program(ScriptedBackend("the answer")) as delivery:
        await delivery.resume()
        queue = Queue(delivery.bot.services.store)
        await delivery.accept(said("hello"))
        await harness.service.clock.sleep(100)
        (entry,) = await queue.entries()
        assert (entry.state, entry.error) == ("failed", "bot was blocked by the user")
        down = False
        await queue.retry(entry.id)
        await harness.service.clock.sleep(SWEEP_SECONDS)
        assert await queue.entries() == []
    assert harness.shown() == ["the answer"]


@virtually
async def test_what_waits_and_can_not_be_read_is_put_aside_and_the_rest_goes_out(harness: Harness) -> None:
    async with harness.program(ScriptedBackend()) as delivery:
        store = delivery.bot.services.store
        odd = to_json(MessageContent("good")).replace('"good"', "5")
        contents = ["{}", "no JSON", odd, to_json(MessageContent("good"))]
        await Outbox(store).put("bot", "p", [NewOutboxMessage("send", content=content) for content in contents])
        await delivery.resume()
        await delivery.settled()
        entries = await Queue(store).entries()
        assert [(entry.state, entry.error[:6]) for entry in entries] == [("damaged", "part: ")] * 3
    assert harness.shown() == ["good"]


@virtually
async def test_a_message_is_not_taken_in_if_it_can_not_be_stored(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("x")) as delivery:
        await delivery.resume()
        with sqlite3.connect(harness.folder / "store.sqlite3") as raw:
            raw.execute("DROP TABLE inbox")
        raw.close()
        with pytest.raises(StoreError):
            await delivery.accept(said("hello"))
    assert harness.service.calls == []


# --- long answers, and services of all kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("max_messages", [5, 100])
def test_thirty_thousand_characters_arrive_whole(tmp_path: Path, max_messages: int) -> None:
    source = answer(30_000)
    limits = Limits(4096, render=as_entities, max_messages=max_messages)
    harness = Harness(tmp_path, limits)

    async def run() -> None:
        async with harness.program(EchoBackend(lambda question: source, pauses=lambda: 0.01)) as delivery:
            await delivery.accept(said("tell me all"))

    run_virtually(run())
    assert harness.service.violations == []
    buttons = (Button("regenerate", "Answer again"), Button("branch", "Branch from here"))
    expected = split_answer(source.strip(), limits, buttons=buttons)
    assert list(harness.service.messages["p"].values()) == list(expected)
    assert (expected[-1].file is not None) == (max_messages == 5)


@virtually
async def test_a_stubborn_service_is_sent_plain_text_then_an_error_notice(harness: Harness) -> None:
    harness.service = FakeService(
        Limits(500, render=as_entities, first_preview=1e9),
        lambda call: (
            Fault("rejected") if call.content and (call.content.entities or "never" in call.content.text) else None
        ),
    )
    async with harness.program(ScriptedBackend("**bold**", "never this", "**never**")) as delivery:
        for id in "123":
            await delivery.accept(said("hello", id))
    notices = [f"{say('en', 'part_refused')} {say('en', 'reference', reference=f'out-{n}')}" for n in (2, 3)]
    assert harness.shown() == ["bold", *notices], "the service's own words are for the log"


@virtually
async def test_commands_of_plugins_may_take_their_time(harness: Harness) -> None:
    async def slow(context: CommandContext, argument: str) -> str:
        await harness.service.clock.sleep(30)
        return "slowly"

    plugin = plugin_of(chat_commands=[ChatCommand("slow", "is slow", "慢", slow)])
    async with harness.program(ScriptedBackend("x"), plugins=[plugin]) as delivery:
        await delivery.accept(said("/slow"))
    assert harness.shown() == ["slowly"]
