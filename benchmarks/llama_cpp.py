"""How fast the llama.cpp backend answers many conversations, on one thread, beside its peers in the same run.

The peers are a bare loop around `llama_decode` with the same batch and no sampling at all, and llama-cpp-python's
high-level `Llama`, which serves one conversation at a time. Models of random weights are made on the spot. Short rounds
take turns, and each figure is the median of several, each share that of the rounds' shares, since other programs may be
running. On a machine where they are, `--cpu` counts the time that the processor gave to this program rather than the
time that passed: with one thread and nothing to wait for, these are the same on a machine that does nothing else.

`llama_cpp_peers.py` puts whole servers beside it: llama-server, and xllamacpp.

    python benchmarks/llama_cpp.py [--models 15M-q4_0 110M-q4_0] [--rounds 15] [--turns 10] [--cpu]
"""

# ruff: noqa: E402  this file is called as the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp_model import SIZES, VOCABULARY, write_model

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import numpy as np
from chatbridge_llama_cpp.backend import load
from chatbridge_llama_cpp.decoder import Batch
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.options import LlamaOptions
from chatbridge_llama_cpp.smoke import survives_repacking

from chatbridge import Request, Row, Sampling, Special, Tokens
from chatbridge.engine.engine import Engine

ROOMS, DECODED, REPLY = 16, 8, 32
GREEDY = Sampling(temperature=0)


class Clock:
    """Seconds, of the wall or of this program's processor time."""

    read: Callable[[], float] = staticmethod(time.perf_counter)


@dataclass
class Room:
    """One conversation: all ids so far, and what its last turn cost."""

    ids: list[int]
    first: float = 0.0


def opened(path: Path, context: int, sequences: int = ROOMS, **options: Any) -> LlamaModel:
    asked = {"path": path, "threads": 1, "context_length": context, "sequences": sequences, **options}
    return load(LlamaOptions.model_validate(asked), lambda share, doing: None)


