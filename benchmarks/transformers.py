"""How fast the transformers backend answers 8 conversations, on one thread, beside the library's own ways to do so.

Those are `generate`, one conversation after another, and its continuous batching. All run in the same process and are
counted in processor time, since other programs may be running; their greedy ids are compared as well. Each round runs
all ways in turn, so that what else the machine does befalls all of them. Before, somebody
asks with a prompt of 2,000 tokens while another is being answered, whose next token is not to be late. Any model's
folder will do; a chat model that has ChatML's marks is asked by these.

    python benchmarks/transformers.py FOLDER [--tokens 48] [--history 0] [--rounds 1] [--alone]
"""

# ruff: noqa: E402  this file is called as the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import torch
import transformers
from chatbridge_transformers.backend import load
from chatbridge_transformers.model import TransformersModel
from chatbridge_transformers.options import TransformersOptions

from chatbridge import Prompt, Request, Sampling, Special, Text, Tokens
from chatbridge.engine.engine import Engine
from chatbridge.engine.prefill import PrefillLimit

QUESTIONS = (
    "What is the capital of France?", "Write a poem about the sea.", "How do I bake bread?", "Tell me of Rome.",
    "Why is the sky blue?", "Who was Newton?", "Name three fruits.", "What is a bridge?",
)  # fmt: skip
LONG = 2000
"""Tokens of the prompt that others should not have to wait for."""

Answers = list[tuple[int, ...]]


def prompt(model: TransformersModel, question: str) -> Prompt:
    if model.tokenizer.special("<|im_start|>") is None:
        return (Special("bos"), Text(question))
    begin, end = Special("<|im_start|>"), Special("<|im_end|>")
    return (begin, Text(f"user\n{question}"), end, Text("\n"), begin, Text("assistant\n"))


def history(model: TransformersModel, text: str, count: int) -> Prompt:
    """So many tokens that say the question over and over: what a long conversation has before it."""
    return (Tokens(tuple(model.tokenizer.encode(f"{text} " * count, start=True)[:count])),) if count else ()


def together(model: TransformersModel, requests: Sequence[Request]) -> tuple[Answers, float]:
    """The answers' ids, and tokens a second."""
    engine, found, generated = Engine(model, cache_bytes=0), {}, 0
    start = time.process_time()
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        for event in engine.step():
            if event.error is not None:
                raise event.error
            if event.chunk is not None and (finish := event.chunk.finish) is not None:
                found[event.request_id] = finish.reply.tokens
                generated += finish.usage.generated
    return [found[request.id] for request in requests], generated / (time.process_time() - start)


def library(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def without(row: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for token in row if token not in ends)


def one_by_one(model: Any, prompts: Sequence[Sequence[int]], count: int, ends: Sequence[int]) -> tuple[Answers, float]:
    """The same by `generate`."""
    found, generated = [], 0
    start = time.process_time()
    for ids in prompts:
        given = torch.tensor([list(ids)])
        with torch.inference_mode():
            row = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False, pad_token_id=0
            )[0, len(ids) :].tolist()
        generated += len(row)
        found.append(without(row, ends))
    return found, generated / (time.process_time() - start)


def continuously(
    model: Any, prompts: Sequence[Sequence[int]], count: int, ends: Sequence[int]
) -> tuple[Answers, float]:
    """The same by the library's continuous batching, `generate_batch`, with a cache as large as is needed."""
    config = transformers.GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=list(ends), pad_token_id=0
    )
    blocks = 2 * sum((len(ids) + count) // 32 + 1 for ids in prompts)
    batching = transformers.ContinuousBatchingConfig(page_size=32, num_blocks=blocks, max_batch_tokens=512)
    start = time.process_time()
    results = model.generate_batch(
        [list(ids) for ids in prompts], generation_config=config, continuous_batching_config=batching
    )
    seconds = time.process_time() - start
    rows = [result.generated_tokens for result in results.values()]
    return [without(row, ends) for row in rows], sum(map(len, rows)) / seconds


@dataclass(frozen=True)
class Delay:
    """How long an answer's next token took at most while a long prompt was read, in seconds of the processor.

    `steps`: in which it was read. `largest`: tokens that one of them read at most.
    """

    seconds: float
    steps: int
    largest: int


def delayed(model: TransformersModel, cold: bool) -> Delay:
    """`cold`: the model has read nothing yet from which the engine could tell how fast it reads."""
    engine = Engine(model, cache_bytes=0, prefill_limit=PrefillLimit(clock=time.process_time))
    sampling = Sampling(temperature=0, max_tokens=LONG, logit_bias=dict.fromkeys(model.info.eos, -1000.0))
    short = (Text("Hello"),) if cold else prompt(model, QUESTIONS[0] * 4)
    engine.submit(Request(short, id="answered", sampling=sampling))
    while not any(event.tokens for event in engine.step()):
        pass
    long = (Tokens(tuple(model.tokenizer.encode(QUESTIONS[1] * LONG, start=True)[:LONG])),)
    engine.submit(Request(long, id="long", sampling=Sampling(temperature=0, max_tokens=1)))
    longest, steps, largest, read = 0.0, 0, 0, engine.stats()["tokens_read"]
    while True:
        start = time.process_time()
        events = engine.step()
        longest, steps = max(longest, time.process_time() - start), steps + 1
        now = engine.stats()["tokens_read"]
        largest, read = max(largest, now - read), now
        if any(event.request_id == "long" for event in events):
            engine.cancel("answered")
            engine.step()
            return Delay(longest, steps, largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--rounds", type=int, default=1, help="of all ways in turn")
    parser.add_argument("--alone", action="store_true", help="`generate` beside ours, and nothing else")
    parser.add_argument("--history", type=int, default=0, help="tokens of each conversation before its question")
    arguments = parser.parse_args()
    options = TransformersOptions.model_validate(
        {"path": arguments.folder, "threads": 1, "device": "cpu", "dtype": "float32"}
    )
    model = load(options, lambda share, doing: None)
    for cold in () if arguments.history or arguments.alone else (True, False):
        delay = delayed(model, cold)
        print(
            f"a prompt of {LONG} tokens beside an answer, {'just loaded' if cold else 'later'}: read by up to "
            f"{delay.largest} tokens in {delay.steps} steps; the answer's next token took {delay.seconds:.2f} s at most"
        )
    sampling = Sampling(temperature=0, max_tokens=arguments.tokens)
    requests = [
        Request((*history(model, text, arguments.history), *prompt(model, text)), id=str(n), sampling=sampling)
        for n, text in enumerate(QUESTIONS)
    ]
    prompts = [Engine(model, cache_bytes=0).tokenize(request.prompt) for request in requests]
    print(f"{len(requests)} conversations; together: {model.info.details['together']}")
    peers = {"generate": one_by_one} if arguments.alone else {"generate": one_by_one, "generate_batch": continuously}
    libraries = {name: library(arguments.folder) for name in peers}  # each a model of its own, as the library loads it
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(arguments.rounds):
        ours, speed = together(model, requests)
        print(f"together: {speed:.1f} tokens/s", flush=True)
        for name, way in peers.items():
            theirs, reference = way(libraries[name], prompts, arguments.tokens, model.info.eos)
            same = sum(one == other for one, other in zip(ours, theirs, strict=True))
            times[name].append(speed / reference)
            print(
                f"{name}: {reference:.1f} tokens/s, ours {speed / reference:.2f} times; same ids in {same}", flush=True
            )
    for name, found in times.items():
        print(f"{name}: ours {min(found):.2f} to {max(found):.2f} times, median {statistics.median(found):.2f}")


if __name__ == "__main__":
    main()
