"""Files that went wrong in every way at random: each is read, or gets errors at lines and columns that it has."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatbridge import ConfigError, Plugins, Settings
from chatbridge.config import load

from .samples import ENVIRONMENT, GOOD, write_files

COUNT = 500
"""Files in an everyday run; the fixture `scale` multiplies them."""

VALUES = (
    *(
        "~",
        "",
        "on",
        "no",
        "0123",
        "1_000",
        "12:30",
        ".nan",
        "-.inf",
        "1e999",
        "-1",
        "0",
        "3.7",
        "true",
        '""',
        "9" * 400,
    ),
    *("[]", "{}", "[[]]", "[1, a]", "{a: b}", "{a: {b: c}}", "[{}]", "!!str x", "!x y", "*big", "*nowhere", "&big x"),
    *(
        "${NOWHERE}",
        "${ROOMS_TOKEN}",
        "${",
        "$${",
        "${EMPTY}",
        "|",
        ">",
        "'",
        '"',
        "a: b",
        "@",
        "%",
        "`",
        "# gone",
        "---",
    ),
    *("~nobody/x", '"a\\0b"', '"\\e[31m"', '"\\ud800"', "/dev/null", ".", "\u2028", "世界", "x" * 5000, "- a", "? a"),
)
CHARACTERS = "{}[]:,-?&*!|>'\"%@`#~ \t\n\r\0\x07\x7f\x85\u2028\ufeff\ufffe😀é<=$\\"
KEYS = ("<<", "''", "model", "bots", "on", "?", "[a]", "{a: b}", "~", "token", "token_file", "name", "${A}", "a.b", "0")


def replaced(text: str, start: int, end: int, by: str) -> str:
    return text[:start] + by + text[end:]


def character(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    return replaced(text, at, at + dice.randint(0, 2), dice.choice(["", dice.choice(CHARACTERS), text[at] * 2]))


def line(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    change = dice.choice(["drop", "double", "swap", "move", "join"])
    if change == "drop":
        del lines[one]
    elif change == "double":
        lines.insert(other, lines[one])
    elif change == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif change == "move":
        lines.insert(other, lines.pop(one))
    else:
        lines[one : one + 2] = [" ".join(lines[one : one + 2])]
    return "\n".join(lines)


def indentation(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    start = dice.randrange(len(lines))
    for at in range(start, min(len(lines), start + dice.randint(1, 4))):
        bare = lines[at].lstrip(" ")
        lines[at] = dice.choice([" " * dice.randrange(12), "\t", "  \t", "- "]) + bare
    return "\n".join(lines)


def key(text: str, dice: random.Random) -> str:
    found = list(re.finditer(r"[\w-]+(?=:)", text))
    if not found:
        return text + "key: 1\n"
    one, other = dice.choice(found), dice.choice(found)
    misspelt = character(one[0], dice).strip() or "x"
    return replaced(text, *one.span(), dice.choice([other[0], misspelt, *KEYS]))


def value(text: str, dice: random.Random) -> str:
    found = list(re.finditer(r"(?<=: )[^\n,}{]+|(?<=: ){[^\n}]*}|(?<=\[)[^\],]+", text))
    return replaced(text, *dice.choice(found).span(), dice.choice(VALUES)) if found else text + "models: 5\n"


def cut(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    return dice.choice([text[:at], text[at:], text[:at] + text[dice.randrange(len(text)) :], text + text[at:]])


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (character, line, indentation, key, key, value, value, cut)


def mutated(dice: random.Random) -> bytes:
    """The good sample with one to three mistakes, or some bytes that are wrong."""
    text = GOOD.read_text(encoding="utf-8")
    for _ in range(dice.choice((1, 1, 2, 3))):
        text = dice.choice(MUTATIONS)(text, dice) or "x: 1\n"
    data = text.encode("utf-8", "surrogatepass")
    if dice.random() < 0.08:
        at = dice.randrange(len(data))
        data = data[:at] + dice.randbytes(dice.randint(1, 3)) + data[at + dice.randint(0, 2) :]
    if dice.random() < 0.05:
        data = data.replace(b"\n", dice.choice([b"\r\n", b"\r"]))
    return data if dice.random() > 0.03 else b"\xef\xbb\xbf" + data


def diagnostics_of(path: Path, plugins: Plugins) -> str:
    """Every error in a file; empty for a good one."""
    try:
        assert isinstance(load(path, plugins, ENVIRONMENT), Settings)
    except ConfigError as error:
        return str(error)
    return ""


def wrong_in(diagnostics: str, path: Path) -> Iterator[str]:
    """What is wrong with errors: a form other than `file:line:column: message`, a location outside the file."""
    lines = re.split(r"\r\n|\n|\r", path.read_bytes().decode("utf-8-sig", "replace"))
    found = re.findall(rf"(?m)^{re.escape(str(path))}:(\d+):(\d+): \S.*$", diagnostics)
    if len(found) != len(diagnostics.splitlines()):
        yield "not one error a line"
    for row, column in found:
        if not 1 <= int(row) <= len(lines) or not 1 <= int(column) <= len(lines[int(row) - 1]) + 1:
            yield f"there is no {row}:{column}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path / "bots.yaml"


def test_a_file_that_went_wrong_is_read_or_gets_errors(path: Path, plugins: Plugins, scale: int) -> None:
    bad = 0
    for seed in range(COUNT * scale):
        path.write_bytes(mutated(random.Random(seed)))
        try:
            diagnostics = diagnostics_of(path, plugins)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        assert list(wrong_in(diagnostics, path)) == [], (seed, diagnostics)
        bad += diagnostics != ""
    assert 0.5 < bad / (COUNT * scale) < 0.98, "most mutations are mistakes, and some are harmless"
