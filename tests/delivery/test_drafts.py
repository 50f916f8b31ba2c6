"""Where previews are drafts: the answer is shown growing, and nothing is sent before it is whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from chatbridge import Chunk, Limits
from chatbridge.delivery.streamed_message import StreamedMessage
from chatbridge.testing import FakeService, Fault

from .echo import EchoBackend, echo
from .harness import Harness, said, virtually

LIMITS = Limits(2000, previews="draft")


def test_drafts_show_the_answer_growing_until_it_is_sent(tmp_path: Path) -> None:
    @virtually
    async def talk(harness: Harness) -> None:
        async with harness.program(EchoBackend(pauses=lambda: 0.7)) as delivery:
            await delivery.accept(said("x: 10 words"))

    harness = Harness(tmp_path, LIMITS)
    talk(harness)
    *drafts, final = [call for call in harness.service.calls if call.content is not None]
    texts = [call.content.text for call in drafts if call.content is not None]
    assert {call.route for call in drafts} == {"draft"}
    assert len({call.message_id for call in drafts}) == 1
    assert len(texts) > 5
    assert all(before != after and after.startswith(before) for before, after in pairwise(texts))
    assert final.route == "send"
    assert harness.shown() == [echo("x: 10 words")]


def test_a_draft_that_has_nothing_new_to_show_is_not_made(tmp_path: Path) -> None:
    @virtually
    async def talk(harness: Harness) -> None:
        async with harness.program(EchoBackend(pauses=lambda: 30.0)) as delivery:
            await delivery.accept(said("x: 1 words"))

    harness = Harness(tmp_path, LIMITS)
    talk(harness)
    texts = [call.content.text for call in harness.service.calls if call.content is not None]
    assert len(texts) == len(set(texts[:-1])) + 1


def test_a_chat_that_takes_no_drafts_is_shown_messages(tmp_path: Path) -> None:
    @virtually
    async def talk(harness: Harness) -> None:
        harness.service.fault = lambda call: Fault("rejected") if call.route == "draft" else None
        async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
            await delivery.accept(said("x: 20 words"))

    harness = Harness(tmp_path, LIMITS)
    talk(harness)
    routes = [call.route for call in harness.service.calls if call.content is not None]
    assert routes[:3] == ["draft", "send", "edit"]
    assert routes.count("draft") == 1
    assert harness.shown() == [echo("x: 20 words")]


async def test_one_draft_shows_all_there_is_and_asks_for_no_more() -> None:
    service, streamed = FakeService(LIMITS), StreamedMessage(LIMITS)
    streamed.feed(Chunk("hello"))
    for _ in range(2):
        assert not await streamed.step(service.chat("p"))
    assert [call.content and call.content.text for call in service.calls] == ["hello"]
