"""What chatbridge adds to a model: the whole way of a message beside the bare engine, in the same run.

    python benchmarks/overhead.py [MESSAGES]

The whole way is: message in, SQLite, history, template, tokens, worker process, scheduler, chunks out, SQLite. The
bare engine answers the very same prompts in this process, with nothing kept. Both run the toy model, whose tokens
cost next to nothing, so that the difference is ours.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge import Author, Bot, Channel, ChannelSettings, Message, ReplyStream, Request, Sampling
from chatbridge.engine.engine import Engine
from chatbridge.prompts.segments import Special, Text
from chatbridge.testing import ToyModel, ToyOptions, bridge_with, toy_backend

TOKENS = 16
"""Tokens of each answer."""


@dataclass
class Times:
    """Seconds from the message to the first and to the last chunk, one of each for every message."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    seconds: float = 0.0


async def whole_way(bot: Bot, rooms: int, messages: int) -> Times:
    times = Times()

    async def room(name: str) -> None:
        for number in range(messages // rooms):
            start = time.perf_counter()
            turn = await bot.receive(Message(f"{name}-{number}", Channel(name), Author("a", "A"), "How are you today?"))
            assert isinstance(turn, ReplyStream)
            first = 0.0
            async for _ in turn:
                first = first or time.perf_counter() - start
            times.first.append(first)
            times.last.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(room(f"{rooms}-{i}") for i in range(rooms)))
    times.seconds = time.perf_counter() - start
    return times


def bare_engine(rooms: int, messages: int) -> Times:
    """The same number of answers, `rooms` at a time, to prompts of the same length as a first message's."""
    times, engine = Times(), Engine(ToyModel(eos_every=10**9))
    prompt = (Special("bos"), Text("Below is an instruction that describes a task. " * 2 + "How are you today?"))
    begin = time.perf_counter()
    for _ in range(messages // rooms):
        start, seen = time.perf_counter(), set()
        for _ in range(rooms):
            engine.submit(Request(prompt, sampling=Sampling(max_tokens=TOKENS, seed=1)))
        while not engine.idle:
            for event in engine.step():
                if event.request_id not in seen:
                    seen.add(event.request_id)
                    times.first.append(time.perf_counter() - start)
                if event.chunk is not None and event.chunk.finish is not None:
                    times.last.append(time.perf_counter() - start)
    times.seconds = time.perf_counter() - begin
    engine.close()
    return times


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def main(messages: int) -> None:
    print(f"{messages} messages, answers of {TOKENS} tokens\n")
    print("| rooms | way | messages/s | first chunk p50 ms | p99 | whole answer p50 ms | p99 |")
    print("|---|---|---|---|---|---|---|")
    for rooms in (1, 16):
        defaults = ChannelSettings(
            reply_to="always", sampling=Sampling(max_tokens=TOKENS, seed=1), history=rooms == 1 and messages < 200
        )
        with tempfile.TemporaryDirectory() as folder:
            options = ToyOptions(eos_every=10**9, context_length=100_000)
            store = Path(folder) / "store"
            async with bridge_with(toy_backend, store, options=options, defaults=defaults, template="chatml") as bridge:
                await whole_way(bridge.bot("warm"), rooms, rooms)
                ours = await whole_way(bridge.bot("bot"), rooms, messages)
        bare = bare_engine(rooms, messages)
        for name, times in (("whole way", ours), ("bare engine", bare)):
            print(
                f"| {rooms} | {name} | {messages / times.seconds:.0f} | {percentile(times.first, 0.5):.2f} | "
                f"{percentile(times.first, 0.99):.2f} | {percentile(times.last, 0.5):.2f} | "
                f"{percentile(times.last, 0.99):.2f} |"
            )
        added = [percentile(ours.last, share) - percentile(bare.last, share) for share in (0.5, 0.99)]
        mean = 1000 * (statistics.mean(ours.last) - statistics.mean(bare.last))
        print(f"| {rooms} | added | | | | {added[0]:.2f} (mean {mean:.2f}) | {added[1]:.2f} |")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
