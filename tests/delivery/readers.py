"""What people read of a message: each character with its formats, as Discord and Telegram show them.

Discord's rules are written down as its clients were seen to behave; they are no authority, but stricter readers would
only find more. What the tree of a source says is to be read comes from `expected`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from chatbridge import MarkdownNode
from chatbridge.delivery.chat import Entity
from chatbridge.delivery.markdown import is_shown_by, plain_text
from chatbridge.delivery.splitting import Fragment

Read = list[tuple[str, frozenset[str]]]
_UNSEEN = re.compile("[\\s\u2060\u200b\u200c\u00ad\u2500-\u259f•◦▪\ufe0f]")
"""Blanks, which each service has elsewhere, what is invisible, and what renderers draw."""


def visible(read: Iterable[tuple[str, frozenset[str]]]) -> Read:
    return [(char, formats) for char, formats in read if not _UNSEEN.match(char)]


def letters(read: Read) -> str:
    return "".join(char for char, _ in read)


# --- Telegram ----------------------------------------------------------------------------------------------------

_SHORT = {"text_link": "link", "blockquote": "quote", "expandable_blockquote": "quote"}


def on_telegram(fragment: Fragment) -> Read:
    units: list[set[str]] = [set() for char in fragment.text for _ in range(len(char.encode("utf-16-le")) // 2)]
    for entity in fragment.entities:
        for at in range(entity.offset, entity.offset + entity.length):
            units[at].add(
                _SHORT.get(entity.kind, entity.kind) + (f" {entity.data}" if entity.kind == "text_link" else "")
            )
    read: Read = []
    at = 0
    for char in fragment.text:
        read.append((char, frozenset(units[at])))
        at += len(char.encode("utf-16-le")) // 2
    return visible(read)


def illegal(fragment: Fragment) -> Iterator[str]:
    """What Telegram would pass over, or refuse."""
    raw = fragment.text.encode("utf-16-le")
    shown = bytearray(raw)  # blanks of code are shown, also at the ends of a quote
    for entity in fragment.entities:
        if entity.kind in ("pre", "code"):
            shown[2 * entity.offset : 2 * (entity.offset + entity.length)] = b"x\0" * entity.length
    for entity in fragment.entities:
        start, end = entity.offset, entity.offset + entity.length
        words = raw[2 * start : 2 * end].decode("utf-16-le")
        if not words.strip():
            yield f"{entity.kind} of blanks"
        outside = shown[2 * start : 2 * end].decode("utf-16-le")
        if entity.kind not in ("pre", "code") and outside != outside.strip():
            yield f"{entity.kind} with blanks at its ends: {words!r}"
    for at, one in enumerate(fragment.entities):
        for other in fragment.entities[at + 1 :]:
            if _overlap(one, other) and not (_within(one, other) or _within(other, one)):
                yield f"{one} and {other} overlap"
            kinds = {one.kind, other.kind}
            if _overlap(one, other) and {"pre", "code"} & kinds and not any("quote" in kind for kind in kinds):
                yield f"{one} and {other}: code carries no other format"


def _overlap(one: Entity, other: Entity) -> bool:
    return one.offset < other.offset + other.length and other.offset < one.offset + one.length


def _within(inner: Entity, outer: Entity) -> bool:
    return outer.offset <= inner.offset and inner.offset + inner.length <= outer.offset + outer.length


# --- Discord -----------------------------------------------------------------------------------------------------

_ADDRESS = r"https?://[^\s<]+[^<.,:;\"'\]\s]"
_BLOCK = re.compile(r"```(?:([a-z0-9_+\-.#]+?)\n)?\n*([^\n][\s\S]*?)\n*```", re.IGNORECASE)
_LINES = [
    ("heading", re.compile(r" *#{1,3}\s+((?!#+)[^\n]+?)#*\s*(?:\n|\Z)")),
    ("small", re.compile(r" *-#\s+((?!(?:-#)+)[^\n]+)(?:\n|\Z)")),
]
_QUOTE = re.compile(r" *>>> ([\s\S]*)|(?: *> [^\n]*(?:\n *> [^\n]*)*\n?)")
_ITEM = re.compile(r" *(?:([-*])|(\d+\.))(?: +(?=\S)|(?= *(?:\n|\Z)))")
_LINK = re.compile(r"\[((?:\[[^\]]*\]|[^\[\]]|\](?=[^\[]*\]))*)\]\(\s*<?((?:\([^)]*\)|[^\s\\]|\\.)*?)>?\s*\)")
_WITHIN = [
    ("code", re.compile(r"(?P<ticks>`+)(?P<words>[\s\S]*?[^`])(?P=ticks)(?!`)")),
    ("escape", re.compile(r"\\(?P<words>[^0-9A-Za-z\s])")),
    ("address", re.compile(r"<(?P<words>https?://[^ >]+)>")),
    ("address", re.compile(rf"(?<![0-9A-Za-z])(?P<words>{_ADDRESS})")),
    ("link", _LINK),
    ("bold", re.compile(r"\*\*(?P<words>(?:\\[\s\S]|[^\\])+?)\*\*(?!\*)")),
    ("underlined", re.compile(r"__(?P<words>(?:\\[\s\S]|[^\\])+?)__(?!_)")),
    ("italic", re.compile(r"(?<![A-Za-z0-9_])_(?P<words>(?:__|\\[\s\S]|[^\\_])+?)_(?![A-Za-z0-9_])")),
    ("italic", re.compile(r"\*(?=\S)(?P<words>(?:\*\*|\s+(?:[^*\s]|\*\*)|[^\s*])+?)\*(?!\*)")),
    ("strikethrough", re.compile(r"~~(?P<words>[\s\S]+?)~~(?!_)")),
    ("spoiler", re.compile(r"\|\|(?P<words>[\s\S]+?)\|\|")),
]


def on_discord(text: str) -> Read:
    return visible(_lines(text, frozenset(), quoted=False))


def _lines(
    text: str, formats: frozenset[str], *, quoted: bool, at_start: bool = True
) -> Iterator[tuple[str, frozenset[str]]]:
    at = 0
    while at < len(text):
        if at_start and (found := _begins_line(text, at, formats, quoted=quoted)):
            read, at, at_start = found
            yield from read
            continue
        if text[at] == "\n":
            at, at_start = at + 1, True
            continue
        if at_start and text[at] == " ":
            at += 1
            continue
        at_start = False
        if block := _BLOCK.match(text, at):
            yield from ((char, formats | {"pre"}) for char in block[2])
            at = block.end()
        elif within := next(((kind, found) for kind, rule in _WITHIN if (found := rule.match(text, at))), None):
            yield from _within_line(*within, formats, quoted=quoted)
            at = within[1].end()
        else:
            yield text[at], formats
            at += 1


def _begins_line(text: str, at: int, formats: frozenset[str], *, quoted: bool) -> tuple[Read, int, bool] | None:
    for kind, rule in _LINES:
        if found := rule.match(text, at):
            return list(_lines(found[1], formats | {kind}, quoted=quoted, at_start=False)), found.end(), True
    if not quoted and (found := _QUOTE.match(text, at)):
        words = found[1] if found[1] is not None else re.sub(r"^ *> ?", "", found[0], flags=re.MULTILINE)
        return list(_lines(words, formats | {"quote"}, quoted=True)), found.end(), True
    if found := _ITEM.match(text, at):
        return [(char, formats | {"mark"}) for char in found[2] or ""], found.end(), True
    return None


def _within_line(
    kind: str, found: re.Match[str], formats: frozenset[str], *, quoted: bool
) -> Iterator[tuple[str, frozenset[str]]]:
    if kind == "link":
        if re.match("https?://", found[2]) and found[1].strip():
            yield from _lines(found[1], formats | {f"link {found[2]}"}, quoted=quoted, at_start=False)
        else:
            yield from ((char, formats) for char in found[0])
    elif kind in ("code", "escape", "address"):
        own = {"code": {"code"}, "escape": set[str](), "address": {f"link {found['words']}"}}[kind]
        yield from ((char, formats | own) for char in found["words"])
    else:
        yield from _lines(found["words"], formats | {kind}, quoted=quoted, at_start=False)


# --- what is to be read ------------------------------------------------------------------------------------------

_BOXES = {"todo": "☐", "done": "☑"}
_TELEGRAM_ADDRESS = re.compile(r"(?:https?://|tg://(?!user)|mailto:)\S+")
_DISCORD_ADDRESS = re.compile(r"https?://\S+\Z")


def expected(nodes: Sequence[MarkdownNode], service: str) -> Read:
    """What a tree says; `service` is "telegram", "discord" or "terminal" (for letters alone)."""
    return visible(pair for node in nodes for pair in _block(node, frozenset(), service))


def _block(node: MarkdownNode, formats: frozenset[str], service: str) -> Iterator[tuple[str, frozenset[str]]]:
    pre = _code(formats, "pre", service)
    if node.kind in ("code_block", "formula_block"):
        yield from ((char, pre) for char in node.text)
    elif node.kind == "table":
        for cell in (cell for row in node.children for cell in row.children):
            yield from ((char, pre) for char in plain_text(cell.children))
    elif node.kind == "heading":
        kind = "bold" if service == "telegram" or node.number > 3 else "heading"
        yield from _inline(node.children, formats | {kind}, service)
    elif node.kind in ("bullet_list", "ordered_list"):
        for number, item in enumerate(node.children, node.number):
            yield from ((char, formats | {"mark"}) for char in (f"{number}." if node.kind == "ordered_list" else ""))
            yield from ((char, formats) for char in _BOXES.get(item.data, ""))
            yield from (pair for child in item.children for pair in _block(child, formats, service))
    elif node.kind == "quote":
        yield from (pair for child in node.children for pair in _block(child, formats | {"quote"}, service))
    else:
        yield from _inline(node.children, formats, service)


def _code(formats: frozenset[str], kind: str, service: str) -> frozenset[str]:
    return (formats & {"quote"} if service == "telegram" else formats) | {kind}


def _inline(
    nodes: Sequence[MarkdownNode], formats: frozenset[str], service: str, *, in_link: bool = False
) -> Iterator[tuple[str, frozenset[str]]]:
    for node in nodes:
        if node.kind in ("link", "image"):
            yield from _link(node, formats, service, in_link=in_link)
        elif node.kind in ("code", "formula"):
            plain = in_link and service == "telegram"
            yield from ((char, formats if plain else _code(formats, "code", service)) for char in node.text)
        elif node.children:
            yield from _inline(node.children, formats | {node.kind}, service, in_link=in_link)
        else:
            leads = node.kind == "address" and service == "discord" and _DISCORD_ADDRESS.match(node.text)
            yield from ((char, formats | ({f"link {node.text}"} if leads else set())) for char in node.text)


def _link(
    node: MarkdownNode, formats: frozenset[str], service: str, *, in_link: bool
) -> Iterator[tuple[str, frozenset[str]]]:
    words, address = plain_text(node.children), node.data
    followed = {"telegram": _TELEGRAM_ADDRESS.fullmatch, "discord": _DISCORD_ADDRESS.match}.get(service)
    own = {f"link {address}"} if followed and followed(address) and not in_link else set()
    beside = service == "discord" and bool(own) and re.search(r"://|[\[\]]", words) is not None
    is_address = is_shown_by(words, address) and (service == "discord" and bool(own))
    if not words.strip() or is_address:
        yield from ((char, formats | own) for char in address)
        return
    inner = in_link or (bool(own) and not beside)
    yield from _inline(node.children, formats | (set() if beside else own), service, in_link=inner)
    if address and not in_link and (beside or (not own and not is_shown_by(words, address))):
        yield "(", formats
        yield from ((char, formats | own) for char in address)
        yield ")", formats
