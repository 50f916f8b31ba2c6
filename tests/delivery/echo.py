"""A backend whose answer can be told from the question, at a pace of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterator

from chatbridge import Chunk, Finish, Reply, Request, Usage
from chatbridge.delivery.chat import Clock, LoopClock
from chatbridge.testing import ScriptedBackend
from chatbridge.types import FinishReason


def echo(question: str) -> str:
    """The answer to `message 7 of room: 40 words`: so many words, each of which names the question."""
    found = re.search(r"(\d+) words", question)
    name = question.partition(":")[0].replace(" ", "-")
    return "\n\n".join(f"{name}.{i} and more" for i in range(int(found[1]) if found else 1))


class EchoBackend(ScriptedBackend):
    """`pauses` gives the seconds before each piece."""

    def __init__(
        self,
        answer: Callable[[str], str] = echo,
        pauses: Callable[[], float] = lambda: 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self.answer = answer
        self.pauses = pauses
        self.clock = clock or LoopClock()
        self.stopped: set[str] = set()

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        self.asked.set()
        said = ""
        question = next(turn.text for turn in reversed(request.turns) if turn.role == "user")
        for piece in _pieces(self.answer(question)):
            await self.clock.sleep(self.pauses())
            if request.id in self.stopped:
                break
            said += piece
            yield Chunk(piece)
        reason: FinishReason = "cancelled" if request.id in self.stopped else "end"
        yield Chunk(finish=Finish(reason, Reply(said.strip()), Usage(prompt=10, generated=len(said.split()))))

    def cancel(self, request_id: str) -> None:
        self.stopped.add(request_id)


def _pieces(text: str) -> Iterator[str]:
    return (match[0] for match in re.finditer(r"\S+\s*", text))
