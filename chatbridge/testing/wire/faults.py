"""What a test scripts to go wrong with calls: errors, resets, lost or slow or broken answers. Knows no service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from chatbridge.testing.wire.calls import Call
from chatbridge.testing.wire.http import Request as Request
from chatbridge.testing.wire.http import Reset, Response


@dataclass(slots=True, eq=False)
class Fault:
    """One thing to go wrong, for the next `times` calls that match, after `skip` that go well.

    `acts`: the call still takes effect, and what it was answered is handed to `answer`; else that gets None.
    """

    name: str
    pattern: str
    answer: Callable[[Call, Response | None], Response]
    acts: bool
    times: int
    skip: int
    wait: float | asyncio.Event = 0

    async def befall(self, call: Call, response: Response | None) -> Response:
        """What is answered in place of `response`; raises Reset where nothing is."""
        if isinstance(self.wait, asyncio.Event):
            await self.wait.wait()
        elif self.wait:
            await asyncio.sleep(self.wait)
        return self.answer(call, response)


class Faults:
    """The faults to come. Each method adds one; `times` calls that match `pattern` get it, after `skip` that don't.

    The first fault added that matches a call befalls it. Patterns are those of `Calls`.
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def take(self, call: Call) -> Fault | None:
        """The fault that befalls `call`, if any; it is used up by that."""
        for fault in self._faults:
            if fnmatchcase(call.name, fault.pattern):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                call.fault = fault.name
                return fault
        return None

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        self._faults.clear()

    @property
    def pending(self) -> int:
        """How many faults have not been used up: 0 at the end of a test that meant them all to happen."""
        return len(self._faults)

    def add(
        self,
        name: str,
        pattern: str,
        answer: Callable[[Call, Response | None], Response],
        *,
        acts: bool = False,
        times: int = 1,
        skip: int = 0,
        wait: float | asyncio.Event = 0,
    ) -> None:
        """Anything: `answer` gets the call and, where it `acts`, what the service would have answered."""
        self._faults.append(Fault(name, pattern, answer, acts, times, skip, wait))

    def reset(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """The connection is reset before the call takes effect."""
        self.add("reset", pattern, _reset, times=times, skip=skip)

    def lose_answer(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """The call takes effect, but the connection is reset in place of its answer."""
        self.add("lost answer", pattern, _reset, acts=True, times=times, skip=skip)

    def slow(self, pattern: str, wait: float | asyncio.Event, *, times: int = 1, skip: int = 0) -> None:
        """The call takes effect, and is answered after `wait`: real seconds, or an event that is set."""
        self.add(
            "slow", pattern, lambda call, response: response or Response(), acts=True, times=times, skip=skip, wait=wait
        )

    def trickle(
        self, pattern: str, pause: float | asyncio.Event, *, pieces: int = 10, times: int = 1, skip: int = 0
    ) -> None:
        """The call takes effect; the body of its answer comes in pieces, with a pause before each."""

        def answer(call: Call, response: Response | None) -> Response:
            return replace(response or Response(), pieces=pieces, pause=pause)

        self.add("trickle", pattern, answer, acts=True, times=times, skip=skip)

    def nested(self, pattern: str, *, depth: int = 100_000, times: int = 1, skip: int = 0) -> None:
        """The answer is 200, and JSON nested so deep, too deep for any Python, where an object was asked for."""
        deep = b'{"ok": true, "result": ' + b"[" * depth + b"]" * depth + b"}"
        response = Response(200, deep, {"Content-Type": "application/json"})
        self.add("nested", pattern, lambda call, _: response, acts=True, times=times, skip=skip)

    def malformed(self, pattern: str, *, acts: bool = True, times: int = 1, skip: int = 0) -> None:
        """The answer is 200, and half a JSON object."""
        half = Response(200, b'{"ok": tr', {"Content-Type": "application/json"})
        self.add("malformed", pattern, lambda call, response: half, acts=acts, times=times, skip=skip)


def _reset(call: Call, response: Response | None) -> Response:
    raise Reset
