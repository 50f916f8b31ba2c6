"""Whole conversations with a fake service that fails in every way, at random moments, in a time that is made up.

From the inbox through the bridge and the rate limiter to what people see; each example is the same each time it is run.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chatbridge import Author, Channel, Message
from chatbridge.delivery.chat import Budget, Limits
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.delivery import Delivery
from chatbridge.store.queue import Queue
from chatbridge.testing import FakeService, Fault, ServiceCall, bridge_with, run_virtually, scripted
from chatbridge.texts import say

from .echo import EchoBackend, echo

EXAMPLES = 500 if os.environ.get("CHATBRIDGE_FULL") == "1" else 30
LENGTH = 150
UNKNOWN = ("OutcomeUnknown", "ConnectionResetError")
MARK = say("en", "maybe_duplicate")
faults = st.lists(
    st.one_of(
        st.none(),
        st.builds(
            Fault,
            st.sampled_from(["", "penalty", "rejected", "not_found", "unreachable", "lost", "reset", "bug"]),
            seconds=st.none() | st.sampled_from([0.5, 3.0, 40.0]),
            scope=st.sampled_from(["route", "chat", "global"]),
            slow=st.sampled_from([0.0, 0.0, 0.3, 5.0]),
        ),
    ),
    max_size=40,
)


def asked(chat: str, number: int, words: int) -> Message:
    return Message(f"{chat}-{number}", Channel(chat), Author("a", "Ann"), f"message {number} of {chat}: {words} words")


@dataclass
class Outcome:
    """What a run left: the service, how many calls delivery counted, and the texts that it gave up."""

    service: FakeService
    counted: int
    given_up: list[str]


async def talk(service: FakeService, folder: Path, messages: list[tuple[float, Message]], seed: int) -> Outcome:
    """People write at certain times; all is answered in the end, or inbox and outbox say why not."""
    chance = random.Random(seed)
    backend = EchoBackend(pauses=lambda: chance.choice([0.0, 0.05, 0.3, 2.0]))
    async with bridge_with(scripted(backend), folder / "store.sqlite3") as bridge:
        delivery = Delivery(bridge.bot("bot"), service.chat, service.limits, budget=Budget(30, 1.0), drain=1e9)
        async with delivery:
            for time, message in messages:
                await service.clock.sleep(max(time - service.clock.time(), 0))
                assert await delivery.accept(message)
                assert not await delivery.accept(message)
        entries = await Queue(bridge.store).entries()
        assert all(entry.given_up for entry in entries)
    return Outcome(service, sum(delivery.calls.values()), [entry.text for entry in entries])


def check(outcome: Outcome, messages: list[Message]) -> None:
    """Whether people saw each answer once and whole, or what became of it."""
    service = outcome.service
    assert service.violations == []
    assert outcome.counted == len(service.calls)
    may_repeat = not service.limits.idempotent
    for chat in {message.channel.id for message in messages}:
        shown = service.shown(chat)
        expected = [
            content.text
            for message in messages
            if message.channel.id == chat
            for content in split_answer(echo(message.text), service.limits)
        ]
        seen = Counter(shown)
        unknown = [call for call in service.calls if call.chat == chat and call.outcome in UNKNOWN]
        for text in expected:
            copies = seen[f"{MARK}\n{text}"]
            assert seen[text] <= 1, f"a silent duplicate of {text!r}"
            assert copies == 0 or (may_repeat and unknown), "a mark without a reason"
            if seen[text] + copies == 0:
                assert text in outcome.given_up, f"lost: {text!r}"
        # In their order, each where it first was seen.
        order = [text.removeprefix(f"{MARK}\n") for text in shown]
        positions = [order.index(text) for text in expected if text in order]
        assert positions == sorted(positions)
        # What else is there: error notices, and placeholders whose sending may or may not have gone well.
        others = [text for text in order if text not in expected]
        notices = [text for text in others if "is missing here" in text]
        strays = [text for text in others if text not in notices]
        assert len(notices) <= len(outcome.given_up)
        # ... and what the service does not let us take away.
        here = [call for call in service.calls if call.chat == chat]
        refused = [call for call in here if call.route == "delete" and call.outcome == "ContentRejected"]
        gone = [call for call in service.calls if call.outcome == "NotFound"]
        assert len(strays) <= len(unknown) + len(gone) + len(refused), strays
        finished: set[str] = set()
        for call in service.calls:
            if call.chat == chat and call.content is not None and call.outcome == "ok":
                assert not (call.content.preview and call.message_id in finished), "a preview after the final"
                if not call.content.preview:
                    finished.add(call.message_id)


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)
@example(  # two chats whose calls cross the answers that tell of a penalty
    faults=[*[None] * 10, Fault("penalty", scope="global"), Fault("penalty", scope="global")],
    plan=[*[("x", 0.0, 1)] * 4, ("y", 0.0, 10)],
    seed=0,
    idempotent=False,
    previews="edit",
)
@given(
    faults=faults,
    plan=st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 20), st.integers(1, 30)), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    idempotent=st.booleans(),
    previews=st.sampled_from(["edit", "draft", "none"]),
)
def test_each_message_is_answered_once_or_visibly_not(
    tmp_path_factory: pytest.TempPathFactory, faults: list, plan: list, seed: int, idempotent: bool, previews: str
) -> None:
    limits = Limits(LENGTH, idempotent=idempotent, previews=previews, budget=Budget(5, 5.0), max_messages=50)  # type: ignore[arg-type]
    left = iter(faults)
    run_once(tmp_path_factory.mktemp("run"), limits, lambda call: next(left, None), plan, seed)


def run_once(
    folder: Path, limits: Limits, fault: Callable[[ServiceCall], Fault | None], plan: list, seed: int = 1
) -> Outcome:
    plan = sorted(plan, key=lambda item: item[1])
    messages = [(time, asked(chat, number, words)) for number, (chat, time, words) in enumerate(plan)]
    service = FakeService(limits, fault)
    outcome = run_virtually(talk(service, folder, messages, seed))
    check(outcome, [message for _, message in messages])
    return outcome


KINDS = ["penalty", "rejected", "not_found", "unreachable", "lost", "reset", "bug"]


@pytest.mark.parametrize("route", ["send", "edit", "typing"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fault_matrix(tmp_path: Path, kind: str, route: str) -> None:
    """Each kind of failure, once at each of the first calls of each kind."""
    for at in range(4):
        left = [at]

        def fault(call: ServiceCall, left: list[int] = left) -> Fault | None:
            if call.route != route:
                return None
            left[0] -= 1
            return Fault(kind, 7.0) if left[0] == -1 else None  # type: ignore[arg-type]

        folder = tmp_path / str(at)
        folder.mkdir()
        outcome = run_once(
            folder, Limits(LENGTH, max_messages=50), fault, [("x", 0.0, 20), ("x", 1.0, 3), ("y", 0.5, 10)]
        )
        refused = kind in ("rejected", "not_found") and route == "send"
        assert len(outcome.given_up) <= (1 if refused else 0)


def test_previews_show_the_answer_growing_and_are_few(tmp_path: Path) -> None:
    service = run_once(tmp_path, Limits(2000, budget=Budget(5, 5.0)), lambda call: None, [("x", 0.0, 150)]).service
    previews = [call for call in service.calls if call.content is not None and call.content.preview]
    assert previews[0].route == "send"
    assert previews[0].content is not None
    assert previews[0].content.text == "…"
    by_message: dict[str, list[int]] = {}
    for call in previews:
        assert call.content is not None
        by_message.setdefault(call.message_id, []).append(len(call.content.text))
    assert all(lengths == sorted(lengths) for lengths in by_message.values())
    assert len(previews) > 20
    seconds = service.calls[-1].time - service.calls[0].time
    assert len(previews) <= seconds / 5 * 3 + 3  # previews use three of the five calls
    # Each finished message is there at once, since it was shown already; nothing is sent twice.
    assert all(not content.preview for content in service.messages["x"].values())
    assert len(service.messages["x"]) == len(by_message)


def test_a_quick_answer_is_shown_once_and_finished(tmp_path: Path) -> None:
    service = run_once(tmp_path, Limits(2000), lambda call: None, [("x", 0.0, 1)]).service
    assert [call.route for call in service.calls] in (["typing", "send"], ["typing", "send", "edit"])


def test_a_service_that_is_down_for_long_is_waited_for(tmp_path: Path) -> None:
    def down(call: ServiceCall) -> Fault | None:
        return Fault("unreachable") if 5 < call.time < 600 else None

    outcome = run_once(tmp_path, Limits(LENGTH, max_messages=50), down, [("x", 0.0, 30), ("y", 3.0, 30)])
    assert outcome.given_up == []
    assert len([call for call in outcome.service.calls if 5 < call.time < 600]) < 40
