"""Telegram's parse mode `HTML`: tags become entities, or a refusal with the byte at which it gave up.

Its rules are those of the Bot API's `Formatting options`; offsets of refusals count bytes of UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatbridge.testing.telegram.state import Json
from chatbridge.testing.telegram.text import units

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
_REFERENCE = re.compile(rb"&(?:#(\d{1,8})|#x([0-9a-fA-F]{1,8})|([a-z]+));")
_START = re.compile(rb"<([^\s>/][^\s>]*)")
_ATTRIBUTE = re.compile(rb"""\s*([^\s=>"']+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9.\-]+)))?""")
_END = re.compile(rb"</([^\s>]*)\s*>")


@dataclass(slots=True)
class _Open:
    tag: str
    attributes: dict[str, str]
    offset: int
    length_before: int


def parse_html(source: str) -> tuple[str, list[Json]]:
    """The text and its entities; ValueError says what Telegram says."""
    data = source.encode()
    text: list[str] = []
    open_tags: list[_Open] = []
    entities: list[Json] = []
    position = offset = 0
    while position < len(data):
        if data[position : position + 1] != b"<":
            end = data.find(b"<", position)
            end = len(data) if end < 0 else end
            piece = _decoded(data[position:end])
            text.append(piece)
            offset += units(piece)
            position = end
        elif data[position : position + 2] == b"</":
            position = _close(data, position, open_tags, entities, offset, "".join(text))
        else:
            tag, attributes, end = _open(data, position)
            open_tags.append(_Open(tag, attributes, offset, len("".join(text))))
            position = end
    if open_tags:
        raise ValueError(f'Can\'t find end tag corresponding to start tag "{open_tags[-1].tag}"')
    return "".join(text), entities


def _decoded(data: bytes) -> str:
    def character(match: re.Match[bytes]) -> bytes:
        decimal, hexadecimal, name = match.groups()
        if name:
            return _NAMED.get(name.decode(), match[0].decode()).encode()
        code = int(decimal) if decimal else int(hexadecimal, 16)
        return chr(code).encode() if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else match[0]

    return _REFERENCE.sub(character, data).decode()


def _open(data: bytes, begin: int) -> tuple[str, dict[str, str], int]:
    """The tag that begins here, its attributes, and where it ends."""
    match = _START.match(data, begin)
    tag = match[1].decode().lower() if match else ""
    position = match.end() if match else begin + 1
    if not match and data[position : position + 1] == b"":
        raise ValueError(f"Unclosed start tag at byte offset {begin}")
    if tag not in _ENTITY:
        raise ValueError(f'Unsupported start tag "{tag}" at byte offset {begin}')
    attributes: dict[str, str] = {}
    while True:
        rest = data[position:].lstrip()
        if not rest:
            raise ValueError(f'Unclosed start tag "{tag}" at byte offset {begin}')
        if rest[:1] == b">":
            position = len(data) - len(rest) + 1
            break
        found = _ATTRIBUTE.match(data, position)
        if not found:
            raise ValueError(f'Empty attribute name in the tag "{tag}" at byte offset {begin}')
        value = next((group for group in found.groups()[1:] if group is not None), b"")
        attributes[found[1].decode().lower()] = _decoded(value)
        position = found.end()
    if tag == "span" and attributes.get("class") != "tg-spoiler":
        raise ValueError(f'Tag "span" must have class "tg-spoiler" at byte offset {begin}')
    return tag, attributes, position


def _close(data: bytes, begin: int, open_tags: list[_Open], entities: list[Json], offset: int, text: str) -> int:
    """Close the innermost tag, which must be this one; where the end tag ends."""
    if not open_tags:
        raise ValueError(f"Unexpected end tag at byte offset {begin}")
    match = _END.match(data, begin)
    if match is None:
        raise ValueError(f"Unclosed end tag at byte offset {begin}")
    found, name = open_tags.pop(), match[1].decode().lower()
    if name and name != found.tag:
        raise ValueError(f'Unmatched end tag at byte offset {begin}, expected "</{found.tag}>", found "</{name}>"')
    length = offset - found.offset
    if length:
        _add(found, length, text[found.length_before :], entities)
    return match.end()


def _add(tag: _Open, length: int, inner: str, entities: list[Json]) -> None:
    entity: Json = {"type": _ENTITY[tag.tag], "offset": tag.offset, "length": length}
    if tag.tag == "a":
        url = tag.attributes.get("href") or inner
        if not re.match(r"(?i)(https?|tg|mailto|tel|ton|tonsite)://?\S+$|[\w-]+(\.[\w-]+)+(/\S*)?$", url):
            return  # a link to nowhere is text
        entity["url"] = url
    elif tag.tag == "tg-emoji":
        entity["custom_emoji_id"] = tag.attributes.get("emoji-id", "")
    elif tag.tag == "blockquote" and "expandable" in tag.attributes:
        entity["type"] = "expandable_blockquote"
    elif tag.tag == "code" and tag.attributes.get("class", "").startswith("language-"):
        entity["language"] = tag.attributes["class"].removeprefix("language-")
    elif tag.tag == "pre" and entities and entities[-1]["type"] == "code":
        inner_code = entities[-1]
        if (inner_code["offset"], inner_code["length"]) == (tag.offset, length):
            entities.pop()
            entity |= {"language": inner_code["language"]} if "language" in inner_code else {}
    entities.append(entity)
