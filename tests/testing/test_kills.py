"""The harness that kills programs, held against one that behaves, and such as lose, double or mix up answers."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from functools import partial

import pytest

from chatbridge.testing import BusyChat, KillReport, check_answers, kill_at_random, kills
from chatbridge.testing.wire.changes import Changes
from chatbridge.texts import say

MARK = say("zh", "maybe_duplicate")
CHATS = 3


class Service:
    """A few chats. What was asked stays in `asked` until a program answers it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked: list[tuple[int, str]] = []
        self.shown: list[list[str]] = [[] for _ in range(CHATS)]
        self.kills = 0
        self._changes = Changes()
        self.until = self._changes.until

    async def say(self, chat: int, text: str) -> None:
        self.asked.append((chat, text))
        self._changes.tell()

    def show(self, chat: int, text: str) -> None:
        self.calls.append(text)
        self.shown[chat].append(text)
        self._changes.tell()


Act = Callable[[Service, int, str], None]


class Program:
    """Answers what was asked, by `act` once there was a kill. It ends by itself with `code`, where that is given."""

    def __init__(self, service: Service, act: Act, code: int | None = None) -> None:
        self._service, self._act, self._code = service, act, code
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            await self._service.until(lambda: self._service.asked)
            chat, text = self._service.asked.pop(0)
            act = self._act if self._service.kills else Service.show
            act(self._service, chat, text.upper())

    @property
    def ended(self) -> bool:
        return self._task.done()

    def kill(self) -> None:
        if self.ended:
            raise ProcessLookupError
        self._service.kills += 1
        self._task.cancel()

    async def wait(self) -> int:
        await asyncio.gather(self._task, return_exceptions=True)
        return -signal.SIGKILL if self._code is None else self._code


async def kill(act: Act = Service.show, code: int | None = None) -> KillReport:
    """What comes of five kills of such a program."""
    service = Service()
    chats = [
        BusyChat(partial(service.say, number), partial(list.copy, service.shown[number])) for number in range(CHATS)
    ]
    running: list[Program] = []

    async def start() -> Program:
        assert all(program.ended for program in running), "two programs at once"
        running.append(Program(service, act, code))
        return running[-1]

    try:
        return await kill_at_random(service, chats, start, kills=5)
    finally:
        assert all(program.ended for program in running), "a program was left running"


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")


async def test_a_program_that_behaves_passes() -> None:
    found = await kill()
    assert (found.kills, found.marked, found.doubled) == (5, 0, 0)
    assert found.asked >= CHATS + 5 * 5


async def test_marks_are_counted_and_those_that_were_needed() -> None:
    def cautious(service: Service, chat: int, text: str) -> None:
        number = int(text.split()[1])
        if number % 3 != 1:
            service.show(chat, text)
        if number % 3:
            service.show(chat, f"{MARK}\n{text}")

    found = await kill(cautious)
    assert 0 < found.doubled < found.marked < found.asked


def lost_at_last(service: Service, chat: int, text: str) -> None:
    """Each is there, until it is taken away with the next."""
    service.show(chat, text)
    if len(service.shown[chat]) > 4:
        del service.shown[chat][2]


def twice(service: Service, chat: int, text: str) -> None:
    service.show(chat, text)
    service.show(chat, text)


def swapped(service: Service, chat: int, text: str) -> None:
    service.show(chat, text)
    service.shown[chat][-2:] = service.shown[chat][-2:][::-1]


def halved(service: Service, chat: int, text: str) -> None:
    service.show(chat, text[: len(text) // 2])
    service.show(chat, text)


@pytest.mark.parametrize(
    ("act", "complaint"),
    [(twice, "a silent double of 'MESSAGE"), (swapped, "out of order"), (halved, "nobody asked for {'MESSAGE")],
)
async def test_a_program_that_does_not_is_found_out(act: Act, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await kill(act)


@pytest.mark.parametrize("act", [lambda service, chat, text: None, lost_at_last])
async def test_a_program_that_gets_stuck_is_told_of_with_what_is_outstanding(
    act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "PATIENCE", 0.05)
    with pytest.raises(TimeoutError, match=r"(calls more|all answers); answers outstanding in each chat: \["):
        await kill(act)


async def test_a_program_that_ends_by_itself_is_told_of() -> None:
    with pytest.raises(AssertionError, match="ended by itself"):
        await kill(code=1)


def test_a_chat_is_judged() -> None:
    assert check_answers(["A", "B"], ["A", "B"]) == (0, 0)
    assert check_answers(["A", f"{MARK}\nA", "B", f"{MARK}\nC"], ["A", "B", "C"]) == (2, 1)
    assert check_answers(["…", "A"], ["A"], strays=["…"]) == (0, 0)
    assert check_answers(["⚠ A\nB"], ["⚠ A\nB"]) == (0, 0)  # a mark is that line and no other
    for shown, complaint in [
        (["A", "A"], "silent double"),
        ([f"{MARK}\nB"], "'A' was lost"),
        ([f"{MARK}\nA", "B", "A"], "nobody asked for {'B'}"),
        ([], "'A' was lost"),
    ]:
        with pytest.raises(AssertionError, match=complaint):
            check_answers(shown, ["A"])
    with pytest.raises(AssertionError, match="out of order"):
        check_answers(["B", "A", f"{MARK}\nB"], ["A", "B"])
