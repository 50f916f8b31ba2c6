"""What people mistype in YAML, found in the lines of the file, so that an error can say what to type instead.

YAML reads a full-width colon or `key:value` as plain text, and its parser complains later, in words of its own. Looks
only at lines where there is an error already: what stands there may be right elsewhere. Knows no key of ours, and
repeats no value, which may be secret.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_KEY = r"[ \t]*(?:- +)?(?P<key>[\w.-]+)"
_QUOTED = re.compile(r"""(?<![^\s,:\[{-])(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')""")

_LONGEST = 1000
"""Characters of a line that are looked at: nobody types more, and the patterns may take the square of its time."""

_BLANKS = "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"
_INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff]")
_ODD_BLANK = re.compile(rf"^\s*[{_BLANKS}]|[:：]\s*[{_BLANKS}]")

_PLAIN = {
    "：": ":", "，": ",", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "「": '"', "【": "[", "】": "]", "［": "[",
    "］": "]", "｛": "{", "｝": "}", "－": "-", "—": "-", "–": "-", "＃": "#", "＆": "&", "＊": "*", "｜": "|",
}  # fmt: skip
"""The signs of Chinese keyboards and of word processors, and those of YAML that are meant."""

_SIGNS = (
    re.compile(r"^[ \t]*(?:- +)?[\w.-]+[ \t]*(?P<sign>：)"),  # behind a key
    re.compile(r"^[ \t]*(?P<sign>[－—–])"),  # before an item
    re.compile(r"[:：\[{,，-][ \t]*(?P<sign>[“„‘「【［｛＃＆＊｜])"),  # where a value begins
    re.compile(r"[\[{].*?(?P<sign>[，】］｝])"),  # inside brackets
)

_FORMS = (
    (r"\s*```", "remove this line: ``` belongs to the page that the file was copied from"),
    (r"\[+[\w. -]+\]+\s*$", "a section begins by `name:`, with its keys indented below; [name] is INI or TOML"),
    (_KEY + r"[ \t]*=", "write `{key}:` and a blank in place of ="),
    (r" *\t", "indent by blanks, not by tabs"),
    (_KEY + r":[ \t]+(?:\$\w|%\w+%|\$\(|\{\{)", "a variable of the environment is written ${{NAME}}"),
    (_KEY + r":[ \t]+#", "what stands behind # is a comment; put the value in quotes if it begins with #"),
    (_KEY + r":(?=[^\s/\\:]+[ \t]*$)", "write a blank behind the colon of `{key}:`"),
    (r"[ \t]*-(?=[^\s-][^:]*$)", "write a blank behind the - that begins an item of a list"),
)  # fmt: skip
"""How a line may begin, and what to do; the first that fits counts."""

_APOSTROPHE = re.compile(r"[^\"]*'[^']*(?P<sign>\w'\w)")

_COMPILED = tuple((re.compile(form), advice) for form, advice in _FORMS)


def invisible(text: str) -> str:
    """What to do about a character that nobody sees; nothing where there is none."""
    found = _INVISIBLE.search(text)
    return f"remove the invisible character {_named(found[0])}" if found else ""


def advice(line: str) -> tuple[int, str] | None:
    """The column, counted from 1, of the first thing that is mistyped in a line, and what to do; None for none."""
    line = line[:_LONGEST]
    if found := _INVISIBLE.search(line):
        return found.start() + 1, invisible(line)
    if found := _ODD_BLANK.search(line):
        return found.end(), f"type plain blanks in place of {_named(found[0][-1])}"
    bare = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), line)
    signs = [found for form in _SIGNS if (found := form.search(bare))]
    if signs:
        first = min(signs, key=lambda one: one.start("sign"))
        plain = _PLAIN[first["sign"]]
        blank = " and a blank" if plain in ":-" else ""
        return first.start("sign") + 1, f"type {plain}{blank} in place of {first['sign']} ({_named(first['sign'])})"
    for form, words in _COMPILED:
        if found := form.match(line):
            at = found.end() if found[0].endswith("\t") else len(line) - len(line.lstrip()) + 1
            return at, words.format(**found.groupdict())
    return None


def of_parser(lines: Sequence[str], problem: int, context: int | None, words: str) -> tuple[int, int, str] | None:
    """What is mistyped where YAML's parser has given up: the line, the column, and what to do.

    `problem`, `context`: the numbers, from 1, of the line where it stumbled and of the one where it began what it was
    reading. `words`: what it says.
    """
    before = next((n for n in range(problem - 1, 0, -1) if lines[n - 1].strip()), problem)
    if "quoted scalar" in words and "end of stream" in words and context is not None:
        begins = lines[context - 1]
        at = max(begins.rfind('"'), begins.rfind("'"))
        return context, at + 1, "the quotes that begin here are never closed"
    near = (before, problem) if "<document start>" in words else (problem, context or problem, before)
    for n in near:
        if n <= len(lines) and (found := advice(lines[n - 1])):
            return n, *found
    if context is not None and (apostrophe := _APOSTROPHE.match(lines[context - 1][:_LONGEST])):
        what = "write an apostrophe twice inside '…', or put the text in \"…\""
        return context, apostrophe.start("sign") + 2, what
    if (
        problem <= len(lines)
        and _indent(lines[problem - 1]) > _indent(lines[before - 1])
        and _has_value(lines[before - 1])
    ):
        what = "this line is indented deeper than the one before, which has its value already; indent both alike"
        return problem, _indent(lines[problem - 1]) + 1, what
    return _unclosed(lines, context) if "expected ',' or" in words and context is not None else None


def _unclosed(lines: Sequence[str], line: int) -> tuple[int, int, str] | None:
    """The last bracket of a line that nothing in it closes."""
    opened: list[tuple[int, str]] = []
    bare = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), lines[line - 1][:_LONGEST])
    for at, sign in enumerate(bare, 1):
        if sign in "[{":
            opened.append((at, sign))
        elif sign in "]}":
            if not opened:
                return None
            _, other = opened[-1]
            if sign != _CLOSING[other]:
                return line, at, f"type {_CLOSING[other]} before this {sign}, to close the {other} before"
            opened.pop()
    return (line, opened[-1][0], f"close this {opened[-1][1]} by {_CLOSING[opened[-1][1]]}") if opened else None


_CLOSING = {"[": "]", "{": "}"}


def _has_value(line: str) -> bool:
    return re.match(_KEY + r":[ \t]+[^\s#|>]", line) is not None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character)}"
