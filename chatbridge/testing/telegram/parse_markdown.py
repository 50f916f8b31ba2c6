"""Telegram's parse modes `MarkdownV2` and the older `Markdown`: marks become entities, or a refusal.

Their rules are those of the Bot API's `Formatting options`; offsets of refusals count bytes of UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatbridge.testing.telegram.parse_html import is_link
from chatbridge.testing.telegram.state import Json
from chatbridge.testing.telegram.text import utf16_length

_RESERVED = "_*[]()~`>#+-=|{}.!"
_NAMES = {
    "bold": "Bold",
    "italic": "Italic",
    "underline": "Underline",
    "strikethrough": "Strikethrough",
    "spoiler": "Spoiler",
    "code": "Code",
    "pre": "Pre",
    "text_link": "TextUrl",
    "custom_emoji": "CustomEmoji",
    "blockquote": "BlockQuote",
}
_HEAD = re.compile(r"```(?:([^\s`]+)(?=\s))?(?:\r\n|\n\r|\n|\r)?")
"""The begin of a block of code: its language, if a blank follows that, and one end of a line."""
_MARKS = {"__": "underline", "||": "spoiler", "*": "bold", "_": "italic", "~": "strikethrough", "`": "code"}
_ENDS = {kind: mark for mark, kind in _MARKS.items()} | {"pre": "```", "text_link": "]", "custom_emoji": "]"}


@dataclass(slots=True)
class _Open:
    kind: str
    offset: int
    byte: int
    begin: int
    """How many characters came before it."""
    language: str = ""


def _unended(last: _Open) -> ValueError:
    name = "PreCode" if last.language else _NAMES[last.kind]
    return ValueError(f"Can't find end of {name} entity at byte offset {last.byte}")


class _MarkdownV2:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.text: list[str] = []
        self.offset = 0
        self.open: list[_Open] = []
        self.entities: list[Json] = []

    def byte(self, at: int | None = None) -> int:
        return len(self.source[: self.at if at is None else at].encode())

    def put(self, char: str) -> None:
        self.text.append(char)
        self.offset += utf16_length(char)

    def begin(self, kind: str, length: int, language: str = "") -> None:
        self.open.append(_Open(kind, self.offset, self.byte(), len(self.text), language))
        self.at += length

    def parse(self) -> tuple[str, list[Json]]:
        while self.at < len(self.source):
            char, following = self.source[self.at], self.source[self.at + 1 : self.at + 2]
            inside = self.open[-1].kind if self.open else ""
            if char == "\\" and following and 0 < ord(following) < 127:
                self.put(following)
                self.at += 2
            elif inside in ("code", "pre"):
                self._in_code(inside, char)
            elif char == "\n":
                self._line_end()
            elif inside in _ENDS and self.source.startswith(_ENDS[inside], self.at) and not self._is_longer(inside):
                self._end(inside)
            elif char == ">" and self._at_line_start():
                self._quote()
            elif char in _RESERVED:
                self._start(char, following)
            else:
                self.put(char)
                self.at += 1
        if self.open and self.open[-1].kind == "blockquote":
            self._end_quote()
        if self.open:
            raise _unended(self.open[-1])
        return "".join(self.text), self.entities

    def _is_longer(self, inside: str) -> bool:
        return inside == "italic" and self.source.startswith("__", self.at)

    def _in_code(self, inside: str, char: str) -> None:
        if self.source.startswith(_ENDS[inside], self.at):
            self._end(inside)
        elif char == "`":
            self.begin("code", 1)  # a mark that was not escaped begins code inside of the block
        else:
            self.put(char)
            self.at += 1

    def _at_line_start(self) -> bool:
        return not self.text or self.text[-1] == "\n"

    def _quote(self) -> None:
        if not any(found.kind == "blockquote" for found in self.open):
            if self.open:
                raise _unended(self.open[-1])
            self.open.append(_Open("blockquote", self.offset, self.byte(), len(self.text)))
        self.at += 1

    def _line_end(self) -> None:
        quoting = self.open and self.open[0].kind == "blockquote"
        if quoting and not self.source.startswith(">", self.at + 1):
            if len(self.open) > 1 and not self._hides_rest():
                raise _unended(self.open[-1])
            self._end_quote()
        self.put("\n")
        self.at += 1

    def _hides_rest(self) -> bool:
        return len(self.open) == 2 and self.open[1].kind == "spoiler" and self.open[1].offset == self.offset

    def _end_quote(self) -> None:
        expandable = len(self.open) == 2 and self._hides_rest()
        if expandable:
            self.open.pop()
        if self.open[-1].kind == "blockquote":
            quote = self.open.pop()
            if self.offset > quote.offset:
                kind = "expandable_blockquote" if expandable else "blockquote"
                self.entities.append({"type": kind, "offset": quote.offset, "length": self.offset - quote.offset})

    def _start(self, char: str, following: str) -> None:
        two = char + following
        if self.source.startswith("```", self.at):
            head = _HEAD.match(self.source, self.at)
            assert head is not None
            self.begin("pre", head.end() - self.at, head[1] or "")
        elif two in _MARKS:
            self.begin(_MARKS[two], 2)
        elif char in _MARKS:
            self.begin(_MARKS[char], 1)
        elif char == "[":
            self.begin("text_link", 1)
        elif two == "![":
            self.begin("custom_emoji", 2)
        else:
            raise ValueError(f"Character '{char}' is reserved and must be escaped with the preceding '\\'")

    def _end(self, kind: str) -> None:
        found = self.open.pop()
        self.at += len(_ENDS[kind])
        entity: Json = {"type": kind, "offset": found.offset, "length": self.offset - found.offset}
        if kind == "pre" and found.language:
            entity["language"] = found.language
        if kind in ("text_link", "custom_emoji"):
            url = self._url(kind)
            if kind == "custom_emoji":
                if not url or not url.startswith("tg://emoji?id="):
                    raise ValueError("Custom emoji entity must contain a tg://emoji URL")
                entity["custom_emoji_id"] = url.removeprefix("tg://emoji?id=")
            else:
                entity["url"] = "".join(self.text[found.begin :]) if url is None else url
                if not is_link(entity["url"]):
                    return
        if entity["length"]:
            self.entities.append(entity)

    def _url(self, kind: str) -> str | None:
        if not self.source.startswith("(", self.at):
            return None
        self.at += 1
        begin = self.at
        url: list[str] = []
        while self.at < len(self.source) and self.source[self.at] != ")":
            escaped = self.source[self.at] == "\\" and self.at + 1 < len(self.source)
            self.at += escaped
            url.append(self.source[self.at])
            self.at += 1
        if self.at >= len(self.source):
            what = "custom emoji URL" if kind == "custom_emoji" else "URL"
            raise ValueError(f"Can't find end of a {what} at byte offset {self.byte(begin)}")
        self.at += 1
        return "".join(url)


def parse_markdown_v2(source: str) -> tuple[str, list[Json]]:
    """The text and its entities; ValueError says what Telegram says."""
    return _MarkdownV2(source).parse()


def parse_markdown(source: str) -> tuple[str, list[Json]]:
    """The same for the older mode, whose marks do not nest, and hide nothing but `_*`[`."""
    text: list[str] = []
    entities: list[Json] = []
    at = offset = 0
    while at < len(source):
        char = source[at]
        if char == "\\" and source[at + 1 : at + 2] in tuple("_*`["):
            piece, at = source[at + 1], at + 2
            text.append(piece)
            offset += utf16_length(piece)
            continue
        if char not in "_*`[":
            text.append(char)
            offset += utf16_length(char)
            at += 1
            continue
        mark = "```" if source.startswith("```", at) else char
        end_mark = "]" if char == "[" else mark
        begin = at
        end = source.find(end_mark, at + len(mark))
        if end < 0:
            raise ValueError(f"Can't find end of the entity starting at byte offset {len(source[:begin].encode())}")
        inner, at = source[at + len(mark) : end], end + len(end_mark)
        kind = {"_": "italic", "*": "bold", "`": "code", "```": "pre", "[": "text_link"}[mark]
        entity: Json = {"type": kind, "offset": offset}
        if kind == "pre" and (head := re.match(r"([^\s`]*)\r?\n", inner)):
            inner = inner[head.end() :]
            entity |= {"language": head[1]} if head[1] else {}
        if kind == "text_link":
            link = re.compile(r"\(([^)]*)\)").match(source, at)
            at = link.end() if link else at
            entity["url"] = link[1] if link else ""
        text.append(inner)
        offset += utf16_length(inner)
        if inner and entity.get("url", "-"):
            entities.append(entity | {"length": utf16_length(inner)})
    return "".join(text), entities
