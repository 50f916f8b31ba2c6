"""A program is killed at random moments while many people talk to its bot, and what they read is judged.

Knows no chat service and no frontend: how the program is started and how people talk is handed in.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from chatbridge.texts import LANGUAGES, say

T = TypeVar("T")

MARKS = frozenset(say(language, "maybe_duplicate") for language in LANGUAGES)
PATIENCE = 60.0
"""Seconds to wait for more calls or for all answers, before the program is taken for stuck."""


class Program(Protocol):
    """What is killed: an `asyncio.subprocess.Process`."""

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class StandIn(Protocol):
    """The service that the program's frontend talks to: `DiscordServer`, `TelegramServer`, or one of your own.

    `calls` are those that the frontend made; `until` waits until a check, made anew at every change, gives anything.
    """

    @property
    def calls(self) -> Sized: ...

    async def until(self, check: Callable[[], T | None], *, within: float = ..., what: str = ...) -> T: ...


@dataclass(frozen=True, slots=True)
class BusyChat:
    """One of the chats: `say` is how its person writes there, `shown` gives the bot's messages, oldest first."""

    say: Callable[[str], Awaitable[object]]
    shown: Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class KillReport:
    """What people read: so many messages were `asked`, and so many answers were `marked` as possible duplicates.

    `doubled` of the marked ones had come before; the others had not, and the mark was only caution.
    """

    kills: int
    asked: int
    marked: int
    doubled: int


async def kill_at_random(
    service: StandIn,
    chats: Sequence[BusyChat],
    start: Callable[[], Awaitable[Program]],
    *,
    kills: int,
    seed: int = 7,
    ready: Callable[[], Awaitable[object]] | None = None,
    answer: Callable[[str], str] = str.upper,
) -> KillReport:
    """Start the program, and kill it again and again while people write; then let it answer all, and judge each chat.

    The program has to answer every message of a chat with `answer` of its text, as `EchoBackend` does. It is killed
    after a random number of calls, and some people write while it is down. `ready` is awaited once, before anybody
    writes. AssertionError where an answer is lost, doubled without a mark, out of its order, or where anything else is
    shown. TimeoutError, with the number of answers outstanding, where it gets stuck.
    """
    chance = random.Random(seed)
    people = _People(service, chats, answer, chance)
    program = await start()
    try:
        if ready is not None:
            await ready()
        for number in range(len(chats)):  # in some services nobody is told of a chat that began while the bot was down
            await people.ask(number)
        await people.wait()
        for _ in range(kills):
            await people.ask_anywhere(chance.randrange(5, 30))
            await people.wait(calls=chance.randrange(1, 150))
            program.kill()
            assert await program.wait() == -signal.SIGKILL, "the program ended by itself"
            await people.ask_anywhere(chance.randrange(0, 5))
            program = await start()
        await people.wait()
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        await program.wait()
    return people.check(kills)


def check_answers(shown: Sequence[str], expected: Sequence[str], *, strays: Collection[str] = ()) -> tuple[int, int]:
    """Whether a chat shows each answer once, or a second time with a mark; in their order; and nothing but `strays`.

    Gives how many messages have a mark, and how many of these answers stand there without one, too.
    """
    plain = Counter(text for text in shown if _unmarked(text) == text)
    marked = Counter(_unmarked(text) for text in shown if _unmarked(text) != text)
    for text in expected:
        assert plain[text] <= 1, f"a silent double of {text!r}"
        assert plain[text] + marked[text] >= 1, f"{text!r} was lost"
    others = (set(plain) | set(marked)) - set(expected) - set(strays)
    assert not others, f"nobody asked for {others}"
    order = [_unmarked(text) for text in shown]
    positions = [order.index(text) for text in expected]
    assert positions == sorted(positions), f"out of order: {order}"
    return marked.total(), sum((marked & plain).values())


def _unmarked(text: str) -> str:
    head, _, rest = text.partition("\n")
    return rest if head in MARKS else text


class _People:
    """Those who write in the chats, and remember what they have asked."""

    def __init__(
        self, service: StandIn, chats: Sequence[BusyChat], answer: Callable[[str], str], chance: random.Random
    ) -> None:
        self._service, self._chats, self._answer, self._chance = service, chats, answer, chance
        self._expected: list[list[str]] = [[] for _ in chats]
        self._waiting: list[list[str]] = [[] for _ in chats]

    async def ask(self, number: int) -> None:
        words = " ".join(["word"] * self._chance.randrange(1, 30))
        text = f"message {len(self._expected[number])} of chat {number}: {words}"
        self._expected[number].append(self._answer(text))
        self._waiting[number].append(self._answer(text))
        await self._chats[number].say(text)

    async def ask_anywhere(self, times: int) -> None:
        for _ in range(times):
            await self.ask(self._chance.randrange(len(self._chats)))

    async def wait(self, calls: int | None = None) -> None:
        """Until the program has made so many calls more, or answered all."""
        enough = len(self._service.calls) + calls if calls is not None else None
        try:
            await self._service.until(
                lambda: (enough is not None and len(self._service.calls) >= enough) or self._answered(), within=PATIENCE
            )
        except TimeoutError as error:
            left = [len(texts) for texts in self._waiting]
            wanted = f"{enough - len(self._service.calls)} calls more" if enough is not None else "all answers"
            raise TimeoutError(f"{error}: {wanted}; answers outstanding in each chat: {left}") from None

    def _answered(self) -> bool:
        """Whether nobody waits. What was whole in a preview may have been taken back: at last all is looked at."""
        for waiting in (self._waiting, self._expected):
            self._waiting = [
                [text for text in texts if text not in seen] if texts and (seen := self._seen(chat)) else list(texts)
                for chat, texts in zip(self._chats, waiting, strict=True)
            ]
            if any(self._waiting):
                return False
        return True

    @staticmethod
    def _seen(chat: BusyChat) -> set[str]:
        return {_unmarked(text) for text in chat.shown()}

    def check(self, kills: int) -> KillReport:
        marked = doubled = 0
        for chat, expected in zip(self._chats, self._expected, strict=True):
            here = check_answers(chat.shown(), expected)
            marked, doubled = marked + here[0], doubled + here[1]
        return KillReport(kills, sum(map(len, self._expected)), marked, doubled)
