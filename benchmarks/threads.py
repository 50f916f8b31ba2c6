"""How the threads of one model should wait for one another: a llama.cpp model's speed on a quiet and on a busy machine.

One process for each way to wait, all with the model loaded; they take turns in an order drawn anew for each round, so
that what other programs do befalls all alike. Busy means that a loop without pause runs beside them. The first way is
the libraries' own, and much the slowest where the machine is busy.

    python benchmarks/threads.py MODEL.gguf [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

WAYS: Mapping[str, Mapping[str, str]] = {
    "as the library does": {},
    "passive": {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"},
    "spin 200": {"GOMP_SPINCOUNT": "200"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_WAIT_POLICY": "passive"},
}
ANSWERED, READ = 8, 64


def serve(path: str, threads: int) -> None:
    """Answer and read some tokens for each line that comes; print tokens a second of both."""
    from chatbridge_llama_cpp.backend import load
    from chatbridge_llama_cpp.options import LlamaOptions

    from chatbridge import Row, Sampling

    asked = {"path": path, "threads": threads, "context_length": 512, "sequences": 1}
    model = load(LlamaOptions.model_validate(asked), lambda share, doing: None)
    state, sampler = model.new_state(), model.new_sampler(Sampling(temperature=0), [1], 0)
    model.step([Row(state, [1, *range(300, 364)], None)])
    print("ready", flush=True)
    for _ in sys.stdin:
        length, pending, begin = state.length, [300], time.perf_counter()
        for _ in range(ANSWERED):
            pending = list(model.step([Row(state, pending, sampler)])[0])
        middle = time.perf_counter()
        model.step([Row(state, list(range(400, 400 + READ)), None)])
        print(ANSWERED / (middle - begin), READ / (time.perf_counter() - middle), flush=True)
        state.trim(length)


def measure(path: str, threads: int, rounds: int, *, busy: bool) -> None:
    """One table: the median, and the best and the worst round, of each way."""
    programs = {}
    for way, variables in WAYS.items():
        command = [sys.executable, "-P", __file__, path, "--serve", "1" if way == "one thread" else str(threads)]
        programs[way] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **variables},
        )
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    try:
        for program in programs.values():
            assert program.stdout is not None
            program.stdout.readline()
        for _ in range(rounds):
            for way in random.sample(list(WAYS), len(WAYS)):
                program = programs[way]
                assert program.stdin is not None
                assert program.stdout is not None
                program.stdin.write("go\n")
                program.stdin.flush()
                found[way].append([float(word) for word in program.stdout.readline().split()])
    finally:
        for ending in (loop, *programs.values()):
            if ending is not None:
                ending.kill()
                ending.communicate()
    print(f"\n{threads} threads, {'one busy loop beside it' if busy else 'nothing beside it that this program began'}")
    print(f"  {'tokens a second':<22}{'answered':>10}{'best':>8}{'worst':>8}{'read':>10}{'best':>8}{'worst':>8}")
    for way, rows in found.items():
        cells = [f(column) for column in zip(*rows, strict=True) for f in (statistics.median, max, min)]
        print(f"  {way:<22}" + "".join(f"{cell:>{10 if i % 3 == 0 else 8}.1f}" for i, cell in enumerate(cells)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.model, options.serve)
        return
    for busy in (False, True):
        measure(options.model, options.threads, options.rounds, busy=busy)


if __name__ == "__main__":
    main()
