"""What Discord would read as formatting in plain text, and how it is kept from it. Knows single lines, no blocks.

Rules by observation of the service and its published clients; it documents only a part of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from chatbridge.delivery.markdown import MarkdownNode
from chatbridge.delivery.rendered import ZERO_WIDTH

_MENTION = re.compile(r"@(?=everyone|here)|(?<=<)@(?=[!&]?\d)")
_ACTIVE = re.compile(
    r"\\(?![A-Za-z0-9\s])"  # escapes what follows, unless that is a letter: C:\Users stays
    r"|(?<!\s)\*|\*(?!\s)"  # between blanks it is a multiplication
    r"|_{2,}|(?<![A-Za-z0-9])_|_\Z"  # in a word, one alone is none
    r"|~{2,}|\A~|~\Z|\|{2,}|\A\||\|\Z|`"
    r"|\[(?![^\[\]\n]*\](?!\())"  # could be a link's, whose end Discord looks for up to the end of the message
    r"|(?<=\])\("  # "[words](address)" that is no link
    r"|(?:(?<=http)|(?<=https)):(?=//)"  # of an address that is none
    r"|(?<=[A-Za-z0-9:]):(?=(?!\d\d?:)[\w+-]+:)"  # the name of an emoji, as in std::heart:
)
_ALL_UNDERLINES = re.compile(_ACTIVE.pattern + "|_")
_AT_LINE_START = re.compile(r"(?:[-+*]|-(?=#)|#{1,3}|>(?:>>)?|(?<=\d)[.)])(?=[#\s]|\Z)")
_NUMBER = re.compile(r"\d+(?=[.)](?:\s|\Z))")
_NO_ADDRESS_FOLLOWS = re.compile(r"[.,:;\"'\]]*(?:\s|\Z)")


def escaped(text: str, before: str = "", *, at_line_start: bool = False, within_underlines: bool = False) -> str:
    """A line of plain text as Discord will show it. `before`: the character that it is written behind."""
    head = ""
    if at_line_start:
        number = _NUMBER.match(text)
        sign = _AT_LINE_START.match(text, number.end() if number else 0)
        if sign is not None:
            head, text = text[: sign.start()] + "\\" + sign[0][0], text[sign.start() + 1 :]
    if not head and text.startswith("(") and before == "]":
        head, text = "\\(", text[1:]
    active = _ALL_UNDERLINES if within_underlines else _ACTIVE
    return head + active.sub(lambda match: "".join(f"\\{char}" for char in match[0]), text)


def without_mentions(text: str) -> str:
    """The text with something invisible behind each @ that would call somebody."""
    return _MENTION.sub(f"@{ZERO_WIDTH}", text)


def ends_address(following: MarkdownNode | None) -> bool:
    """Whether Discord sees for itself that an address ends before what follows."""
    if following is None or following.kind == "break":
        return True
    return following.kind == "text" and _NO_ADDRESS_FOLLOWS.match(following.text) is not None


def in_ticks(code: str) -> str:
    """Code within a line between one tick or two, since three begin a block.

    Only code that holds three in a row, or both one alone and two, has something invisible put between them.
    """
    runs = {len(run) for run in re.findall(r"`+", code)}
    if max(runs, default=0) > 2 or runs == {1, 2}:
        code = re.sub(r"`{2,}", lambda match: ZERO_WIDTH.join(match[0]), code)
        runs = {1}
    ticks = "``" if 1 in runs else "`"
    blank = " " if code.startswith("`") or code.endswith("`") else ""
    return f"{ticks}{blank}{code}{blank}{ticks}"


def in_fence(code: str) -> str:
    """Code of a block without the ticks that would end it: something invisible stands between them."""
    return re.sub(r"`{3,}", lambda match: ZERO_WIDTH.join(match[0]), code)


# --- which marks a format can have -------------------------------------------------------------------------------


def usable_marks(node: MarkdownNode, before: str, after: str) -> str:
    """The marks for a format of a line, "" where Discord would take none of them as they are meant.

    It finds the end of a format by its signs alone, even within code and addresses, where none can be escaped.
    `before` and `after` are the characters beside it.
    """
    verbatim = "\n".join(_verbatim(node.children))
    if node.kind != "italic":
        mark = {"bold": "**", "strikethrough": "~~", "spoiler": "||"}[node.kind]
        return "" if mark in verbatim else mark
    # Within single asterisks Discord knows no escaped one, and several in a row may be paired otherwise.
    if "*" not in verbatim and not _holds_asterisks(node) and before != "*":
        return "*"
    in_word = re.compile(r"[A-Za-z0-9_]")
    return "" if "_" in verbatim or in_word.match(before) or in_word.match(after) else "_"


def _verbatim(nodes: Iterable[MarkdownNode]) -> Iterator[str]:
    """What is written without escapes."""
    for node in nodes:
        if node.kind in ("code", "formula", "address"):
            yield node.text
        elif node.kind in ("link", "image"):
            yield node.data
        yield from _verbatim(node.children)


def _holds_asterisks(node: MarkdownNode) -> bool:
    if any(child.kind in ("bold", "italic") for child in node.children[:1] + node.children[-1:]):
        return True
    return any("*" in child.text or _holds_asterisks(child) for child in node.children)
