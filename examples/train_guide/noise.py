"""Makes clean questions look as people really type them: other words, politeness, dropped words, slips, odd case.

What people put in and leave out stands in `data/habits.yaml`. Knows the language of a question, not its meaning.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HABITS = Path(__file__).with_name("data") / "habits.yaml"
SMALL_TALK = {"greet", "bye", "thanks", "compliment", "insult", "confused", "how_are_you", "joke"}
"""Intents that are left without politeness around them, and mostly without a question mark."""


@dataclass(slots=True)
class Noise:
    """The habits of one language. Each is followed now and then, so that clean questions come, too."""

    language: str
    habits: dict[str, Any] = field(init=False)
    synonyms: dict[str, list[str]] = field(init=False)
    spoken: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self.habits = yaml.safe_load(HABITS.read_text(encoding="utf-8"))[self.language]
        self.synonyms = {}
        for group in self.habits["synonyms"]:
            for word in group:
                # Chinese has no gaps between words: a single character is mostly a part of another one.
                if self.language == "en" or len(word) > 1 or word in "吗啥咋":
                    self.synonyms.setdefault(str(word), []).extend(str(other) for other in group if other != word)
        longest_first = sorted(self.synonyms, key=len, reverse=True)
        words = "|".join(re.escape(word) for word in longest_first)
        self.spoken = re.compile(rf"(?<![\w-])(?:{words})(?![\w'-])" if self.language == "en" else words)

    def add(self, text: str, intent: str, rng: random.Random) -> str:
        text = self._other_words(text, rng)
        if intent not in SMALL_TALK:
            text = self._frame(text, rng)
        text = (self._english if self.language == "en" else self._chinese)(text, rng)
        if rng.random() < 0.4 and text[-1:].isalnum():
            text += rng.choice("!.~") if intent in SMALL_TALK else "？" if self.language == "zh" else "?"
        elif rng.random() < 0.1 and text[-1:].isalnum():
            text += rng.choice((".", "!", "??", " ?", "...", " :)"))
        if rng.random() < 0.04:  # in a group chat each message carries its speaker's name
            text = f"{rng.choice(self.habits['names'])}: {text}"
        return text

    def _other_words(self, text: str, rng: random.Random) -> str:
        if rng.random() < 0.5:
            return text
        return self.spoken.sub(lambda hit: rng.choice(self.synonyms[hit[0]]) if rng.random() < 0.3 else hit[0], text)

    def _frame(self, text: str, rng: random.Random) -> str:
        if rng.random() < 0.16:
            text = rng.choice(self.habits["before"]) + text
        if rng.random() < 0.12:
            text += rng.choice(self.habits["after"])
        return text

    def _english(self, text: str, rng: random.Random) -> str:
        words = text.split()
        if len(words) > 3 and rng.random() < 0.25:
            words = [word for word in words if word.lower() not in self.habits["droppable"] or rng.random() > 0.5]
        text = " ".join(words) or text
        if rng.random() < 0.1:
            text = text.replace("'", "")
        for _ in range(rng.choices((0, 1, 2), (0.84, 0.12, 0.04))[0]):
            text = _slip(text, rng)
        case = rng.random()
        return text[:1].upper() + text[1:] if case < 0.35 else text.upper() if case < 0.37 else text

    def _chinese(self, text: str, rng: random.Random) -> str:
        if len(text) > 5 and rng.random() < 0.15:
            at = rng.randrange(len(text))
            for word in rng.sample(self.habits["droppable"], 6):
                found = text.find(word, at)
                if found >= 0:
                    text = text[:found] + text[found + len(word) :]
        if rng.random() < 0.15:
            text = re.sub(r"(?<=[a-zA-Z])(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])(?=[a-zA-Z])", " ", text)
        if len(text) > 5 and rng.random() < 0.06:
            at = rng.randrange(len(text))
            text = text[:at] + text[at + 1 :]
        return text


def _slip(text: str, rng: random.Random) -> str:
    """One letter left out, doubled, or swapped with its neighbour."""
    if len(text) < 4:
        return text
    at = rng.randrange(1, len(text) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]
