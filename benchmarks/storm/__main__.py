"""Many chats at once on the bundled model: `chatbridge run` beside plain bots on the same model, in the same run.

    python benchmarks/storm [discord|telegram|both] [CHATS [MESSAGES]]

Stand-ins for the services, with their limits, in real time; CHATS people on each write MESSAGES messages each, all at
once. One chat before them has the same talk alone and in peace: every other has to read just like it, to the letter
and in that order. The bots run in a process of their own, where the lag of the event loop and memory are measured.
The plain bots are what discord.py's and python-telegram-bot's examples show.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import warnings
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from people import CROWDS, Crowd

BOTS = Path(__file__).with_name("bots.py")
LONGEST = 90.0
"""Seconds to wait for all answers: a bot that ran into ever longer penalties would take hours."""


async def storm(kind: str, services: list[str], count: int, messages: int) -> dict[str, Any]:
    """Let it come; what was measured."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        crowds: list[Crowd] = [await stack.enter_async_context(CROWDS[name](count)) for name in services]
        (folder / "addresses.json").write_text(json.dumps({crowd.service: crowd.address for crowd in crowds}))
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, BOTS, kind, folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        await asyncio.gather(*(crowd.talk_alone(messages) for crowd in crowds))
        assert program.stdin is not None
        program.stdin.write(b"now\n")
        begin = time.perf_counter()
        await asyncio.gather(*(crowd.write_all(messages) for crowd in crowds))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(crowd.all_answered() for crowd in crowds)), LONGEST)
        seconds = time.perf_counter() - begin
        output, _ = await program.communicate(b"")  # the end of its standard input ends it
        told = {name: sum(getattr(crowd, name) for crowd in crowds) for name in ("right", "calls", "refused", "early")}
        return json.loads(output.decode().splitlines()[-1]) | told | {"seconds": seconds}


async def main(which: str = "both", count: str = "50", messages: str = "3") -> None:
    services = ["discord", "telegram"] if which == "both" else [which]
    wanted = len(services) * int(count) * int(messages)
    for kind in ("chatbridge", "plain"):
        found = await storm(kind, services, int(count), int(messages))
        memory = ", ".join(f"{size} MiB" for size in found["memory"])
        print(
            f"{kind} on {' and '.join(services)}: {found['right']} of {wanted} answers whole and in order in "
            f"{found['seconds']:.1f} s; {found['calls']} calls, {found['refused']} refused (429), {found['early']} "
            f"inside a penalty; event loop late by {found['lag_p99'] * 1000:.1f} ms (p99), "
            f"{found['lag_max'] * 1000:.0f} ms (longest); memory at the start, half-way, at the end: {memory}",
            flush=True,
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    asyncio.run(main(*sys.argv[1:]))
