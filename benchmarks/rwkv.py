"""How fast the rwkv backend answers, on one thread, beside the rwkv package's own `PIPELINE` in the same run.

Models of random weights, RWKV-4 and RWKV-7 with the World vocabulary, are made on the spot. Rounds are paired, since
other programs may be running, and what runs in this process is counted in processor time; figures are medians.

    python benchmarks/rwkv.py [--versions 4 7] [--rounds 5] [--turns 200]
"""

# ruff: noqa: E402  this file is called as the package is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
from rwkv_model import opened, paired, write_model

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import torch
from chatbridge_rwkv import package
from chatbridge_rwkv.backend import rwkv
from chatbridge_rwkv.model import RwkvModel
from chatbridge_rwkv.options import RwkvOptions

from chatbridge import Author, Channel, ChannelSettings, Message, ReplyStream, Request, Row, Sampling, Tokens
from chatbridge.engine.engine import Engine
from chatbridge.testing import bridge_with

DECODED, TOGETHER, REPLY = 48, 8, 12
NEVER_ENDS = {0: -1000.0}  # random weights would end an answer at any time
CHAT = Sampling(
    temperature=1.0,
    top_p=0.3,
    top_k=0,
    min_p=0,
    presence_penalty=0.5,
    frequency_penalty=0.5,
    seed=1,
    max_tokens=DECODED,
    logit_bias=NEVER_ENDS,
)
MESSAGE = "And what did the fox do when it came to the bridge, in the evening, by the river?"


def their_pipeline(path: Path, version: int) -> Any:
    """The package's own model and `PIPELINE`, compiled as it recommends."""
    module = package.module(package.Switches(v7=version == 7, jit=True))
    with package.quiet():
        if version == 7:
            model = module.RWKV(str(path).removesuffix(".pth"), "cpu fp32")
        else:
            model = module.RWKV(str(path), "cpu fp32", verbose=False)
        from rwkv.utils import PIPELINE

        return PIPELINE(model, "rwkv_vocab_v20230424")


def generate_here(model: RwkvModel, count: int) -> float:
    """Tokens a second of `count` conversations at once, through the engine."""
    engine = Engine(model, cache_bytes=0)
    for number in range(count):
        prompt = (Tokens(tuple(range(100 + number, 108 + number))),)
        engine.submit(Request(prompt, id=str(number), sampling=CHAT))
    begin = time.process_time()
    tokens = 0
    while not engine.idle:
        for event in engine.step():
            assert event.error is None, event.error
            tokens += len(event.tokens)
    return tokens / (time.process_time() - begin)


def one_after_another(model: RwkvModel, count: int) -> float:
    return statistics.mean(generate_here(model, 1) for _ in range(count))


def generate_there(pipeline: Any) -> float:
    """Tokens a second of `PIPELINE.generate` with the same sampling."""
    from rwkv.utils import PIPELINE_ARGS

    torch.manual_seed(1)
    args = PIPELINE_ARGS(temperature=1.0, top_p=0.3, alpha_frequency=0.5, alpha_presence=0.5, token_ban=[0])
    context = pipeline.tokenizer.decode(list(range(100, 108)))
    begin = time.process_time()
    pipeline.generate(context, token_count=DECODED, args=args)
    return DECODED / (time.process_time() - begin)


def reading(model: RwkvModel, pipeline: Any, rounds: int) -> list[float]:
    """Tokens a second of reading 256 at once, here and there."""
    ids = random.Random(1).choices(range(1000, 60000), k=256)

    def here() -> float:
        state = model.new_state()
        begin = time.process_time()
        model.step([Row(state, ids, None)])
        return len(ids) / (time.process_time() - begin)

    def there() -> float:
        begin = time.process_time()
        pipeline.model.forward(ids, None)
        return len(ids) / (time.process_time() - begin)

    return paired(rounds, here, there)


