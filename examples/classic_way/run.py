"""The classic way of a model, from nothing to a chat: train, convert, tune, merge, convert, quantise, plan, talk.

    python examples/classic_way/run.py --out runs/classic

A LLaMA of half a million weights learns what animals eat, and an adapter teaches it to answer Alpaca's prompts; from
there on it goes the way that LLaMA, Alpaca-LoRA and llama.cpp went in 2023, by `chatbridge model`. Needs torch,
sentencepiece and the llama_cpp backend, and some minutes. Knows the steps; the network is in `model.py`.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import torch
from model import Adapted, Llama, Shape, load_hf, save_adapter, save_meta
from text import ANIMALS, conversations, questions, stories
from torch import Tensor
from torch.nn.functional import cross_entropy

LENGTH, BATCH = 60, 16
IGNORED = -100
LEAST_STEPS = 20

BOTS = """\
models:
  tiny:
    backend: llama_cpp
    path: animals-q4_0.gguf
    context_length: 512
defaults:
  model: tiny
  template: alpaca-lora
  sampling: {temperature: 0, max_tokens: 24}
"""
"""What the chat at the end is set up by."""


def main() -> None:
    """Go all the way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder, which is made")
    parser.add_argument("--steps", type=int, default=300, help="of the first training; the second has as many")
    parser.add_argument("--questions", type=int, default=8, help="that are asked at the end")
    given = parser.parse_args()
    everything = [pair for name in ANIMALS for pair in questions(name)]
    if given.steps < LEAST_STEPS:
        parser.error(f"--steps: {LEAST_STEPS} or more, of which a tenth warms up")
    if not 1 <= given.questions <= len(everything):
        parser.error(f"--questions: 1 to {len(everything)}")
    out: Path = given.out
    torch.manual_seed(1)
    llama, alpaca = out / "llama", out / "alpaca-lora"
    for folder in (llama, alpaca):
        folder.mkdir(parents=True, exist_ok=True)

    vocabulary = train_vocabulary(llama)
    shape = Shape(vocabulary.vocab_size())
    model = Llama(shape)
    train(model, pretraining(vocabulary), given.steps, 2e-3)
    save_meta(model, llama)
    chatbridge("model", "inspect", llama)

    chatbridge("model", "convert", llama, "-o", out / "llama-hf", "--to", "hf")
    model = load_hf(out / "llama-hf", shape)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in [module for module in model.modules() if isinstance(module, Adapted)]:
        module.adapt(rank=16, scale=2.0)
    train(model, tuning(vocabulary), given.steps, 3e-3)
    save_adapter(model, alpaca, out / "llama-hf")

    chatbridge("model", "merge", out / "llama-hf", alpaca, "-o", out / "alpaca-hf", "--to", "hf")
    chatbridge("model", "convert", out / "alpaca-hf", "-o", out / "animals-f16.gguf", "--to", "f16")
    chatbridge("model", "quantize", out / "animals-f16.gguf", "-o", out / "animals-q4_0.gguf", "q4_0")
    chatbridge("model", "plan", out / "animals-q4_0.gguf")
    (out / "bots.yaml").write_text(BOTS, encoding="utf-8")
    right = 0
    asked = everything[:: len(everything) // given.questions][: given.questions]
    for question, answer in asked:
        said = chatbridge("repl", "-c", out / "bots.yaml", "-p", question).strip()
        right += said == answer
    print(f"{right} of {len(asked)} answers are right, with weights of 4 bits")


def chatbridge(*words: object) -> str:
    """Run a command as a person would, and show what it prints."""
    command = [sys.executable, "-m", "chatbridge", *map(str, words)]
    print("$", "chatbridge", *map(str, words), flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    print(done.stdout, flush=True)
    return done.stdout


def train_vocabulary(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """tokenizer.model, as LLaMA's: byte-pair merges, with single bytes for all else."""
    lines = list(itertools.islice(stories(2), 2000)) + [a + b for a, b in itertools.islice(conversations(2), 500)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=640,
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", minloglevel=2,
        remove_extra_whitespaces=False,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def pretraining(vocabulary: sentencepiece.SentencePieceProcessor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of ids, and of those that come next."""
    for lines in batched(stories(3)):
        rows = [[1, *vocabulary.encode(line), 2] for line in lines]
        ids, wanted = (torch.tensor([padded(row, filler) for row in rows]) for filler in (2, IGNORED))
        yield ids[:, :-1], wanted[:, 1:]


def tuning(vocabulary: sentencepiece.SentencePieceProcessor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of prompts and answers, of which the answers alone are learnt."""
    for pairs in batched(conversations(4)):
        rows = []
        for prompt, answer in pairs:
            before = [1, *vocabulary.encode(prompt)]
            after = [*vocabulary.encode(answer), 2]
            rows.append((padded(before + after, 2), padded([IGNORED] * len(before) + after, IGNORED)))
        yield torch.tensor([ids for ids, _ in rows])[:, :-1], torch.tensor([wanted for _, wanted in rows])[:, 1:]


def batched(source: Iterator[object]) -> Iterator[list]:  # type: ignore[type-arg]
    """Lists of as many as a step takes."""
    while True:
        yield list(itertools.islice(source, BATCH))


def padded(ids: list[int], filler: int) -> list[int]:
    """As many as all rows have."""
    return (ids + [filler] * (LENGTH + 1))[: LENGTH + 1]


def train(model: Llama, batches: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float) -> None:
    """So many steps of AdamW, with a rate that falls to nothing."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    begun = time.monotonic()
    for step, (ids, following) in enumerate(itertools.islice(batches, steps), 1):
        loss = cross_entropy(model(ids).flatten(0, 1), following.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
