"""Trains the guide from scratch, or goes on from a checkpoint. Torch on the CPU, or on a GPU if there is one.

    python examples/train_guide/train.py --out runs/guide --minutes 60

Writes `<out>/checkpoint.pt` every two minutes and at the end, which Ctrl-C brings on, `<out>/tokens.model`, and
`<out>/loss.png`. Data are generated as they are needed, so no question comes twice but by chance. Knows the data and
the network, not the file format.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

# Without these glibc gives freed memory back after every step, and training runs at a fraction of its speed.
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
if __name__ == "__main__" and os.environ.get("MALLOC_MMAP_MAX_") != "0" and sys.platform == "linux":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_ALLOCATOR})

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
import vocabulary  # noqa: E402
from dialogue import Writer  # noqa: E402
from model import Guide, Shape  # noqa: E402

TOKENS = 8192
"""Tokens in a step, padding included."""

SYSTEMS = (
    "You are a helpful assistant.",
    "You are the librarian.",
    "You are the librarian of general. Be brief.",
    "You are a friendly bot.",
    "You are guide.",
    "You help newcomers of our server.",
    "You are an expert of local language models and answer questions about chatbridge.",
    "Answer in one sentence.",
    "Be brief.",
    "Be honest. Say so when you don't know something.",
    "Today is 2026-01-31. You are in the channel terminal.",
    "Speak like a pirate.",
    "你是一个有用的助手。",
    "你是图书管理员。",
    "你是 terminal 的图书管理员。请简短回答。",
    "你是友好的机器人。",
    "你是 guide，回答关于 chatbridge 的问题。",
    "请简短回答。",
    "请善待新人。",
    "今天是 2026-01-31。",
    "不知道就说不知道。",
)
"""System texts that the guide is to keep its knowledge under; it is too small to follow them."""


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz steps (Jordan et al. 2024); for hidden matrices."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                speed = state.setdefault("speed", torch.zeros_like(parameter))
                speed.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(speed, group["momentum"]))
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * 0.01)
                parameter.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Roughly the nearest matrix whose singular values are all 1, by a quintic iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def batches(words: vocabulary.Vocabulary, seed: int, short: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and targets of dialogues of like length, padded; a target of -100 is not learned.

    `short`: the share of single exchanges whose answer is cut after a few tokens. What tells intents apart stands
    at an answer's beginning, so that more questions fit a step.
    """
    writer = Writer(seed)
    waiting: dict[int, list[tuple[list[int], list[bool]]]] = defaultdict(list)
    while True:
        full = []
        for dialogue in (writer.dialogue() for _ in range(4096)):
            system = writer.rng.choice(SYSTEMS) if writer.rng.random() < 0.08 else ""
            ids, learned = words.ids(dialogue, system, dropout=0.1 if writer.rng.random() < 0.3 else 0.0)
            if len(dialogue) == 1 and writer.rng.random() < short:
                keep = learned.index(True) + writer.rng.choice((4, 6, 10))
                ids, learned = ids[:keep], learned[:keep]
            length = _padded(min(len(ids), Shape().context))
            rows = waiting[length]
            rows.append((ids[:length], learned[:length]))
            # Always the same number of rows for a length: a few shapes in all. Each new shape costs a compiled
            # kernel and another hole in the heap, until most of the time goes into finding memory.
            if len(rows) == TOKENS // length:
                full.append((waiting.pop(length), length))
        writer.rng.shuffle(full)
        for rows, length in full:
            yield _tensors(rows, length)


