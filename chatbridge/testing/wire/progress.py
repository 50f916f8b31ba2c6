"""How far a bot has come with a message, by what a person sees of it. Knows chatbridge's previews, and no service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from chatbridge.delivery.streamed_message import PLACEHOLDER

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
