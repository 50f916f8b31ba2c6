"""Answers of many words that name their question, for tests of how answers are cut and in what order they come."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from chatbridge import testing


def echo(question: str) -> str:
    """The answer to `message 7 of room: 40 words`: so many words, each of which names the question."""
    found = re.search(r"(\d+) words", question)
    name = question.partition(":")[0].replace(" ", "-")
    return "\n\n".join(f"{name}.{i} and more" for i in range(int(found[1]) if found else 1))


class EchoBackend(testing.EchoBackend):
    """Answers with `echo`, unless a test wants something else."""

    def __init__(self, answer: Callable[[str], str] = echo, **more: Any) -> None:
        super().__init__(answer, **more)
