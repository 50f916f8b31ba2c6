"""How well the data tell the intents apart: a linear classifier on character n-grams, trained in seconds.

Iterate on the data against this before training the model for an hour.
"""

from __future__ import annotations

import argparse
from zlib import crc32

import torch
from dialogue import LANGUAGES, Writer, load_cases

BUCKETS = 1 << 17


def features(text: str) -> list[int]:
    """Hashed character 1- to 4-grams and words."""
    text = f"^{text.lower()}$"
    grams = [text[i : i + n] for n in (1, 2, 3, 4) for i in range(len(text) - n + 1)]
    return [crc32(gram.encode()) % BUCKETS for gram in [*grams, *(f" {word} " for word in text.split())]]


def batch(questions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [features(question) for question in questions]
    offsets = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
    return torch.tensor([bucket for row in rows for bucket in row]), offsets


def train(steps: int) -> tuple[torch.nn.EmbeddingBag, list[str]]:
    """The classifier, and the intents in the order of its outputs."""
    writer = Writer(seed=1)
    intents = list(writer.answers)
    model = torch.nn.EmbeddingBag(BUCKETS, len(intents), mode="mean")
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        exchanges = [writer.exchange() for _ in range(256)]
        target = torch.tensor([intents.index(exchange.intent) for exchange in exchanges])
        loss = torch.nn.functional.cross_entropy(model(*batch([exchange.question for exchange in exchanges])), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
    return model, intents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["dev"], help="the sets to judge by")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what went wrong; for dev only")
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    model, intents = train(options.steps)
    for name in options.sets:
        for language in LANGUAGES:
            cases = [case for case in load_cases((name,)) if case["language"] == language]
            scores = model(*batch([case["text"] for case in cases]))
            guesses = [intents[best] for best in scores.argmax(1).tolist()]
            wrong = [
                (case, guess)
                for case, guess in zip(cases, guesses, strict=True)
                if guess not in (case["intent"], *case.get("also", ()))
            ]
            print(f"{name} {language}: {1 - len(wrong) / len(cases):.1%} of {len(cases)}")
            if options.verbose and name == "dev":
                for case, guess in wrong:
                    print(f"    {case['text']}  ({case['intent']}, taken for {guess})")


if __name__ == "__main__":
    main()
