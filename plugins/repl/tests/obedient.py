"""A plugin with a model that answers as it is told: what to say stands in the message itself.

`say TEXT` answers TEXT, word by word, where \\n stands for a line break. `think TEXT` thinks first. `slowly` goes on
until it is stopped. `fail` breaks off, `crash` by a bug. Anything else is answered by how many messages the prompt has
and what the last one is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable

from chatbridge import (
    BackendError,
    BackendType,
    Chunk,
    Finish,
    ModelInfo,
    ModelLoadError,
    Options,
    Prompt,
    Reply,
    Request,
    Usage,
    hookimpl,
)


class ObedientOptions(Options):
    broken: str = ""
    stuck: bool = False


class Obedient:
    def __init__(self) -> None:
        self.info = ModelInfo("obedient", "obedient", 4096, 10, "obedient", "obedient", eos=(0,))
        self._stops: dict[str, asyncio.Event] = {}

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        stop = self._stops[request.id] = asyncio.Event()
        said = [turn for turn in request.turns if turn.role != "system"]
        order, _, text = said[-1].text.partition(" ")
        thoughts, words = "", f"{len(said)}: {said[-1].text}"
        if order in ("say", "think"):
            thoughts, words = ("hm hm" if order == "think" else ""), text.replace("\\n", "\n")
        elif order == "system":
            words = next((turn.text for turn in request.turns if turn.role == "system"), "none")
        if thoughts and request.show_thinking:
            yield Chunk(thoughts, thinking=True)
        came, reason = "", "end"
        for number, word in enumerate(re.findall(r"\s*\S+", words)):
            await asyncio.sleep(0)
            if number == request.sampling.max_tokens:
                reason = "length"
                break
            came += word
            yield Chunk(word)
        if order == "crash":
            raise ZeroDivisionError("a bug")
        if order == "fail":
            raise BackendError("as I was told")
        while order == "slowly" and not stop.is_set():
            came += " and so on"
            yield Chunk(" and so on")
            try:
                await asyncio.wait_for(stop.wait(), 0.02)
            except TimeoutError:
                continue
            reason = "cancelled"
        usage = Usage(prompt=30, cached=20, generated=5, first_token_seconds=0.25, seconds=1.25)
        yield Chunk(finish=Finish("end" if reason == "end" else reason, Reply(came), usage))

    def cancel(self, request_id: str) -> None:
        if request_id in self._stops:
            self._stops[request_id].set()

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(list(prompt))

    async def aclose(self) -> None:
        for stop in self._stops.values():
            stop.set()


async def connect(options: ObedientOptions) -> Obedient:
    if options.broken:
        raise ModelLoadError(options.broken)
    if options.stuck:
        print("the load has begun", flush=True)
        await asyncio.Event().wait()
    return Obedient()


obedient = BackendType("obedient", ObedientOptions, "says what it is told", connect=connect)


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge.testing import toy_backend

    return [obedient, toy_backend]
