"""Writes the guide's training dialogue: questions from patterns, noise as people type it, and the fixed answers.

Everything comes from the files in `data/`; equal seeds give equal dialogue. Knows no tokenizer and no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

DATA = Path(__file__).with_name("data")
LANGUAGES = ("en", "zh")


class Pattern:
    """One line of a question file, parsed: `(a|b|)` picks one, `<name>` draws from a list of that name."""

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
        self.decline_share = decline_share
        self.intents = [intent for intent in self.answers if intent != "decline"]
        for language, grammar in self.grammars.items():
            if missing := set(self.answers) ^ set(grammar.patterns):
                raise ValueError(f"answers and {language} questions differ in {sorted(missing)}")

    def exchange(self, language: str = "") -> Exchange:
        rng = self.rng
        language = language or rng.choice(LANGUAGES)
        intent = "decline" if rng.random() < self.decline_share else rng.choice(self.intents)
        grammar = self.grammars[language]
        question = rng.choice(grammar.patterns[intent]).draw(rng, grammar.lists)
        noisy = (_noisy_en if language == "en" else _noisy_zh)(question, rng, intent)
        return Exchange(language, intent, noisy, self.answers[intent][language])

    def dialogue(self) -> list[Exchange]:
        """One to four exchanges, mostly one; the language may change between them."""
        turns = self.rng.choices((1, 2, 3, 4), (0.72, 0.16, 0.08, 0.04))[0]
        language = self.rng.choice(LANGUAGES)
        exchanges = []
        for _ in range(turns):
            exchanges.append(self.exchange(language))
            if self.rng.random() < 0.15:
                language = self.rng.choice(LANGUAGES)
        return exchanges

    def dialogues(self) -> Iterator[list[Exchange]]:
        while True:
            yield self.dialogue()


def load_answers() -> dict[str, dict[str, str]]:
    """The answer of each intent, by language."""
    raw = yaml.safe_load((DATA / "answers.yaml").read_text(encoding="utf-8"))
    return {intent: {language: entry[language] for language in LANGUAGES} for intent, entry in raw.items()}


def load_needs() -> dict[str, dict[str, list[str]]]:
    """The facts that make an answer right, by intent and language."""
    raw = yaml.safe_load((DATA / "answers.yaml").read_text(encoding="utf-8"))
    return {intent: entry["need"] for intent, entry in raw.items()}


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
            choices[-1].append(inner)
            at += 1
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


# --- noise: as people really type ------------------------------------------------------------------------------

_POLITE_EN = ("please ", "hi, ", "hey ", "hello, ", "ok ", "so ", "um ", "sorry, ", "quick question: ", "and ",
              "can you tell me ", "could you tell me ", "i wonder ", "excuse me, ", "question: ", "well, ", "btw ",
              "do you know ", "one more thing: ", "hi! ", "hey guide, ", "i'd like to know ", "just wondering, ")  # fmt: skip
_AFTER_EN = (" please", " thanks", " pls", " thx", ", thank you", " now", " exactly", " ?", " for me", " again",
             ", please help", " i am new here", ", any ideas", " on my pc", ", i forgot", " if possible", " here")  # fmt: skip
_POLITE_ZH = ("请问", "你好，", "那个，", "请教一下，", "问一下", "想问问", "麻烦问下", "请问一下，", "话说", "对了，", "那",
              "小白问一下，", "我想知道", "你知道", "能告诉我", "大佬，", "不好意思，", "另外", "嗨，", "再问一个，")  # fmt: skip
_AFTER_ZH = ("，谢谢", "？谢谢", "啊", "呢", "呀", "，求教", "，急", "吗", "，新手", "，麻烦了", "，帮忙看看", "嘛", "～", "，在线等")
_SHORT_TALK = {"greet", "bye", "thanks", "compliment", "insult", "confused", "how_are_you", "decline", "joke"}
_DROPPABLE = {"the", "a", "an", "my", "is", "do", "i", "to", "in", "of", "for", "does", "it", "can", "please", "are"}


def _noisy_en(text: str, rng: random.Random, intent: str) -> str:
    if intent not in _SHORT_TALK:
        if rng.random() < 0.16:
            text = rng.choice(_POLITE_EN) + text
        if rng.random() < 0.1:
            text += rng.choice(_AFTER_EN)
    words = text.split()
    if len(words) > 3 and rng.random() < 0.2:
        words = [word for word in words if word.lower() not in _DROPPABLE or rng.random() > 0.5]
    text = " ".join(words)
    if rng.random() < 0.12:
        text = _typo(text, rng)
    case = rng.random()
    if case < 0.35:
        text = text[:1].upper() + text[1:]
    elif case < 0.38:
        text = text.upper()
    end = rng.random()
    if end < 0.4 and text[-1:].isalnum():
        text += "?" if intent not in {"greet", "bye", "thanks", "compliment", "insult"} else "!"
    elif end < 0.5 and text[-1:].isalnum():
        text += rng.choice((".", "!", "??", " ?", "...", " :)"))
    return _named(text, rng, ("Anna", "Bob", "max", "Lena", "user42", "Tom", "小明"))


def _noisy_zh(text: str, rng: random.Random, intent: str) -> str:
    if intent not in _SHORT_TALK:
        if rng.random() < 0.16:
            text = rng.choice(_POLITE_ZH) + text
        if rng.random() < 0.1 and text[-1:] not in "吗呢啊呀？?":
            text += rng.choice(_AFTER_ZH)
    if rng.random() < 0.15:
        text = re.sub(r"(?<=[a-zA-Z])(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])(?=[a-zA-Z])", " ", text)
    if rng.random() < 0.06 and len(text) > 5:
        drop = rng.randrange(len(text))
        text = text[:drop] + text[drop + 1 :]
    if rng.random() < 0.08:
        text = text.replace("telegram", "Telegram").replace("discord", "Discord").replace("gpu", "GPU")
    if rng.random() < 0.4 and text[-1:] not in "？?！!。~～":
        text += "？" if intent not in _SHORT_TALK - {"decline"} else rng.choice("！。~")
    return _named(text, rng, ("小明", "阿花", "老王", "Anna", "张三"))


def _typo(text: str, rng: random.Random) -> str:
    if len(text) < 4:
        return text
    at = rng.randrange(1, len(text) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]


def _named(text: str, rng: random.Random, names: tuple[str, ...]) -> str:
    """In a group chat each message carries its speaker's name."""
    return f"{rng.choice(names)}: {text}" if rng.random() < 0.04 else text
