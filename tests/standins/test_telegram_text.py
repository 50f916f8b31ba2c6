"""The stand-in Telegram's parse modes: what becomes of marks and tags, and where it gives up, counted in bytes."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.testing.telegram.parse_html import parse_html
from chatbridge.testing.telegram.parse_markdown import parse_markdown, parse_markdown_v2
from chatbridge.testing.telegram.text import checked_entities, clean, utf16_length

MODES = {"HTML": parse_html, "MarkdownV2": parse_markdown_v2, "Markdown": parse_markdown}

# `é` has two bytes and one unit, `猫` three and one, `🙂` four and two.
REFUSED = [
    ("HTML", "é🙂<b", "Unclosed start tag at byte offset 6"),
    ("HTML", "猫 <table>", 'Unsupported start tag "table" at byte offset 4'),
    ("HTML", "1 < 2", 'Unsupported start tag "" at byte offset 2'),
    ("HTML", '<a ="x">y</a>', 'Empty attribute name in the tag "a" at byte offset 0'),
    ("HTML", "<a href", 'Unclosed start tag "a" at byte offset 0'),
    ("HTML", "<a href=", 'Unclosed start tag "a" at byte offset 0'),
    ("HTML", '<a href="x', "Unclosed start tag at byte offset 0"),
    ("HTML", "<a href=a/b>y</a>", "Unexpected end of name token at byte offset 8"),
    ("HTML", "<span>x</span>", 'Tag "span" must have class "tg-spoiler" at byte offset 0'),
    ("HTML", "🙂</b>", "Unexpected end tag at byte offset 4"),
    ("HTML", "<b>猫</b", "Unclosed end tag at byte offset 6"),
    ("HTML", "<b>x</i>", 'Unmatched end tag at byte offset 4, expected "</b>", found "</i>"'),
    ("HTML", "<b>x<i>y</i>", 'Can\'t find end tag corresponding to start tag "b"'),
    (
        "HTML",
        "&#55357;",
        "Text contains invalid Unicode characters after decoding HTML entities, "
        "check for unmatched surrogate code units",
    ),
    ("MarkdownV2", "猫🙂*x", "Can't find end of Bold entity at byte offset 7"),
    ("MarkdownV2", "é__x_", "Can't find end of Italic entity at byte offset 5"),
    ("MarkdownV2", "_x__", "Can't find end of Underline entity at byte offset 2"),
    ("MarkdownV2", "猫```py\nx", "Can't find end of PreCode entity at byte offset 3"),
    ("MarkdownV2", "```x", "Can't find end of Pre entity at byte offset 0"),
    ("MarkdownV2", "```\nx`y", "Can't find end of Code entity at byte offset 5"),
    ("MarkdownV2", "[é](https://x", "Can't find end of a URL at byte offset 5"),
    ("MarkdownV2", "![🙂](tg://emoji?id=5", "Can't find end of a custom emoji URL at byte offset 8"),
    ("MarkdownV2", "a|b", "Character '|' is reserved and must be escaped with the preceding '\\'"),
    ("MarkdownV2", "a > b", "Character '>' is reserved and must be escaped with the preceding '\\'"),
    ("MarkdownV2", "well.", "Character '.' is reserved and must be escaped with the preceding '\\'"),
    ("Markdown", "猫_x", "Can't find end of the entity starting at byte offset 3"),
]


@pytest.mark.parametrize(("mode", "source", "why"), REFUSED)
def test_where_telegram_gives_up(mode: str, source: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        MODES[mode](source)


def _entity(kind: str, offset: int, length: int, **more: str) -> dict[str, object]:
    return {"type": kind, "offset": offset, "length": length, **more}


PARSED = [
    ("HTML", "&lt;b&gt; &amp;&quot;&laquo; &#65;&#x41;", '<b> &"&laquo; AA', []),
    ("HTML", "🙂<b>猫</b>", "🙂猫", [_entity("bold", 2, 1)]),
    ("HTML", "<b>a<i>b</i></b>", "ab", [_entity("bold", 0, 2), _entity("italic", 1, 1)]),
    ("HTML", "<pre><code class='language-py'>x</code></pre>", "x", [_entity("pre", 0, 1, language="py")]),
    ("HTML", "<code class='language-py'>x</code>", "x", [_entity("code", 0, 1)]),
    ("HTML", "<a href='https://x.org/?a=1&amp;b=2'>x</a>", "x", [_entity("text_link", 0, 1, url="https://x.org/?a=1&b=2")]),
    ("HTML", "<a href='javascript:x'>x</a>", "x", []),
    ("HTML", "<blockquote expandable>q</blockquote>", "q", [_entity("expandable_blockquote", 0, 1)]),
    ("HTML", "<span class='tg-spoiler'>s</span>", "s", [_entity("spoiler", 0, 1)]),
    ("HTML", "<b>a<code>c</code>d</b>", "acd", [_entity("bold", 0, 1), _entity("code", 1, 1), _entity("bold", 2, 1)]),
    ("HTML", " \n<b> x </b>\r\n", "x", [_entity("bold", 0, 1)]),
    ("HTML", "<b></b>x", "x", []),
    ("MarkdownV2", "*b* _i_ __u__ ~s~ ||p||", "b i u s p", [
        _entity("bold", 0, 1), _entity("italic", 2, 1), _entity("underline", 4, 1),
        _entity("strikethrough", 6, 1), _entity("spoiler", 8, 1),
    ]),
    ("MarkdownV2", "🙂 `a*b` \\*", "🙂 a*b *", [_entity("code", 3, 3)]),
    ("MarkdownV2", "```py\nx = 1\n```", "x = 1", [_entity("pre", 0, 5, language="py")]),
    ("MarkdownV2", "```py x```", "x", [_entity("pre", 0, 1, language="py")]),
    ("MarkdownV2", "```\n\\`\\\\```", "`\\", [_entity("pre", 0, 2)]),
    ("MarkdownV2", "[x](https://x.org/a\\)b)", "x", [_entity("text_link", 0, 1, url="https://x.org/a)b")]),
    ("MarkdownV2", ">a\n>b\nc", "a\nb\nc", [_entity("blockquote", 0, 3)]),
    ("MarkdownV2", "**>a\n>b||\nc", "a\nb\nc", [_entity("expandable_blockquote", 0, 3)]),
    ("Markdown", "*b* _i_ `c` [x](https://x.org) a*", None, "Can't find"),
    ("Markdown", "*b* \\_ `c`", "b _ c", [_entity("bold", 0, 1), _entity("code", 4, 1)]),
    ("", "see https://x.org/a. and /help, @some_bot #tag", "see https://x.org/a. and /help, @some_bot #tag", [
        _entity("url", 4, 15), _entity("bot_command", 25, 5), _entity("mention", 32, 9), _entity("hashtag", 42, 4),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "source", "text", "entities"), PARSED)
def test_what_becomes_of_marks(mode: str, source: str, text: str | None, entities: object) -> None:
    if text is None:
        with pytest.raises(ValueError, match=str(entities)):
            MODES[mode](source)
    else:
        assert clean(*(MODES[mode](source) if mode else (source, []))) == (text, entities)


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "_*[]()~`>#+-=|{}.!\\" else char for char in text)


@given(st.text())
def test_escaped_text_comes_through_whole(text: str) -> None:
    assert parse_html(html.escape(text)) == (text, [])
    assert parse_html(html.escape(text, quote=False)) == (text, [])
    assert parse_markdown_v2(_escaped(text)) == (text, [])


@given(st.text(), st.sampled_from(["HTML", "MarkdownV2", "Markdown"]))
def test_whatever_comes_is_parsed_or_refused_in_words(text: str, mode: str) -> None:
    try:
        found, entities = clean(*MODES[mode](text))
    except ValueError as error:
        why = str(error)
    else:
        why = "" if checked_entities(entities, found) == entities else "entities that do not fit the text"
    assert why == "" or "byte offset" in why or "must" in why or "reserved" in why or "Can't find" in why


@given(st.text(alphabet="a🙂猫\r\n é"), st.data())
def test_cleaning_keeps_each_entity_on_its_text(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    span = _entity("bold", utf16_length(text[:start]), utf16_length(text[start:end]))
    cleaned, entities = clean(text, [span])
    assert cleaned == text.replace("\r", "").strip()
    marked = [cleaned.encode("utf-16-le")[one["offset"] * 2 : (one["offset"] + one["length"]) * 2] for one in entities]
    before = text[:start].replace("\r", "").lstrip()
    inner = text[start:end].replace("\r", "")
    expected = inner if before else inner.lstrip()
    if not text[end:].strip():
        expected = expected.rstrip()
    assert "".join(part.decode("utf-16-le") for part in marked) == expected
