"""Telegram's parse mode `HTML`: tags become entities, or a refusal with the byte at which it gave up.

Its rules are those of the Bot API's `Formatting options`; offsets of refusals count bytes of UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatbridge.testing.telegram.state import Json
from chatbridge.testing.telegram.text import utf16_length

_ENTITY = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "tg-spoiler": "spoiler",
    "span": "spoiler",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "a": "text_link",
    "tg-emoji": "custom_emoji",
}
_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
_REFERENCE = re.compile(rb"&(?:#(\d+)|#x([0-9a-fA-F]+)|([a-zA-Z]+));?")
_TAG = re.compile(rb"<([^\s>]*)")
_SPACE = re.compile(rb"\s*")
_NAME = re.compile(rb"""[^\s=>/"']*""")
_VALUE = re.compile(rb"""(?:"([^"]*)"?|'([^']*)'?|([A-Za-z0-9.\-]*))""")
_END = re.compile(rb"</([^\s>]*)\s*")
_LINK = re.compile(
    r"(?i)(?:https?|tg|ton|tonsite)://\S+|tg:user/?\?\S+|(?:mailto|tel):\S+|[\w-]+(?:\.[\w-]+)+(?:[/:?#]\S*)?"
)


@dataclass(slots=True)
class _Open:
    tag: str
    attributes: dict[str, str]
    offset: int
    length_before: int


def parse_html(source: str) -> tuple[str, list[Json]]:
    """The text and its entities; ValueError says what Telegram says."""
    return _Html(source.encode()).parse()


def is_link(url: str) -> bool:
    """Whether Telegram makes a link of an address; where it does not, the text stays and the link is dropped."""
    return _LINK.fullmatch(url) is not None


class _Html:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.text = ""
        self.offset = 0
        self.open: list[_Open] = []
        self.entities: list[Json] = []

    def parse(self) -> tuple[str, list[Json]]:
        while self.at < len(self.data):
            if self.data[self.at : self.at + 1] != b"<":
                end = self.data.find(b"<", self.at)
                end = len(self.data) if end < 0 else end
                piece = _decoded(self.data[self.at : end])
                self.text += piece
                self.offset += utf16_length(piece)
                self.at = end
            elif self.data[self.at : self.at + 2] == b"</":
                self._close()
            else:
                self._begin()
        if self.open:
            raise ValueError(f'Can\'t find end tag corresponding to start tag "{self.open[-1].tag}"')
        for entity in self.entities:
            if entity["type"] == "code":
                entity.pop("language", None)  # only a block has one
        return self.text, self.entities

    def _skip(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        match = pattern.match(self.data, self.at)
        assert match is not None  # all of these match the empty string
        self.at = match.end()
        return match

    def _begin(self) -> None:
        begin = self.at
        tag = self._skip(_TAG)[1].decode().lower()
        if self.at == len(self.data):
            raise ValueError(f"Unclosed start tag at byte offset {begin}")
        if tag not in _ENTITY:
            raise ValueError(f'Unsupported start tag "{tag}" at byte offset {begin}')
        attributes: dict[str, str] = {}
        while True:
            self._skip(_SPACE)
            if self.data[self.at : self.at + 1] == b">":
                break
            name = self._skip(_NAME)[0].decode().lower()
            if not name:
                raise ValueError(f'Empty attribute name in the tag "{tag}" at byte offset {begin}')
            attributes[name] = self._value(tag, begin)
        self.at += 1
        if tag == "span" and attributes.get("class") != "tg-spoiler":
            raise ValueError(f'Tag "span" must have class "tg-spoiler" at byte offset {begin}')
        self.open.append(_Open(tag, attributes, self.offset, len(self.text)))

    def _value(self, tag: str, begin: int) -> str:
        """What stands behind the name of an attribute: "" where nothing does."""
        self._skip(_SPACE)
        if self.data[self.at : self.at + 1] != b"=":
            if self.at == len(self.data):
                raise ValueError(f'Unclosed start tag "{tag}" at byte offset {begin}')
            return ""
        self.at += 1
        self._skip(_SPACE)
        if self.at == len(self.data):
            raise ValueError(f'Unclosed start tag "{tag}" at byte offset {begin}')
        start = self.at
        quoted, single, plain = self._skip(_VALUE).groups()
        if plain is not None and self.data[self.at : self.at + 1] not in (b">", b" ", b"\t", b"\n", b"\r"):
            raise ValueError(f"Unexpected end of name token at byte offset {start}")
        if self.at == len(self.data):
            raise ValueError(f"Unclosed start tag at byte offset {begin}")
        return plain.decode().lower() if plain is not None else _decoded(quoted if single is None else single)

    def _close(self) -> None:
        """Close the innermost tag, which must be this one."""
        begin = self.at
        if not self.open:
            raise ValueError(f"Unexpected end tag at byte offset {begin}")
        name = self._skip(_END)[1].decode()
        if self.data[self.at : self.at + 1] != b">":
            raise ValueError(f"Unclosed end tag at byte offset {begin}")
        self.at += 1
        found = self.open.pop()
        if name and name != found.tag:
            raise ValueError(f'Unmatched end tag at byte offset {begin}, expected "</{found.tag}>", found "</{name}>"')
        if self.offset > found.offset:
            self._add(found)

    def _add(self, tag: _Open) -> None:
        entity: Json = {"type": _ENTITY[tag.tag], "offset": tag.offset, "length": self.offset - tag.offset}
        same = [one for one in self.entities[-1:] if (one["offset"], one["length"]) == (tag.offset, entity["length"])]
        if tag.tag == "a":
            entity["url"] = tag.attributes.get("href") or self.text[tag.length_before :]
            if not is_link(entity["url"]):
                return
        elif tag.tag == "tg-emoji":
            entity["custom_emoji_id"] = tag.attributes.get("emoji-id", "")
        elif tag.tag == "blockquote" and "expandable" in tag.attributes:
            entity["type"] = "expandable_blockquote"
        elif tag.tag == "code":
            language = tag.attributes.get("class", "")
            if language.startswith("language-"):
                entity["language"] = language.removeprefix("language-")
            if same and same[0]["type"] == "pre":
                same[0] |= {"language": entity["language"]} if "language" in entity else {}
                return
        elif tag.tag == "pre" and same and same[0]["type"] == "code":
            entity |= {"language": same[0]["language"]} if "language" in same[0] else {}
            self.entities.pop()
        self.entities.append(entity)


def _decoded(data: bytes) -> str:
    """With its character references read; those that are none, or not known, stay as they are."""

    def character(match: re.Match[bytes]) -> bytes:
        decimal, hexadecimal, name = match.groups()
        if name:
            return _NAMED[name.decode()].encode() if name.decode() in _NAMED else match[0]
        code = int(decimal) if decimal else int(hexadecimal, 16)
        if 0xD800 <= code < 0xE000:
            raise ValueError(
                "Text contains invalid Unicode characters after decoding HTML entities, "
                "check for unmatched surrogate code units"
            )
        return chr(code).encode() if 0 < code < 0x110000 else match[0]

    return _REFERENCE.sub(character, data).decode()
