"""How well the data tell the intents apart: a linear classifier on character n-grams, trained in seconds.

Iterate on the data against this before training the model for an hour. Usage: python classify.py [dev|validation]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from zlib import crc32

import torch
from dialogue import LANGUAGES, Writer

BUCKETS = 1 << 16
EVAL = Path(__file__).with_name("eval")


def features(text: str) -> list[int]:
    """Hashed character 1- to 4-grams and words."""
    text = f"^{text.lower()}$"
    grams = [text[i : i + n] for n in (1, 2, 3, 4) for i in range(len(text) - n + 1)]
    return [crc32(gram.encode()) % BUCKETS for gram in [*grams, *(f" {word} " for word in text.split())]]


def batch(questions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [features(question) for question in questions]
    offsets = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
    return torch.tensor([bucket for row in rows for bucket in row]), offsets


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "dev"
    writer = Writer(seed=1)
    labels = {intent: i for i, intent in enumerate(writer.answers)}
    model = torch.nn.EmbeddingBag(BUCKETS, len(labels), mode="mean")
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(400):
        exchanges = [writer.exchange() for _ in range(256)]
        ids, offsets = batch([exchange.question for exchange in exchanges])
        target = torch.tensor([labels[exchange.intent] for exchange in exchanges])
        loss = torch.nn.functional.cross_entropy(model(ids, offsets), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    names = list(labels)
    for language in LANGUAGES:
        cases = [json.loads(line) for line in (EVAL / f"{wanted}.{language}.jsonl").read_text("utf-8").splitlines()]
        guesses = model(*batch([case["text"] for case in cases])).argmax(1).tolist()
        wrong = [
            (case, names[guess])
            for case, guess in zip(cases, guesses, strict=True)
            if names[guess] not in (case["intent"], *case.get("also", ()))
        ]
        print(f"{wanted} {language}: {1 - len(wrong) / len(cases):.1%} of {len(cases)}")
        if "-v" in sys.argv:
            for case, guess in wrong:
                print(f"    {case['text']}  ({case['intent']}, taken for {guess})")


if __name__ == "__main__":
    main()
