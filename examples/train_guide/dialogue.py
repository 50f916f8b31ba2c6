"""Writes the guide's training dialogue: questions from patterns, noise as people type it, and the fixed answers.

Everything comes from the files in `data/`; equal seeds give equal dialogue. What stands in `eval/` is never written.
Knows no tokenizer and no model.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from noise import Noise

DATA = Path(__file__).with_name("data")
EVAL = Path(__file__).with_name("eval")
LANGUAGES = ("en", "zh")


class Pattern:
    """One line of a question file: `(a|b)` picks one, `(a)?` perhaps none, `<name>` draws from a list."""

    def __init__(self, text: str) -> None:
        self._parts, rest = _alternatives(text, 0)
        if rest != len(text):
            raise ValueError(f"unbalanced brackets in pattern: {text}")

    def draw(self, rng: random.Random, lists: dict[str, Pattern]) -> str:
        return _draw(self._parts, rng, lists)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question with the intent that it belongs to and the answer it gets."""

    language: str
    intent: str
    question: str
    answer: str


@dataclass(slots=True)
class Grammar:
    """The patterns of one language, by intent."""

    language: str
    patterns: dict[str, list[Pattern]] = field(default_factory=dict)
    lists: dict[str, Pattern] = field(default_factory=dict)

    @classmethod
    def load(cls, language: str) -> Grammar:
        grammar = cls(language)
        grammar._read(DATA / f"questions.{language}.txt", "")
        grammar._read(DATA / f"indirect.{language}.txt", "")
        grammar._read(DATA / f"outside.{language}.txt", "decline")
        return grammar

    def _read(self, path: Path, intent: str) -> None:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if heading := re.fullmatch(r"\[(\w+)\]", line):
                intent = heading[1]
            elif listed := re.fullmatch(r"@(\w+) = (.*)", line):
                self.lists[listed[1]] = Pattern(listed[2])
            else:
                self.patterns.setdefault(intent, []).append(Pattern(line))


class Writer:
    """Draws exchanges: an intent, a pattern of it, and noise on top.

    `decline_share`: how many questions are out of the guide's depth. They are endlessly various, while the intents
    are few, so they get more than an intent's equal share.
    """

    def __init__(self, seed: int, decline_share: float = 0.18) -> None:
        self.rng = random.Random(seed)
        self.answers = load_answers()
        self.grammars = {language: Grammar.load(language) for language in LANGUAGES}
        self.noises = {language: Noise(language) for language in LANGUAGES}
        self.decline_share = decline_share
        self.intents = [intent for intent in self.answers if intent != "decline"]
        self.held_out = {bare(case["text"]) for case in load_cases()}
        for language, grammar in self.grammars.items():
            if missing := set(self.answers) ^ set(grammar.patterns):
                raise ValueError(f"answers and {language} questions differ in {sorted(missing)}")

    def exchange(self, language: str = "") -> Exchange:
        rng = self.rng
        language = language or rng.choice(LANGUAGES)
        intent = "decline" if rng.random() < self.decline_share else rng.choice(self.intents)
        grammar = self.grammars[language]
        while True:
            question = rng.choice(grammar.patterns[intent]).draw(rng, grammar.lists)
            noisy = self.noises[language].add(question, intent, rng)
            if bare(noisy) not in self.held_out:
                return Exchange(language, intent, noisy, self.answers[intent][language])

    def dialogue(self) -> list[Exchange]:
        """One to six exchanges, mostly one; the language may change between them."""
        turns = self.rng.choices((1, 2, 3, 4, 5, 6), (0.55, 0.16, 0.11, 0.08, 0.06, 0.04))[0]
        language = self.rng.choice(LANGUAGES)
        exchanges = []
        for _ in range(turns):
            exchanges.append(self.exchange(language))
            if self.rng.random() < 0.3:
                language = self.rng.choice(LANGUAGES)
        return exchanges

    def dialogues(self) -> Iterator[list[Exchange]]:
        while True:
            yield self.dialogue()


def load_answers() -> dict[str, dict[str, str]]:
    """The answer of each intent, by language."""
    return {intent: {language: entry[language] for language in LANGUAGES} for intent, entry in _intents().items()}


def load_needs() -> dict[str, dict[str, list[str]]]:
    """The facts that make an answer right, by intent and language."""
    return {intent: entry["need"] for intent, entry in _intents().items()}


@cache
def _intents() -> dict[str, dict[str, Any]]:
    intents: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "answers.yaml").read_text(encoding="utf-8"))
    return intents


def load_cases(names: tuple[str, ...] = ("dev", "validation", "blind")) -> list[dict[str, Any]]:
    """The evaluation questions of the named sets: `language`, `intent`, `text`, perhaps `also`: other right intents."""
    return [
        {"language": language, **json.loads(line)}
        for name in names
        for language in LANGUAGES
        for line in (EVAL / f"{name}.{language}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def bare(text: str) -> str:
    """The text without case, blanks and punctuation: equal for questions that are the same."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())


# --- patterns --------------------------------------------------------------------------------------------------

Part = str | tuple[str, str] | list[list["Part"]]  # text, a list's name, or alternatives


def _alternatives(text: str, at: int) -> tuple[list[list[Part]], int]:
    choices: list[list[Part]] = [[]]
    while at < len(text) and text[at] != ")":
        if text[at] == "|":
            choices.append([])
            at += 1
        elif text[at] == "(":
            inner, at = _alternatives(text, at + 1)
            if at >= len(text):
                raise ValueError(f"unbalanced brackets in pattern: {text}")
            at += 1
            if text[at : at + 1] == "?":
                inner.append([])
                at += 1
            choices[-1].append(inner)
        elif name := re.compile(r"<([a-z]+)>").match(text, at):
            choices[-1].append(("list", name[1]))
            at = name.end()
        else:
            end = re.compile(r"\\.|[^|()<\\]+|<").match(text, at)
            assert end is not None
            choices[-1].append(end[0].removeprefix("\\"))
            at = end.end()
    return choices, at


def _draw(choices: list[list[Part]], rng: random.Random, lists: dict[str, Pattern]) -> str:
    drawn = []
    for part in rng.choice(choices):
        if isinstance(part, str):
            drawn.append(part)
        elif isinstance(part, tuple):
            drawn.append(lists[part[1]].draw(rng, lists))
        else:
            drawn.append(_draw(part, rng, lists))
    return "".join(drawn)
