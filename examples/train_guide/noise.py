"""Makes clean questions look as people really type them: politeness, dropped words, slips, odd case and punctuation.

Knows the questions' language and intent, not their meaning.
"""

from __future__ import annotations

import random
import re

POLITE_EN = (
    "please |hi, |hey |hello, |ok |so |um |sorry, |quick question: |and |can you tell me |could you tell me |i wonder "
    "|excuse me, |question: |well, |btw |do you know |one more thing: |hi! |hey guide, |i'd like to know |just wondering, "
).split("|")
AFTER_EN = (
    " please| thanks| pls| thx|, thank you| now| exactly| ?| for me| again|, please help| i am new here|, any ideas"
    "| on my pc|, i forgot| if possible| here"
).split("|")
POLITE_ZH = (
    "请问|你好，|那个，|请教一下，|问一下|想问问|麻烦问下|请问一下，|话说|对了，|那|小白问一下，|我想知道|你知道|能告诉我|大佬，"
    "|不好意思，|另外|嗨，|再问一个，"
).split("|")
AFTER_ZH = "，谢谢|？谢谢|啊|呢|呀|，求教|，急|吗|，新手|，麻烦了|，帮忙看看|嘛|～|，在线等".split("|")
SHORT_TALK = {"greet", "bye", "thanks", "compliment", "insult", "confused", "how_are_you", "decline", "joke"}
DROPPABLE = set("the a an my is do i to in of for does it can please are".split())


def noisy(language: str, text: str, intent: str, rng: random.Random) -> str:
    return (_english if language == "en" else _chinese)(text, intent, rng)


def _english(text: str, intent: str, rng: random.Random) -> str:
    if intent not in SHORT_TALK:
        if rng.random() < 0.16:
            text = rng.choice(POLITE_EN) + text
        if rng.random() < 0.1:
            text += rng.choice(AFTER_EN)
    words = text.split()
    if len(words) > 3 and rng.random() < 0.2:
        words = [word for word in words if word.lower() not in DROPPABLE or rng.random() > 0.5]
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


def _chinese(text: str, intent: str, rng: random.Random) -> str:
    if intent not in SHORT_TALK:
        if rng.random() < 0.16:
            text = rng.choice(POLITE_ZH) + text
        if rng.random() < 0.1 and text[-1:] not in "吗呢啊呀？?":
            text += rng.choice(AFTER_ZH)
    if rng.random() < 0.15:
        text = re.sub(r"(?<=[a-zA-Z])(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])(?=[a-zA-Z])", " ", text)
    if rng.random() < 0.06 and len(text) > 5:
        drop = rng.randrange(len(text))
        text = text[:drop] + text[drop + 1 :]
    if rng.random() < 0.08:
        text = text.replace("telegram", "Telegram").replace("discord", "Discord").replace("gpu", "GPU")
    if rng.random() < 0.4 and text[-1:] not in "？?！!。~～":
        text += "？" if intent not in SHORT_TALK - {"decline"} else rng.choice("！。~")
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
