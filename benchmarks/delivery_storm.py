"""Fifty chats at once on the bundled model, through inbox, worker, rate limiter and outbox, to a service in memory.

    python benchmarks/delivery_storm.py [CHATS] [MESSAGES]

Tells whether each answer came whole, once and in order, how late the event loop was, how much memory the program took
at the beginning and at the end, and beside it how fast the same requests go through the bare model.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from chatbridge import Author, Bridge, Channel, ChannelSettings, Delivery, Limits, Message, Plugins, Sampling
from chatbridge.config import Settings, SettingsSource, default_settings
from chatbridge.engine.backend import Backend, Request
from chatbridge.operations.lag import LoopLag
from chatbridge.prompts.segments import Special, Text
from chatbridge.testing import FakeService

TOKENS = 40


def resident() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def bare(backend: Backend, count: int) -> float:
    """Answers per second of the model alone, all requests at once."""

    async def one(number: int) -> None:
        prompt = (Special("bos"), Text(f"Question {number}: what is chatbridge?", "person"))
        request = Request(prompt, sampling=Sampling(max_tokens=TOKENS, seed=number))
        async for _ in backend.generate(request):
            pass

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(count)))
    return count / (time.perf_counter() - began)


async def storm(chats: int, messages: int, folder: Path) -> None:
    plugins = Plugins()
    guide = default_settings(plugins, folder / "unused.sqlite3")
    defaults = ChannelSettings(reply_to="always", language="en", sampling=Sampling(max_tokens=TOKENS, seed=1))
    settings = Settings(guide.models, plugins.templates, folder / "storm.sqlite3", defaults)
    service = FakeService(Limits(2000))
    lag = LoopLag()
    async with Bridge(SettingsSource(settings), plugins) as bridge:
        async with bridge.models.use(settings.models["guide"]) as backend:
            alone = await bare(backend, chats)
        watching = asyncio.create_task(lag.run())
        async with Delivery(bridge.bot("bot"), service.chat, service.limits, drain=3600) as delivery:
            before, began = resident(), time.perf_counter()
            for number in range(messages):
                for chat in range(chats):
                    text = f"Question {number} of chat {chat}: how do I add a Telegram bot?"
                    await delivery.accept(Message(f"{number}", Channel(f"c{chat}"), Author("a", "Ann"), text))
                if number == messages // 2:
                    await delivery.settled()
                    before = resident()
            await delivery.settled()
            seconds, after = time.perf_counter() - began, resident()
        watching.cancel()
        answers = [len(service.messages[f"c{chat}"]) for chat in range(chats)]
        kept = [len(await bridge.bot("bot").dialogue(Channel(f"c{chat}")).path()) for chat in range(chats)]
    whole = all(count == messages for count in answers) and all(count == 2 * messages for count in kept)
    print(f"{chats} chats, {messages} messages each: {'all' if whole else 'NOT all'} answers once and whole")
    print(f"violations of the service's rules: {len(service.violations)}")
    print(f"{chats * messages / seconds:.1f} answers/s; the bare model, beside it: {alone:.1f} answers/s")
    print(f"event loop: p99 {lag.quantile(0.99) * 1000:.1f} ms late, worst {lag.worst * 1000:.1f} ms")
    print(f"memory: {before:.0f} MiB after half of it, {after:.0f} MiB at the end")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    wanted = [int(argument) for argument in sys.argv[1:]] or [50, 6]
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(storm(*wanted, Path(name)))
