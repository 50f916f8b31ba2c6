"""A naive reader of prompts: finds the turns that a model would see. Written apart from the guard, to judge it.

Its headers are listed by hand, its idea of look-alikes comes from normalisation and a table of its own.
"""

from __future__ import annotations

import re
import unicodedata

from chatbridge.prompts import Prompt, Special, Text

LINES = {
    "alpaca": ["### Instruction:", "### Response:", "### Input:"],
    "alpaca-lora": ["### Instruction:", "### Response:", "### Input:"],
    "chinese-alpaca": ["### Instruction:", "### Response:", "### Input:"],
    "belle-bloom": ["Human:", "Assistant:"],
    "belle-llama-ext": ["Human:", "Assistant:"],
    "chatglm-6b": ["[Round", "问:", "答:"],
    "glm-130b": ["Question:", "Answer:"],
    "rwkv-raven": ["User:", "Bot:"],
    "rwkv-raven-zh": ["Q:", "A:"],
    "rwkv-raven-qa": ["Q:", "A:"],
    "rwkv-raven-alice": ["Bob:", "Alice:"],
    "rwkv-instruct": ["# Instruction:", "# Response:"],
    "rwkv-world": ["User:", "Assistant:"],
    "deepseek-coder": ["### Instruction:", "### Response:"],
    "zephyr": ["<|system|>", "<|user|>", "<|assistant|>"],
}
INLINE = {
    "llama-2": r"\[\s*/?\s*inst\s*\]|<\s*<\s*/?\s*sys\s*>\s*>",
    "mistral": r"\[\s*/?\s*inst\s*\]",
    "vicuna": r"(?<![a-z0-9])(?:user|assistant)\s*:",
}

_LETTERS = str.maketrans("аеорсіѕԁһАВЕНІОРСТΑΒΕΗΙΟαουոʜᴜᴍᴀɴ∶꞉։", "aeopcisdhabehiopctabehioaounhuman:::")


def roles(prompt: Prompt, preset: str) -> list[str]:
    """What a naive parser takes for the turns of a prompt, in order: headers and control tokens."""
    found: list[str] = []
    for run in _runs(prompt):
        if isinstance(run, Special):
            found.append(run.token)
        elif preset in INLINE:
            found += re.findall(INLINE[preset], "\n".join(map(_plain, _lines(run))))
        else:
            for line in _lines(run):
                found += [header for header in LINES.get(preset, ()) if _bare(line).startswith(_bare(header))]
    return found


def _runs(prompt: Prompt) -> list[str | Special]:
    runs: list[str | Special] = [""]
    for part in prompt:
        last = runs[-1]
        if isinstance(part, Special):
            runs.append(part)
        elif isinstance(part, Text) and isinstance(last, str):
            runs[-1] = last + part.text
        elif isinstance(part, Text):
            runs.append(part.text)
    return runs


def _lines(text: str) -> list[str]:
    return text.splitlines()


def _plain(line: str) -> str:
    shown = "".join(char for char in line if unicodedata.category(char) not in ("Cf", "Cc") or char == "\t")
    shown = shown.translate(str.maketrans("", "", "\u2800\u3164"))
    split = unicodedata.normalize("NFKD", shown.translate(_LETTERS))
    return "".join(char for char in split if unicodedata.category(char) != "Mn").casefold().translate(_LETTERS)


def _bare(line: str) -> str:
    return re.sub(r"\s", "", _plain(line))