def ids(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [1, *(rng.randrange(300, VOCABULARY) for _ in range(count - 1))]


def fill(model: LlamaModel, count: int, tokens: int) -> list[Any]:
    """So many states that have read so many tokens."""
    states = [model.new_state() for _ in range(count)]
    for number, state in enumerate(states):
        prompt = ids(tokens, number)
        for start in range(0, tokens, 512):
            model.step([Row(state, prompt[start : start + 512], None)])
    return states


def decode(model: LlamaModel, states: Sequence[Any]) -> float:
    """Tokens a second through `step`, as the engine calls it; the states are as long afterwards as before."""
    samplers = [model.new_sampler(GREEDY, [1], 0) for _ in states]
    length = states[0].length
    pending = [[300]] * len(states)
    begin = Clock.read()
    for _ in range(DECODED):
        rows = [Row(state, p, s) for state, p, s in zip(states, pending, samplers, strict=True)]
        pending = [list(tokens) for tokens in model.step(rows)]
    speed = DECODED * len(states) / (Clock.read() - begin)
    for state in states:
        state.trim(length)
    return speed


def bare(model: LlamaModel, states: Sequence[Any]) -> float:
    """The same batches given to `llama_decode` and nothing else."""
    context = model._decoder.context
    batch = Batch(len(states), len(states))
    length = states[0].length
    for state in sorted(states, key=lambda state: state.seq_id):
        batch.add(state, [300], wanted=1)
    begin = Clock.read()
    for _ in range(DECODED):
        assert lib.llama_decode(context, batch.native) == 0
        lib.llama_synchronize(context)
        for i in range(len(states)):
            batch.native.pos[i] += 1
    speed = DECODED * len(states) / (Clock.read() - begin)
    for state in states:
        lib.llama_memory_seq_rm(lib.llama_get_memory(context), state.seq_id, length, -1)
    return speed


Pair = tuple[float, float, float]
"""The medians of two works' speeds, and the median of their shares round by round."""


def paired(rounds: int, one: Callable[[], float], other: Callable[[], float]) -> Pair:
    """Both once in every round, and the first round not counted."""
    found = [(one(), other()) for _ in range(rounds + 1)][1:]
    a, b = (statistics.median(column) for column in zip(*found, strict=True))
    return a, b, statistics.median(x / y for x, y in found)


def overhead(path: Path, rounds: int) -> list[tuple[str, Pair]]:
    """Decoding through the backend beside a bare loop."""
    rows = []
    for count in (1, 4, ROOMS):
        model = opened(path, 1024)
        states = fill(model, count, 256)
        # One conversation's rounds are short, and so more of them are needed.
        more = rounds * max(1, 4 // count)
        pair = paired(more, lambda m=model, s=states: decode(m, s), lambda m=model, s=states: bare(m, s))
        rows.append((f"{count} conversation{'s' * (count > 1)}", pair))
        model.close()
    return rows


def idle(path: Path, rounds: int) -> Pair:
    """One active room's speed beside idle ones of 1,000 tokens each, and beside nobody."""
    alone, crowded = opened(path, 1280, ROOMS + 1), opened(path, 1280, ROOMS + 1)
    fill(crowded, ROOMS, 1000)
    one, other = fill(alone, 1, 256), fill(crowded, 1, 256)
    pair = paired(rounds, lambda: decode(crowded, other), lambda: decode(alone, one))
    alone.close()
    crowded.close()
    return pair


def newcomer(path: Path, budget: int = 512) -> tuple[float, float, float]:
    """The usual interval between tokens, one prompt chunk, and the longest interval while 4,000 tokens arrive."""
    engine = Engine(opened(path, 4608, 5), token_budget=budget)
    for i in range(4):
        engine.submit(request(ids(100, i), 400, str(i)))
    for _ in range(12):
        engine.step()
    usual = [timed(engine) for _ in range(16)]
    engine.submit(request(ids(4000, 9), 4, "long"))
    meanwhile = [timed(engine) for _ in range(6)]
    engine.close()
    model = opened(path, 4608, 5)
    state, chunks = model.new_state(), []
    for start in range(0, 6 * budget, budget):  # each takes longer, since there is more to look back at
        begin = Clock.read()
        model.step([Row(state, ids(4000, 3)[start : start + budget], None)])
        chunks.append(Clock.read() - begin)
    model.close()
    return statistics.median(usual), max(chunks), max(meanwhile)


def timed(engine: Engine) -> float:
    begin = Clock.read()
    events = engine.step()
    seconds = Clock.read() - begin
    assert not any(event.error for event in events), events
    return seconds


def request(prompt: Sequence[int], count: int, name: str) -> Request:
    bias = dict.fromkeys(range(3), -100.0)  # random weights would end an answer at any time, or write control tokens
    sampling = Sampling(temperature=0, max_tokens=count, logit_bias=bias)
    return Request((Special("bos"), Tokens(tuple(prompt[1:]))), id=name, sampling=sampling)


def rooms() -> list[Room]:
    rng = random.Random(3)
    return [Room(ids(rng.randrange(500, 1500), i)) for i in range(ROOMS)]


def talk_here(path: Path, turns: int, *, together: bool) -> tuple[list[float], float]:
    """Times to the first token after the first turn, and seconds for all turns, in the backend.

    `together`: all rooms ask at once; else one after another, as their turns would come in `Llama`.
    """
    engine = Engine(opened(path, 1500 + turns * (REPLY + 40)))
    everybody, firsts = rooms(), []
    begin = Clock.read()
    for turn in range(turns):
        for number, room in enumerate(everybody):
            room.ids += ids(24, 1000 * turn + number)[1:]
            engine.submit(request(room.ids, REPLY, str(number)))
            if not together:
                firsts += finish(engine, everybody) if turn else finish(engine, everybody)[:0]
        firsts += finish(engine, everybody) if turn else finish(engine, everybody)[:0]
    seconds = Clock.read() - begin
    engine.close()
    return firsts, seconds


def finish(engine: Engine, everybody: Sequence[Room]) -> list[float]:
    """Let everybody be answered; the times to their first tokens."""
    firsts = []
    while not engine.idle:
        for event in engine.step():
            assert event.error is None, event.error
            if event.chunk is not None and event.chunk.finish is not None:
                everybody[int(event.request_id)].ids += event.chunk.finish.reply.tokens
                firsts.append(event.chunk.finish.usage.first_token_seconds)
    return firsts


def talk_there(path: Path, turns: int) -> tuple[list[float], float]:
    """The same in `Llama`, one conversation after another; waiting for the others is not counted."""
    from llama_cpp import Llama

    context = 1500 + turns * (REPLY + 40)
    peer: Any = Llama(
        str(path), n_ctx=context, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1, verbose=False
    )
    everybody, firsts = rooms(), []
    begin = Clock.read()
    for turn in range(turns):
        for number, room in enumerate(everybody):
            room.ids += ids(24, 1000 * turn + number)[1:]
            asked = Clock.read()
            said: list[int] = []
            for token in peer.generate(room.ids, temp=0, top_k=1):
                if not said and turn:
                    firsts.append(Clock.read() - asked)
                said.append(token)
                if len(said) == REPLY:
                    break
            room.ids += said
    seconds = Clock.read() - begin
    peer.close()
    return firsts, seconds


def restart(path: Path) -> tuple[float, float, float, float]:
    """A conversation of 2,000 tokens: MiB saved, seconds to save, to bring back, and to read again instead."""
    model = opened(path, 2304, 2)
    begin = Clock.read()
    (state,) = fill(model, 1, 2000)
    reading = Clock.read() - begin
    begin = Clock.read()
    saved = state.save()
    saving = Clock.read() - begin
    state.release()
    begin = Clock.read()
    model.step([Row(model.new_state(saved), [300], None)])
    loading = Clock.read() - begin
    model.close()
    return len(saved) / 2**20, saving, loading, reading


def plot(target: Path, table: dict[str, list[tuple[str, Pair]]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(table), figsize=(5 * len(table), 4), squeeze=False)
    for axis, (name, rows) in zip(axes[0], table.items(), strict=True):
        places = np.arange(len(rows))
        axis.bar(places - 0.2, [pair[0] for _, pair in rows], 0.4, label="chatbridge")
        axis.bar(places + 0.2, [pair[1] for _, pair in rows], 0.4, label="bare llama_decode")
        axis.set_xticks(places, [label for label, _ in rows])
        axis.set_title(f"{name}, one thread")
        axis.set_ylabel("tokens a second")
        axis.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=120)


def report(path: Path, name: str, options: argparse.Namespace) -> list[tuple[str, Pair]]:
    print(f"\n{name}, one thread; medians of {options.rounds} rounds")
    rows = overhead(path, options.rounds)
    print(f"  {'decoding':<22}{'here':>9}{'bare':>9}{'share':>8}   tokens a second")
    for label, (ours, theirs, share) in rows:
        print(f"  {label:<22}{ours:>9.1f}{theirs:>9.1f}{share:>8.3f}")
    full, empty, share = idle(path, options.rounds)
    print(f"  one active room: {full:.1f} beside {ROOMS} idle rooms, {empty:.1f} alone ({share:.3f})")
    usual, chunk, longest = newcomer(path)
    print(
        f"  4,000 tokens arrive: longest interval {1e3 * longest:.0f} ms, allowed "
        f"{1e3 * (2 * usual + chunk):.0f} ms (2 of {1e3 * usual:.0f} and a chunk of {1e3 * chunk:.0f})"
    )
    size, saving, loading, reading = restart(path)
    print(
        f"  2,000 tokens: {size:.0f} MiB saved in {1e3 * saving:.0f} ms, back in {1e3 * loading:.0f} ms, read again in "
        f"{1e3 * reading:.0f} ms"
    )
    if options.turns:
        here, _ = talk_here(path, options.turns, together=False)
        there, theirs = talk_there(path, options.turns)
        _, mine = talk_here(path, options.turns, together=True)
        a, b = statistics.median(here), statistics.median(there)
        print(f"  {ROOMS} rooms, {options.turns} turns   {'here':>9}{'Llama':>9}{'times':>8}")
        print(f"  to the first token    {a:>9.3f}{b:>9.3f}{b / a:>8.1f}   seconds, median after the first turn")
        print(f"  in all                {mine:>9.1f}{theirs:>9.1f}{theirs / mine:>8.1f}   seconds")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [f"{size}-{kind}" for size in SIZES for kind in ("q4_0", "q8_0")]
    parser.add_argument("--models", nargs="+", choices=every, default=every)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu", action="store_true", help="count processor time, on a machine that does other things")
    parser.add_argument("--turns", type=int, default=10, help="turns of the comparison with Llama; 0 leaves it out")
    parser.add_argument("--plot", type=Path, default=Path("llama_cpp.png"))
    options = parser.parse_args()
    if options.cpu:
        Clock.read = staticmethod(time.process_time)
    print(f"times are {'of the processor' if options.cpu else 'of the clock'}", end="; ")
    print(f"weights laid out for this processor: {'yes' if survives_repacking() else 'no, this build crashes with it'}")
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            size, kind = name.split("-")
            table[name] = report(write_model(Path(folder) / f"{name}.gguf", size, kind), name, options)
    try:
        plot(options.plot, table)
        print(f"\nplotted in {options.plot}")
    except ImportError:
        print("\nno plot: matplotlib is not installed")


if __name__ == "__main__":
    main()
