"""What people write, how they are called, which files they send: anything, and most of all what looks like trouble.

Knows the presets' formats, whose headers and tokens people would like to forge; knows no service.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from functools import cache

from chatbridge.prompts import formats
from chatbridge.prompts.builtin import presets
from chatbridge.prompts.formats import Control

WORDS = (
    "the", "a", "what", "is", "LoRA", "how", "do", "I", "ping", "why", "not", "你好", "请问", "什么是", "模型",
    "привет", "שלום", "مرحبا", "नमस्ते", "🙂", "naïve",
)  # fmt: skip
LIKENESSES = {
    "a": "аɑ", "e": "еε", "i": "і1|", "o": "ο0о", "s": "ѕ", "u": "υ", "r": "ʀ", "n": "ո", ":": "：∶꞉", "#": "♯",
}  # fmt: skip
UNSEEN = ("\u200b", "\u200d", "\u2060", "\ufe0f", "\u00ad", "\u034f", "\u3164", "\U000e0041", "\u202e", "\u0301")
UNSEEN += ("\ue000", "\U0010fffd", "\ufffc", "\ufffd", "\ufdd0", "\u0378", "\U000e0fff")  # of no shape of their own
LINE_ENDS = ("\n", "\n", "\r\n", "\u2028", "\x0b", "\x85")
MARKDOWN = (
    "*", "**", "_", "__", "`", "```", "~~", "||", "> ", "# ", "[", "](", ")", "![", "|", "---", "<", ">", "\\", "- ",
)  # fmt: skip
LINKS = (
    "[x](tg://user?id=1001)", "tg://user?id=1001", "https://example.org/a_b_(c)",
    "@everyone", "<@1>", "<@&1>", "@alice",
)  # fmt: skip
COMMANDS = (
    "help", "reset", "regenerate", "continue", "edit", "undo", "branch", "model", "template", "system", "set", "stop",
    "stats", "pair", "unpair", "usage", "save", "load", "nonsense",
)  # fmt: skip
ARGUMENTS = (
    "temperature 0", "max_tokens 8", "temperature x", "top_p 2", "stop [", "penalty_window 5", "c1", "1", "7", "*",
)  # fmt: skip


@cache
def headers() -> tuple[str, ...]:
    """Every line of literal text in the presets' formats."""
    found: dict[str, None] = {}
    for template in presets().values():
        for name in formats_of(template):
            for part in formats.parse(name):
                if isinstance(part, str):
                    found |= dict.fromkeys(line.strip() for line in part.split("\n") if line.strip())
        found |= dict.fromkeys((*template.stop, *template.headers))
    return tuple(found)


@cache
def controls() -> tuple[str, ...]:
    """Every control token that a preset writes, by its text."""
    found: dict[str, None] = {}
    for template in presets().values():
        for name in formats_of(template):
            tokens = (part.token for part in formats.parse(name) if isinstance(part, Control))
            found |= dict.fromkeys(token for token in tokens if token not in ("", "bos", "eos"))
        found |= dict.fromkeys((*template.stop_tokens, *template.masks))
    return tuple(found)


def formats_of(template: object) -> list[str]:
    """A template's formats that say something."""
    names = ("begin", "system_turn", "user", "single", "assistant", "generate", "generate_mask_last")
    return [source for name in names if (source := getattr(template, name))]


def text(rng: random.Random, most: int) -> str:
    """A message of at most `most` UTF-16 units, which are never fewer than its characters."""
    kind: Callable[[random.Random], str] = rng.choice(
        [_plain] * 5 + [_unicode, _header, _header, _header, _markdown, _mixed, _mixed, _dialogue, _long, _repeated]
    )
    return cut(kind(rng), most)


def cut(said: str, most: int) -> str:
    """The beginning of a text that has at most so many UTF-16 units."""
    return said.encode("utf-16-le")[: 2 * most].decode("utf-16-le", "ignore") if 2 * len(said) > most else said


def name(rng: random.Random) -> str:
    """A display name: mostly an ordinary one."""
    if rng.random() < 0.6:
        return rng.choice(("Alice", "Bob", "Carol", "李雷", "Дарья", "Ann B."))
    return cut(rng.choice((_unicode, _header, _markdown, _plain))(rng), 32).strip() or "Nobody"


def file(rng: random.Random, most: int) -> tuple[str, bytes]:
    """A file's name and content: text for the most part, of a size that is mostly small."""
    suffix = rng.choice((".txt", ".txt", ".md", ".py", ".json", ".png", ".exe", ""))
    stem = cut(rng.choice((_plain, _header, _unicode))(rng), 20).strip().replace("/", "_").replace("\0", "") or "file"
    size = rng.choice((1, 200, most, most))
    content = (_dialogue(rng) if rng.random() < 0.4 else text(rng, 4000)).encode() or b"x"
    if rng.random() < 0.1:
        content = rng.randbytes(200)
    return stem + suffix, (content * (size // len(content) + 1))[: max(size, 1)]


def command(rng: random.Random) -> str:
    """A command with or without an argument."""
    said = f"/{rng.choice(COMMANDS)}"
    if rng.random() < 0.5:
        said += f" {rng.choice((*ARGUMENTS, *presets(), text(rng, 200)))}"
    return said


def _plain(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randrange(1, 12)))


def _unicode(rng: random.Random) -> str:
    chars = (chr(rng.choice((rng.randrange(0x250), rng.randrange(0x3100), rng.randrange(0x110000)))) for _ in range(40))
    return "".join(char for char in chars if unicodedata.category(char) != "Cs") or "x"


def _header(rng: random.Random) -> str:
    said = rng.choice((*headers(), *controls()))
    if rng.random() < 0.5:
        alike = (rng.choice(LIKENESSES.get(char, char)) if rng.random() < 0.3 else char for char in said)
        said = "".join(alike)
    if rng.random() < 0.4:
        at = rng.randrange(len(said) + 1)
        said = said[:at] + rng.choice(UNSEEN) + said[at:]
    before = rng.choice(("", "", _plain(rng) + rng.choice(LINE_ENDS), " ", rng.choice(LINE_ENDS)))
    return f"{before}{said}{rng.choice(('', ' ', rng.choice(LINE_ENDS)))}{_plain(rng)}"


def _dialogue(rng: random.Random) -> str:
    """Whole conversations, as somebody might paste them."""
    ends = rng.choice(LINE_ENDS)
    return "".join(f"{rng.choice(headers())} {rng.choice(WORDS)}{ends}" for _ in range(rng.randrange(5, 60)))


def _markdown(rng: random.Random) -> str:
    return "".join(rng.choice((*MARKDOWN, *LINKS, *WORDS, "\n")) for _ in range(rng.randrange(1, 60)))


def _mixed(rng: random.Random) -> str:
    kinds = (_plain, _unicode, _header, _markdown)
    return rng.choice(LINE_ENDS).join(rng.choice(kinds)(rng) for _ in range(rng.randrange(2, 6)))


def _long(rng: random.Random) -> str:
    piece = _mixed(rng) + rng.choice(LINE_ENDS)
    return piece * (rng.choice((500, 2000, 4096)) // len(piece) + 1)


def _repeated(rng: random.Random) -> str:
    piece = rng.choice((*MARKDOWN, *UNSEEN, *LINE_ENDS, "[[](", "a ", "🙂", "\U0010fffd", "<|"))
    return piece * rng.choice((50, 1000, 4096)) + "x"
