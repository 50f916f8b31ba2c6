"""Many messages on one store, through inbox, bot, worker, outbox and a service in memory: does anything grow or slow?

    python benchmarks/soak.py [MESSAGES] [BOTS] [CHANNELS]

MESSAGES are spread over all CHANNELS of all BOTS, a round at a time. Prints memory, the sizes of the files and messages
a second at the start, at each tenth and at the end, and then how much a program of so many bots does while nobody talks
to it: processor time and how often it wakes up. The toy model answers, so that what is measured is ours.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from chatbridge import Author, Channel, ChannelSettings, Delivery, Limits, Message, Sampling
from chatbridge.operations.lag import LoopLag
from chatbridge.testing import ToyOptions, bridge_with, toy_backend

TOKENS = 8
"""Of each answer."""

UNDER_WAY = 64
"""Messages that may be on their way at once."""

IDLE_SECONDS = 20


class Nowhere:
    """A chat that takes everything and keeps nothing."""

    sent = 0

    async def send(self, content: object, *, reply_to: str | None, nonce: str) -> str:
        Nowhere.sent += 1
        return f"m{Nowhere.sent}"

    async def edit(self, message_id: str, content: object) -> None: ...

    async def delete(self, message_id: str) -> None: ...

    async def typing(self) -> None: ...

    async def draft(self, draft_id: int, content: object) -> None: ...


def resident() -> float:
    """Memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def sizes(store: Path) -> str:
    """The database and its log, in MiB."""
    files = (store, store.with_name(f"{store.name}-wal"))
    return " + ".join(f"{file.stat().st_size / 2**20:.1f}" if file.exists() else "0" for file in files)


def switches() -> int:
    """How often this process has gone to sleep by itself, over all of its threads."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return count


async def talk(deliveries: list[Delivery], channels: int, messages: int, store: Path) -> None:
    """Send all messages, and print a line for each tenth of them."""
    print("| messages | memory MiB | database + log MiB | messages/s | ms of processor a message |")
    print("|---|---|---|---|---|")
    rooms = [(delivery, Channel(f"room {number}")) for delivery in deliveries for number in range(channels)]
    last, processor, marks = time.perf_counter(), time.process_time(), messages // 10
    for number in range(messages):
        delivery, channel = rooms[number % len(rooms)]
        person = Author(f"user {number % 97}", "Ann")
        await delivery.accept(Message(f"{number}", channel, person, f"What is number {number}, and why?"))
        while sum(one.in_hand for one in deliveries) > UNDER_WAY:  # noqa: ASYNC110 (nothing tells when one of many ends)
            await asyncio.sleep(0.002)
        if number % marks == marks - 1:
            now, used = time.perf_counter(), time.process_time()
            speed, cost = marks / (now - last), 1000 * (used - processor) / marks
            print(f"| {number + 1} | {resident():.0f} | {sizes(store)} | {speed:.0f} | {cost:.2f} |", flush=True)
            last, processor = now, used
    for delivery in deliveries:
        await delivery.settled()


async def sleep() -> None:
    """What the program does while nobody talks to it."""
    gc.collect()
    await asyncio.sleep(3)
    before, processor = switches(), time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    wakeups, used = (switches() - before) / IDLE_SECONDS, (time.process_time() - processor) / IDLE_SECONDS
    print(f"\nasleep: {wakeups:.1f} wake-ups/s of all threads, {100 * used:.2f} % of a core, {resident():.0f} MiB")


async def main(messages: int, bots: int, channels: int) -> None:
    defaults = ChannelSettings(reply_to="always", language="en", sampling=Sampling(max_tokens=TOKENS, seed=1))
    options = ToyOptions.model_validate({"context_length": 1024})
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        async with (
            bridge_with(toy_backend, store, options=options, defaults=defaults, template="chatml") as bridge,
            AsyncExitStack() as stack,
        ):
            names = [f"bot {number}" for number in range(bots)]
            deliveries = [
                await stack.enter_async_context(Delivery(bridge.bot(name), lambda id: Nowhere(), Limits(2000)))
                for name in names
            ]
            for delivery in deliveries:
                await delivery.resume()
            lag = asyncio.create_task(
                LoopLag().run(bridge.services.stirred, lambda: any(one.in_hand for one in deliveries))
            )
            print(f"{bots} bots, {channels} channels each: ready after {time.perf_counter() - began:.2f} s\n")
            await talk(deliveries, channels, messages, store)
            await sleep()
            lag.cancel()


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*given, *(100_000, 1, 300)[len(given) :]))
