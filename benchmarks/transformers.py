"""How fast the transformers backend answers 8 conversations, on one thread, beside the library's own `generate`.

Both run in the same process and are counted in processor time, since other programs may be running. The greedy ids of
both are compared as well. Any model's folder will do; a chat model that has ChatML's marks is asked by these.

    python benchmarks/transformers.py FOLDER [--tokens 48]
"""

# ruff: noqa: E402  this file is called as the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import torch
import transformers
from chatbridge_transformers.backend import load
from chatbridge_transformers.model import TransformersModel
from chatbridge_transformers.options import TransformersOptions

from chatbridge import Prompt, Request, Sampling, Special, Text
from chatbridge.engine.engine import Engine

QUESTIONS = (
    "What is the capital of France?", "Write a poem about the sea.", "How do I bake bread?", "Tell me of Rome.",
    "Why is the sky blue?", "Who was Newton?", "Name three fruits.", "What is a bridge?",
)  # fmt: skip


def prompt(model: TransformersModel, question: str) -> Prompt:
    if model.tokenizer.special("<|im_start|>") is None:
        return (Special("bos"), Text(question))
    begin, end = Special("<|im_start|>"), Special("<|im_end|>")
    return (begin, Text(f"user\n{question}"), end, Text("\n"), begin, Text("assistant\n"))


def together(model: TransformersModel, requests: Sequence[Request]) -> tuple[dict[str, tuple[int, ...]], float]:
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
    return found, generated / (time.process_time() - start)


def one_by_one(
    folder: Path, prompts: Sequence[Sequence[int]], count: int, ends: Sequence[int]
) -> tuple[list[tuple[int, ...]], float]:
    """The same by `generate`."""
    library = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    found, generated = [], 0
    start = time.process_time()
    for ids in prompts:
        given = torch.tensor([list(ids)])
        with torch.inference_mode():
            row = library.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False, pad_token_id=0
            )[0, len(ids) :].tolist()
        generated += len(row)
        found.append(tuple(token for token in row if token not in ends))
    return found, generated / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    options = TransformersOptions.model_validate(
        {"path": arguments.folder, "threads": 1, "device": "cpu", "dtype": "float32"}
    )
    model = load(options, lambda share, doing: None)
    sampling = Sampling(temperature=0, max_tokens=arguments.tokens)
    requests = [Request(prompt(model, text), id=str(n), sampling=sampling) for n, text in enumerate(QUESTIONS)]
    ours, speed = together(model, requests)
    prompts = [Engine(model, cache_bytes=0).tokenize(request.prompt) for request in requests]
    theirs, reference = one_by_one(arguments.folder, prompts, arguments.tokens, model.info.eos)
    same = sum(ours[str(n)] == ids for n, ids in enumerate(theirs))
    print(f"{len(requests)} conversations together ({model.info.details['together']}): {speed:.1f} tokens/s")
    print(f"one after another by generate: {reference:.1f} tokens/s; {speed / reference:.2f} times as fast")
    print(f"the same ids in {same} of {len(requests)}")


if __name__ == "__main__":
    main()