def _padded(length: int) -> int:
    step = 8 if length <= 64 else 32
    return -(-length // step) * step


def _tensors(group: list[tuple[list[int], list[bool]]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.zeros(len(group), length, dtype=torch.long)
    targets = torch.full((len(group), length), -100)
    for row, (ids, learned) in enumerate(group):
        inputs[row, : len(ids)] = torch.tensor(ids)
        wanted = torch.tensor(ids[1:])
        targets[row, : len(ids) - 1] = wanted.where(torch.tensor(learned[1:]), -100)
    return inputs, targets


def _places(learned: torch.Tensor) -> torch.Tensor:
    """Where something is learned, padded by places that are not to one of a few lengths; see `batches`."""
    places = learned.flatten().nonzero().flatten()
    rest = (~learned).flatten().nonzero().flatten()
    return torch.cat((places, rest[: -len(places) % 1024]))


def schedule(share: float) -> float:
    """The learning rate's factor over the run: a quick rise, a plateau, and a long fall over the last 40 %."""
    return min(1.0, share / 0.01, max(0.0, 1 - share) / 0.4)


def clock(device: str) -> float:
    """Seconds of computing. On a busy machine, waiting for the processor must not shorten the training."""
    return time.monotonic() if device == "cuda" else time.process_time() / torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--minutes", type=float, default=60, help="how long to train, in minutes of computing")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--warm-start", type=Path, help="begin from another checkpoint's weights and tokens")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--lr", type=float, default=1.0, help="factor on both learning rates")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)

    tokens, checkpoint = options.out / "tokens.model", options.out / "checkpoint.pt"
    if options.warm_start and not tokens.exists():
        tokens.write_bytes((options.warm_start.parent / "tokens.model").read_bytes())
    if not tokens.exists():
        vocabulary.train(tokens)
    words = vocabulary.Vocabulary(tokens)
    shape = Shape(vocabulary=words.pieces.get_piece_size())
    model = Guide(shape).to(device)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}, {words.pieces.get_piece_size()} pieces"
    )

    hidden = [p for layer in model.layers for p in layer.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in hidden)]
    optimizers = [Muon(hidden, lr=0.02), torch.optim.AdamW(others, lr=0.003, betas=(0.9, 0.95), weight_decay=0.0)]
    bases = [group["lr"] * options.lr for optimizer in optimizers for group in optimizer.param_groups]
    history: list[tuple[float, float]] = []
    spent = 0.0
    if options.resume:
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        history, spent = saved["history"], saved["spent"]
    elif options.warm_start:
        model.load_state_dict(torch.load(options.warm_start, weights_only=True)["model"])
    torch._dynamo.config.recompile_limit = 32  # one kernel for each length of rows
    run = torch.compile(model.hidden, dynamic=False) if options.compile else model.hidden

    def save() -> None:
        torch.save(
            {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "shape": asdict(shape),
                "history": history,
                "spent": spent,
            },
            checkpoint.with_suffix(".new"),
        )
        checkpoint.with_suffix(".new").replace(checkpoint)

    total = options.minutes * 60
    source = batches(words, options.seed + len(history), short=0.8)
    started = clock(device)
    saved_at = told_at = time.monotonic()
    seen, losses = 0, []
    stop: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stop.append(number))
    while spent < total and not stop:
        inputs, targets = next(source)
        factor = schedule(spent / total)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, bases, strict=True):
            group["lr"] = base * factor
        with torch.autocast(device, torch.bfloat16):
            ids = inputs.to(device)
            wanted = targets.to(device)
            places = _places(wanted != -100)
            logits = model.head(run(ids).flatten(0, 1)[places])
            loss = F.cross_entropy(logits.float(), wanted.flatten()[places], ignore_index=-100)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        seen += inputs.numel()
        spent, started = spent + clock(device) - started, clock(device)
        now = time.monotonic()
        if now - told_at > 10:
            mean = sum(losses) / len(losses)
            history.append((spent, mean))
            bar = f"[{'#' * int(30 * spent / total):<30}] {spent / 60:5.1f}/{options.minutes:g} min"
            print(f"{bar}  loss {mean:.4f}  {seen / (now - told_at):,.0f} tok/s", flush=True)
            losses, seen, told_at = [], 0, now
        if now - saved_at > 120:
            save()
            saved_at = now
    save()
    plot(history, options.out / "loss.png")


def plot(history: list[tuple[float, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot([spent / 60 for spent, _ in history], [loss for _, loss in history])
    axes.set(xlabel="minutes", ylabel="loss on answers", yscale="log", title="guide: training loss")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