async def talk(path: Path, turns: int, folder: Path) -> dict[int, tuple[float, float]]:
    """Seconds of some turns and of second turns, the whole way: store, prompt, worker, answer; messages of one length.

    At each of these turns, ten of the long conversation take turns with the second turns of ten new ones, so that what
    else goes on slows both down.
    """
    options = RwkvOptions.model_validate(
        {"path": path, "strategy": "cpu fp32", "threads": 1, "context_length": 1 << 20, "keep_states": folder}
    )
    sampling = CHAT.model_copy(update={"max_tokens": REPLY})
    defaults = ChannelSettings(reply_to="always", language="en", sampling=sampling)
    seconds: dict[int, list[tuple[float, float]]] = {}
    wanted = (turns // 4, turns // 2, turns)
    counts = itertools.count(1000)
    async with bridge_with(
        rwkv, folder / "store.sqlite3", options=options, defaults=defaults, template="rwkv-world"
    ) as bridge:

        async def said(room: str) -> float:
            count = next(counts)  # in each message, so that no room finds what another has read
            message = Message(f"{count}", Channel(room), Author("1", "Ann"), f"{count}: {MESSAGE}")
            begin = time.perf_counter()
            turn = await bridge.bot("bot").receive(message)
            assert isinstance(turn, ReplyStream)
            async for _ in turn:
                pass
            took = time.perf_counter() - begin
            assert turn.finish is not None
            # A reply may end early by a stop string: what counts is the time for equally much.
            usage = turn.finish.usage
            return took * (usage.read + REPLY) / (usage.read + usage.generated)

        for number in range(1, turns + 1):
            took = await said("long")
            if any(0 <= turn - number < 10 for turn in wanted):
                await said(f"new {number}")
                pair = (took, await said(f"new {number}"))
                seconds.setdefault(next(turn for turn in wanted if turn >= number), []).append(pair)
    return {
        turn: (statistics.median(late for late, _ in pairs), statistics.median(second for _, second in pairs))
        for turn, pairs in seconds.items()
    }


def reread(pipeline: Any, turn: int) -> float:
    """Seconds of that turn where the history is read again, as `PIPELINE.generate` without a state does."""
    from rwkv.utils import PIPELINE_ARGS

    exchange = f"User: {MESSAGE}\n\nAssistant: It looked at the river for a while and went home.\n\n"
    context = exchange * (turn - 1) + f"User: {MESSAGE}\n\nAssistant:"
    args = PIPELINE_ARGS(temperature=1.0, top_p=0.3, alpha_frequency=0.5, alpha_presence=0.5, token_ban=[0])
    begin = time.perf_counter()
    pipeline.generate(context, token_count=REPLY, args=args)
    return time.perf_counter() - begin


def state_costs(model: RwkvModel) -> tuple[float, float, float]:
    """MiB of a saved state, and milliseconds to save it and to take it back."""
    state = model.new_state()
    model.step([Row(state, list(range(100, 200)), None)])
    begin = time.perf_counter()
    saved = state.save()
    middle = time.perf_counter()
    model.new_state(saved)
    return len(saved) / 2**20, 1e3 * (middle - begin), 1e3 * (time.perf_counter() - middle)


def report(version: int, options: argparse.Namespace, folder: Path) -> None:
    path = write_model(folder / f"rwkv-{version}.pth", version)
    model, pipeline = opened(path), their_pipeline(path, version)
    print(f"\nRWKV-{version}, {model.info.details['parameters']} parameters, cpu fp32, one thread")
    print(f"  {model.info.details['together']}")

    def row(what: str, here: float, there: float, unit: str, beside: str) -> None:
        print(f"  {what:<34}{here:>9.2f}{there:>9.2f}{here / there:>8.2f}   {unit}, {beside}")

    print(f"  {'':<34}{'here':>9}{'beside':>9}{'share':>8}")
    ours, theirs = paired(options.rounds, lambda: generate_here(model, 1), lambda: generate_there(pipeline))
    row("one conversation", ours, theirs, "tokens/s", "PIPELINE.generate")
    together, alone = paired(
        options.rounds, lambda: generate_here(model, TOGETHER), lambda: one_after_another(model, 2)
    )
    row(f"{TOGETHER} conversations together", together, alone, "tokens/s", "one after another")
    row(f"{TOGETHER} conversations together", together, theirs, "tokens/s", "PIPELINE.generate")
    row("reading 256 tokens", *reading(model, pipeline, options.rounds), "tokens/s", "the package's forward")
    size, saving, back = state_costs(model)
    print(f"  a state: {size:.2f} MiB, saved in {saving:.1f} ms, back in {back:.1f} ms")
    model.close()
    if options.turns:
        talk_report(path, pipeline, options.turns, folder)


def talk_report(path: Path, pipeline: Any, turns: int, folder: Path) -> None:
    """A long conversation: what its turns cost, by tens."""
    states = folder / f"states-{path.stem}"
    states.mkdir()
    medians = asyncio.run(talk(path, turns, states))
    print(f"  {'turn':<10}{'here':>9}{'turn 2':>9}{'share':>8}{'re-read':>9}   seconds, the whole way; by PIPELINE")
    for turn, (late, second) in medians.items():
        print(f"  {turn:<10}{late:>9.3f}{second:>9.3f}{late / second:>8.3f}{reread(pipeline, turn):>9.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", type=int, choices=(4, 7), default=(4, 7))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=200, help="turns of the long conversation; 0 leaves it out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for version in options.versions:
            report(version, options, Path(folder))


if __name__ == "__main__":
    main()
