"""The record of every call that a stand-in server got, for tests to assert on. Knows no service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, overload

from chatbridge.testing.wire.changes import Changes
from chatbridge.testing.wire.forms import Upload


@dataclass(slots=True, eq=False)
class Call:
    """One call: `name` says what was called, `at` and `ended` when (seconds since the epoch, by the server's clock).

    `status` and `answer` (decoded JSON) are None while it is under way, and where the connection was reset.
    `early`: it came while an earlier answer had told its sender to wait. `fault`: what was scripted to go wrong.
    """

    name: str
    bot: str
    at: float
    params: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Upload] = field(default_factory=dict)
    status: int | None = None
    answer: Any = None
    ended: float | None = None
    early: bool = False
    fault: str = ""


class Calls(Sequence[Call]):
    """All calls in the order they came in. A pattern is the name of a call, with `*` for any characters."""

    def __init__(self, changes: Changes) -> None:
        self._calls: list[Call] = []
        self._changes = changes

    def begin(self, call: Call) -> Call:
        """Record a call that has just come in."""
        self._calls.append(call)
        self._changes.tell()
        return call

    def end(self, call: Call, at: float, status: int | None, answer: Any) -> None:
        """Record how a call was answered."""
        call.ended, call.status, call.answer = at, status, answer
        self._changes.tell()

    def to(self, pattern: str) -> list[Call]:
        """The calls whose name matches."""
        return [call for call in self._calls if fnmatchcase(call.name, pattern)]

    @property
    def early(self) -> list[Call]:
        """The calls made inside a penalty: a well-behaved bot has none."""
        return [call for call in self._calls if call.early]

    async def wait(self, pattern: str, count: int = 1, *, within: float = 60) -> list[Call]:
        """The calls that match, as soon as `count` of them are answered (or reset)."""

        def ended() -> list[Call] | None:
            found = [call for call in self.to(pattern) if call.ended is not None]
            return found if len(found) >= count else None

        try:
            return await self._changes.until(ended, within=within, what=f"{count} of {pattern}")
        except TimeoutError as error:
            last = ", ".join(f"{call.name} -> {call.status}" for call in self._calls[-5:])
            raise TimeoutError(f"{error}; the last calls were: {last or 'none'}") from None

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Call]: ...
    def __getitem__(self, index: int | slice) -> Call | Sequence[Call]:
        return self._calls[index]

    def __len__(self) -> int:
        return len(self._calls)
