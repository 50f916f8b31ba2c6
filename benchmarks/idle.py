"""What `idle_minutes` gives and costs: a model's memory before and after, and how soon it answers who comes back.

One conversation grows by the turns of a long story. Then the model is unloaded, as after minutes in which nobody asked,
and a next turn is answered three times: by the model before that, by one that comes back with what it had read from
disk, and by one that comes back without and reads the history again. The time until the first token has the load
in it, which is told besides.

    python benchmarks/idle.py MODEL.gguf [--backend llama_cpp] [--tokens 1500] [--option key=value]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from chatbridge import Plugins, Prompt, Request, Sampling, Special, Text, Tokens
from chatbridge.config import ModelSettings
from chatbridge.worker.pool import ModelPool

MIB = 1 << 20
STORY = "The bridge over the river was older than the town, and nobody knew who had built it. "


@dataclass(frozen=True)
class Turn:
    """One answer: its seconds until the first token, those of them in which the model was loaded, what was read."""

    first_token: float
    loading: float
    read: int
    prompt: int
    tokens: tuple[int, ...]


class Nobody:
    """Time in which nobody asks: it passes when it is told to, and not before."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        self._waiting.put_nowait(over := asyncio.Event())
        try:
            await over.wait()
        except asyncio.CancelledError:
            self._waiting.get_nowait()
            raise

    async def asks(self, pool: ModelPool) -> None:
        """Until everything is unloaded."""
        (await self._waiting.get()).set()
        while pool.loaded() or pool._waiting:  # noqa: ASYNC110 (a benchmark may look now and then)
            await asyncio.sleep(0.01)


async def answer(pool: ModelPool, settings: ModelSettings, prompt: Prompt, length: int = 8) -> Turn:
    began = time.perf_counter()
    async with pool.use(settings) as backend:
        loaded = time.perf_counter()
        first, finish = 0.0, None
        request = Request(prompt, sampling=Sampling(temperature=0, max_tokens=length))
        async for chunk in backend.generate(request):
            first = first or (time.perf_counter() if chunk.text or chunk.finish else 0.0)
            finish = chunk.finish
    assert finish is not None
    usage = finish.usage
    return Turn(first - began, loaded - began, usage.read, usage.prompt, finish.reply.tokens)


def resident(pid: int | None) -> int:
    """Bytes of a process in main memory; 0 where there is no such process. Linux only."""
    status = Path(f"/proc/{pid}/status")
    if pid is None or not status.exists():
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else 0


async def measure(settings: ModelSettings, plugins: Plugins, tokens: int) -> None:
    nobody = Nobody()
    pool = ModelPool(plugins.require_backend, sleep=nobody.sleep)
    history: list[Special | Text | Tokens] = [Special("bos")]
    try:
        while True:
            history.append(Text(STORY * 4))
            turn = await answer(pool, settings, tuple(history))
            history.append(Tokens(turn.tokens))
            if turn.prompt >= tokens:
                break
        backend = pool.loaded()[settings.name]
        pid: int | None = getattr(backend, "pid", None)
        before = resident(pid)
        stayed = await answer(pool, settings, (*history, Text("And then?")))
        await nobody.asks(pool)
        assert settings.states_folder is not None
        kept = sum(file.stat().st_size for file in settings.states_folder.rglob("*.state"))
        print(f"worker's memory while loaded  {before / MIB:8.0f} MiB")
        print(f"worker's memory when unloaded {resident(pid) / MIB:8.0f} MiB; states on disk: {kept / MIB:.0f} MiB")
        asked = (*history, Text("And why?"))
        back = await answer(pool, settings, asked)
        await nobody.asks(pool)
        again = await answer(pool, replace(settings, states_folder=None), asked)
    finally:
        await pool.aclose()
    print(f"{'':16}{'first token':>12}{'of it loading':>15}{'tokens read':>13}{'of':>7}")
    for name, turn in (("stayed", stayed), ("from disk", back), ("read again", again)):
        print(f"{name:16}{turn.first_token:10.2f} s{turn.loading:13.2f} s{turn.read:13}{turn.prompt:7}")
    print("answers are", "equal" if back.tokens == again.tokens else "NOT EQUAL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--backend", default="llama_cpp")
    parser.add_argument("--tokens", type=int, default=1500, help="how long the conversation is")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the backend")
    asked = parser.parse_args()
    # A file of this folder is called as a library is that the worker imports.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    plugins = Plugins()
    kind = plugins.require_backend(asked.backend)
    given = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in asked.option)}
    options = kind.options.model_validate({"path": asked.model.absolute(), **given})
    with TemporaryDirectory() as folder:
        settings = ModelSettings("model", kind.name, options, idle_minutes=1, states_folder=Path(folder) / "states")
        asyncio.run(measure(settings, plugins, asked.tokens))


if __name__ == "__main__":
    main()
