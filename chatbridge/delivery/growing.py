"""What can be shown of Markdown that is still being written; the rest comes with the next piece. Knows no service.

Only the last block of a text changes by what follows. Its open formats are closed, so that no mark is seen that goes
away again; what may become something else (half a link, the head of a table, the mark of an item) is held back.
"""

from __future__ import annotations

import re

from markdown_it.token import Token

from chatbridge.delivery.markdown import block_parser, closing_marks, unified

_ONLY_MARKS = re.compile(r"[\s>*+\-=_~`#|:\\$!<&]*(?:\d{1,9}[.)]?\s*)?(?:\[[ xX]?\]?\s*)?")
"""A line of which it is not known yet what it is."""
_HALF = re.compile(
    r"!?\[[^\[\]\n]{0,300}(?:\](?:\([^()\s]{0,2000}(?:\([^()\s]{0,2000}\)?[^()\s]{0,2000})?"
    r"(?:[ \t]+(?:[\"'(][^\"')\n]{0,300}[\"')]?)?)?)?)?\Z"  # of a link
    r"|<[A-Za-z/][^\s<>]{0,2000}\Z"  # of an address, or a tag
    r"|&#?\w{0,8}\Z"  # of a character's name
)
_MARKS = "*_~|`$\\"
MAX_ROUNDS = 8
"""How often something is taken away from the end; each time the text is read again."""
_CODE = ("fence", "code_block", "formula_block")
_LEAVES = (*_CODE, "inline", "hr")
_TICKS = re.compile(r"(?<!\\)`+")


def settled(source: str) -> str:
    """The part of a growing text that can be shown, with what closes it; "" where there is nothing yet."""
    source = unified(source).rstrip()
    for _ in range(MAX_ROUNDS):
        leaf = next((token for token in reversed(block_parser().parse(source)) if token.type in _LEAVES), None)
        if leaf is None:
            return ""
        kept = _without_half_code(source, leaf) if leaf.type in _CODE else _without_last_marks(source)
        if kept == source and leaf.type == "inline":
            kept, closing = _without_half_format(source, leaf)
            if kept == source:
                return source + closing
        if kept == source:
            return source
        source = kept.rstrip()
    return source


def _without_half_code(source: str, block: Token) -> str:
    """Without the beginning of a block that has no words yet, and without half of the fence that ends one."""
    assert block.map is not None
    lines = source.split("\n")
    if block.content.strip() in ("", "$$", "\\["):
        return "\n".join(lines[: block.map[0]])
    last = lines[-1].strip(" >\t")
    half = block.type == "fence" and bool(last) and set(last) == {block.markup[0]} and len(last) < len(block.markup)
    return "\n".join(lines[:-1]) if half else source


def _without_last_marks(source: str) -> str:
    """Without the lines at the end that hold nothing but marks, and the head of a table that is none yet."""
    lines = source.split("\n")
    while lines and _ONLY_MARKS.fullmatch(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _without_half_format(source: str, paragraph: Token) -> tuple[str, str]:
    """The source without half a link and the like at its end, and what closes the formats that are open then."""
    words = paragraph.content
    if not source.endswith(words.rpartition("\n")[2]):
        return source, ""  # the cell of a table that has ended
    if paragraph.level == 1 and (head := _head_of_table(words)):
        return source[: len(source) - head], ""
    if half := next(filter(None, (_HALF.match(words, at) for at in _half_starts(words))), None):
        return source[: len(source) - len(half[0])], ""
    before, verbatim = _before_open_code(words)
    if verbatim:
        return source, verbatim + closing_marks(f"{before}x")  # code is a word to the marks before it
    if words[-1:] not in _MARKS or not words:
        return source, closing_marks(words)
    ends_well = closing_marks(words) == "" and closing_marks(words.rstrip(_MARKS)) != ""
    return (source, "") if ends_well else (source.rstrip(_MARKS), "")


def _half_starts(words: str) -> list[int]:
    """Where the last sign is that may begin something whose other half has not come."""
    found = [words.rfind(sign) for sign in "[<&"]
    picture = found[0] - 1
    return [picture] * (picture >= 0 and words[picture] == "!") + [at for at in found if at >= 0]


def _head_of_table(words: str) -> int:
    """How many characters at the end may be the head of a table."""
    line = words.rpartition("\n")[2]
    return len(line) if line.startswith("|") and not line.startswith("||") else 0


def _before_open_code(words: str) -> tuple[str, str]:
    """What stands before code, or a formula, that is open at the end, and what closes that."""
    runs = list(_TICKS.finditer(words))
    last_of_length = {len(run[0]): at for at, run in enumerate(runs)}
    at = 0
    unclosed = None
    while at < len(runs):
        length = len(runs[at][0])
        if last_of_length[length] > at:
            at = next(other for other in range(at + 1, len(runs)) if len(runs[other][0]) == length)
        else:
            unclosed = runs[at]
        at += 1
    if unclosed is not None and words[unclosed.end() :].strip():
        return words[: unclosed.start()], unclosed[0]
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        start = words.rfind(opening)
        if start >= 0 and words.find(closing, start) < 0 and words[start + 2 :].strip():
            return words[:start], closing
    return words, ""
