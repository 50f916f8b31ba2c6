"""How far a bot has come with a message, by what a person sees of it. Knows chatbridge's previews, and no service."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from chatbridge.delivery.streamed_message import PLACEHOLDER
from chatbridge.testing.wire.changes import Changes

M = TypeVar("M")

Progress = Literal["preview", "part", "last"]
"""`preview`: it will change. `part`: it will stay, and the answer goes on in the next message. `last`: it will stay,
and the answer ends with it."""


def progress_of(text: str, actions: Sequence[str], limit: int) -> Progress:
    """What a message with these buttons is, where a service takes at least `limit` of text in one.

    A bot edits text and buttons in one call, so that the button `stop` is there until the text is final and no longer.
    Of an answer of several messages only the last has buttons; all others are at least half full. Where buttons are
    switched off, a preview looks like an answer, but for the placeholder.
    """
    if "stop" in actions or text == PLACEHOLDER:
        return "preview"
    return "part" if not actions and len(text) > 0.45 * limit else "last"


def first_answer(unread: Iterable[M], look: Callable[[M], Progress]) -> list[M] | None:
    """All messages of the answer that comes first; None until it has ended."""
    answer: list[M] = []
    for message in unread:
        progress = look(message)
        if progress == "preview":
            return None
        answer.append(message)
        if progress == "last":
            return answer
    return None


class Numbered(Protocol):
    """A message; later ones have higher ids."""

    @property
    def id(self) -> int: ...


N = TypeVar("N", bound=Numbered)
P = TypeVar("P", bound=Hashable)


class Reader(Generic[P, N]):
    """Reads what bots write in each place, in its order. `look` tells of a message whether it stays as it is."""

    def __init__(self, changes: Changes, messages: Callable[[P], Iterable[N]], look: Callable[[N], Progress]) -> None:
        self._changes, self._messages, self._look = changes, messages, look
        self._read: dict[P, int] = {}

    async def next_message(self, place: P, within: float, what: str) -> N:
        """The next message that was not read before, as soon as it is there."""
        message = await self._changes.until(lambda: next(self._unread(place), None), within=within, what=what)
        self._read[place] = message.id
        return message

    async def next_answer(self, place: P, within: float, what: str) -> list[N]:
        """All messages of the next answer, once it is whole."""
        answer = await self._changes.until(
            lambda: first_answer(self._unread(place), self._look), within=within, what=f"{what}, whole"
        )
        self._read[place] = answer[-1].id
        return answer

    async def until_final(self, message: N, within: float) -> N:
        """Wait until a message is no preview any more."""
        return await self._changes.until(
            lambda: message if self._look(message) != "preview" else None, within=within, what="the end of an answer"
        )

    def _unread(self, place: P) -> Iterator[N]:
        return (found for found in self._messages(place) if found.id > self._read.get(place, 0))
