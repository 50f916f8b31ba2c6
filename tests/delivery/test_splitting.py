"""Rendering and splitting: nothing is lost, nothing too long, nothing torn, for whatever a model may write."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from chatbridge.delivery.chat import Limits
from chatbridge.delivery.content_json import from_json, to_json
from chatbridge.delivery.contents import split_answer, split_preview
from chatbridge.delivery.discord_markdown import as_markdown
from chatbridge.delivery.rendered import Rendered, as_text, utf16_length
from chatbridge.delivery.splitting import split
from chatbridge.delivery.telegram_entities import as_entities

from .texts import GRAPHEMES, answer, sources

SERVICES: dict[str, tuple[Callable[[str], Rendered], int, Callable[[str], int]]] = {
    "discord": (as_markdown, 2000, len),
    "telegram": (as_entities, 4096, utf16_length),
    "plain": (as_text, 500, lambda text: len(text.encode())),
}
each_service = pytest.mark.parametrize(("render", "limit", "count"), SERVICES.values(), ids=SERVICES.keys())
small = st.integers(80, 300)


@each_service
@given(source=sources, length=small)
@example(source="```x", length=80)
@example(source="- ```\n  a", length=80)
@example(source="word\n\n```\n\n\n- ```\n  \n  ```", length=80)
def test_fragments_are_the_text_and_fit(
    source: str, length: int, render: Callable[[str], Rendered], limit: int, count: Callable[[str], int]
) -> None:
    rendered = render(source)
    fragments = split(rendered, length, count)
    assert "".join(fragment.body for fragment in fragments) == rendered.text
    for fragment in fragments:
        assert count(fragment.text) <= length
        for entity in fragment.entities:
            assert entity.offset >= 0
            assert entity.length > 0
            assert entity.offset + entity.length <= count(fragment.text)


@given(sources, small)
@example(source="word\n\n- ```\n  \n\n```\n\n```", length=80)
@example(source="- ``` ```", length=80)
@example(source=f"```\n{'x' * 70}\n\n\n\n{'y' * 90}\n```", length=80)
@example(source="````\n" + "\n" * 300 + "word\n```\n````", length=80)
@example(source=f"```\n\n{'汉字' * 30}\n```", length=80)
@example(source="word\n\n~~~\n\n\n~~~\n    indented = 1\n~~~", length=80)
def test_fences_are_balanced_in_each_message(source: str, length: int) -> None:
    for fragment in split(as_markdown(source), length):
        outside_and_inside = fragment.text.split("```")
        assert len(outside_and_inside) % 2 == 1, fragment.text
        # A block begins and ends on lines of its own, and holds something: else Discord shows its ticks.
        for before, inside, after in zip(
            outside_and_inside[::2], outside_and_inside[1::2], outside_and_inside[2::2], strict=False
        ):
            assert before.endswith("\n") or not before
            assert after.startswith("\n") or not after
            assert re.fullmatch(r"[\w+#.-]*\n(?s:.*[^\n].*)\n", inside), fragment.text


@each_service
@given(source=sources, length=small)
def test_no_grapheme_is_torn(
    source: str, length: int, render: Callable[[str], Rendered], limit: int, count: Callable[[str], int]
) -> None:
    rendered = render(source)
    whole = {match.end() for match in regex.finditer(r"\X", rendered.text)}
    at = 0
    for fragment in split(rendered, length, count):
        at += len(fragment.body)
        assert at in whole


@pytest.mark.parametrize("grapheme", GRAPHEMES)
def test_a_wall_of_one_grapheme_is_cut_between_them(grapheme: str) -> None:
    for fragment in split(as_entities(grapheme * 300), 100, utf16_length):
        assert fragment.text == grapheme * (len(fragment.text) // len(grapheme))


def test_a_grapheme_longer_than_a_message_is_cut_all_the_same() -> None:
    monster = "a" + "\u0301" * 500
    fragments = split(as_text(monster), 100)
    assert "".join(fragment.body for fragment in fragments) == monster
    assert max(len(fragment.text) for fragment in fragments) <= 100


def test_no_room_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(ValueError, match="nothing fits"):
        split(as_markdown("```python\nprint('hello')\n```"), 10)


def test_cuts_prefer_paragraph_line_sentence_word() -> None:
    def first(text: str) -> str:
        return split(as_text(text), 50)[0].text

    words = "one two three four five six seven eight nine ten eleven twelve"
    assert first(f"{words[:30]}.\n\n{words}") == f"{words[:30]}."
    assert first(f"{words[:20]}\n{words[20:30]}\n{words}") == f"{words[:20]}\n{words[20:30]}"
    assert first(f"{words[:20]}. {words[:10]}. {words}") == f"{words[:20]}. {words[:10]}."
    assert first(words) == "one two three four five six seven eight nine ten"
    assert first("汉" * 20 + "。" + "汉" * 10 + "！" + "字" * 60) == "汉" * 20 + "。" + "汉" * 10 + "！"
    assert first("x" * 80) == "x" * 50
    # A paragraph that ends early leaves no stub of a message.
    assert first(f"Hm.\n\n{words}") == "Hm.\n\none two three four five six seven eight nine ten"[:50].rsplit(" ", 1)[0]


def test_a_heading_goes_with_what_follows() -> None:
    source = "word " * 20 + "\n\n## Heading\n\n" + "more " * 20
    assert [fragment.text.split("\n")[0][:10] for fragment in split(as_markdown(source), 130)] == [
        "word word ",
        "## Heading",
    ]


def test_a_code_block_that_fits_into_the_next_message_is_not_cut() -> None:
    block = "```\n" + "line of code\n" * 5 + "```"
    fragments = split(as_markdown("text " * 20 + "\n\n" + block), 130)
    assert [fragment.text for fragment in fragments] == [("text " * 20).strip(), block]


def test_a_long_code_block_is_closed_and_opened_again() -> None:
    code = "\n".join(f"    x{i} = {i}" for i in range(40))
    fragments = split(as_markdown(f"```py\n{code}\n```\n\nafter"), 100)
    assert len(fragments) > 5
    assert all(fragment.text.startswith("```py\n    x") for fragment in fragments[:-1])
    assert all(fragment.text.endswith("\n```") for fragment in fragments[:-1])
    kept = [line for fragment in fragments for line in fragment.text.split("\n") if line.startswith("    ")]
    assert kept == code.split("\n")


def test_formats_are_cut_with_the_text() -> None:
    (first, second) = split(as_entities("**" + "bold " * 20 + "end**"), 80, utf16_length)
    assert [(e.kind, e.offset, e.length) for e in first.entities] == [("bold", 0, 79)]
    assert [(e.kind, e.offset, e.length) for e in second.entities] == [("bold", 0, len(second.text))]


# --- rendering -------------------------------------------------------------------------------------------------------


def test_entities_count_utf16_units() -> None:
    (fragment,) = split(as_entities("🙂🙂 **fett** `x`"), 100, utf16_length)
    assert fragment.text == "🙂🙂 fett x"
    assert [(e.kind, e.offset, e.length) for e in fragment.entities] == [("bold", 5, 4), ("code", 10, 1)]


def test_what_markdown_becomes_beside_the_text() -> None:
    source = "# Title\n\n1. one\n2. two\n   - deep\n\n> quote **b `c`**\n\n```py\nx\n```\n\n"
    source += "[t](https://x.org) [u](ftp:x) ~~s~~ <b>"
    rendered = as_entities(source)
    assert rendered.text == "Title\n\n1. one\n2. two\n   ◦ deep\n\nquote b c\n\nx\n\nt u (ftp:x) s <b>"
    found = sorted((span.start, span.kind, rendered.text[span.start : span.end], span.data) for span in rendered.spans)
    assert [item[1:] for item in found] == [
        ("bold", "Title", ""),
        ("blockquote", "quote b c", ""),
        ("bold", "b ", ""),  # code carries no other format
        ("code", "c", ""),
        ("pre", "x", "py"),
        ("text_link", "t", "https://x.org"),
        ("strikethrough", "s", ""),
    ]


def test_what_markdown_becomes_where_the_service_reads_it_itself() -> None:
    source = "Title\n===\n\n*same* `as` ||before||\n\n##### deep\n\n    indented\n\n~~~js\nx\n~~~\n\n![p](https://x.org/p.png)"
    assert as_markdown(source).text == (
        "# Title\n\n*same* `as` ||before||\n\n**deep**\n\n```\nindented\n```\n\n```js\nx\n```\n\n[p](https://x.org/p.png)"
    )


def test_ticks_within_a_line_never_become_a_fence() -> None:
    assert as_markdown("a ```b``` c").text == "a `b` c"
    assert as_markdown("a ```b ` c``` d").text == "a ``b ` c`` d"
    assert "```" not in as_markdown("a ```` b ``` c ```` d").text


def test_paragraphs_of_an_item_are_lines_of_their_own() -> None:
    assert as_entities("- one\n\n  more\n- two").text == "• one\nmore\n• two"


@pytest.mark.parametrize("render", [as_markdown, as_entities])
def test_tables_become_columns(render: Callable[[str], Rendered]) -> None:
    text = render("| name | n |\n|---|---|\n| 汉字 | 1 |\n| b | 22 |").text
    assert "name │ n\n─────┼───\n汉字 │ 1\nb    │ 22" in text


@pytest.mark.parametrize("render", [as_markdown, as_entities])
@example(source="``` @everyone")
@given(source=sources)
def test_nobody_is_mentioned(render: Callable[[str], Rendered], source: str) -> None:
    rendered = render(source)
    code = {i for span in rendered.spans if span.kind in ("pre", "code") for i in range(span.start, span.end)}
    called = r"(?<!\w)@\w" if render is as_entities else r"@(everyone|here)|<@[!&]?\d"
    assert all(match.start() in code for match in re.finditer(called, rendered.text))


def test_mentions_where_they_are_wanted() -> None:
    assert as_markdown("@everyone <@1>", mentions=True).text == "@everyone <@1>"
    assert as_entities("@name", mentions=True).text == "@name"


@pytest.mark.parametrize("render", [as_markdown, as_entities])
@given(source=st.lists(st.text("abcdefg汉字", min_size=1), min_size=1).map(" ".join))
def test_plain_words_are_left_alone(render: Callable[[str], Rendered], source: str) -> None:
    assert render(source).text == source
    assert not render(source).spans


@pytest.mark.parametrize(
    "source", ["---", "[a]: https://example.org", "<br>", "***", "&nbsp;x", "> ", "```\n```", "|a|\n|-|"]
)
def test_nothing_disappears(source: str) -> None:
    for render in (as_markdown, as_entities):
        assert render(source).text.strip()


# --- whole answers ---------------------------------------------------------------------------------------------------


def limits_of(service: str, **more: int) -> Limits:
    render, length, count = SERVICES[service]
    return Limits(length, count, render, **more)


@pytest.mark.parametrize("service", SERVICES)
def test_a_long_answer_with_code_arrives_whole(service: str) -> None:
    source = answer(30_000)
    limits = limits_of(service, max_messages=100)
    contents = split_answer(source, limits)
    shown = "".join(content.text for content in contents)
    assert all(limits.count(content.text) <= limits.length for content in contents)
    for number in range(source.count("## Section")):
        assert f"def section_{number}():" in shown
        assert f"Section {number}" in shown
        assert f"return {number}\n" in shown
    assert [content.ends_answer for content in contents] == [False] * (len(contents) - 1) + [True]
    assert len(contents) < 1.6 * 30_000 / limits.length + 2


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_too_much_comes_as_a_file(language: str) -> None:
    source = answer(30_000)
    *contents, last = split_answer(source, limits_of("discord", max_messages=3), language)
    assert len(contents) == 3
    assert last.ends_answer
    assert last.file is not None
    everything = split_answer(source, limits_of("discord", max_messages=100))
    rest = last.file.data.decode()
    assert rest.count("```") % 2 == 0
    assert all(line in rest for content in everything[3:] for line in content.text.split("\n"))
    assert ("文件" in last.text or "附件" in last.text) == (language == "zh")


@given(sources, st.integers(1, 4), st.sampled_from(list(SERVICES)))
def test_messages_leave_room_for_a_note_and_survive_the_outbox(source: str, most: int, service: str) -> None:
    render, _, count = SERVICES[service]
    limits = Limits(150, count, render, max_messages=most)
    contents = split_answer(source, limits)
    assert len(contents) <= most + 1
    for content in contents:
        assert content.text.strip()
        for note in ("⚠ This may be a duplicate:", "⚠ 以下内容可能重复："):
            assert count(content.with_note(note, count).text) <= 150
        assert from_json(to_json(content)) == content
        if content.plain is not None:
            assert count(content.plain) == count(content.text)
            assert not re.search(r"(?<!\w)@\w", content.plain)


def test_a_note_above_moves_the_formats() -> None:
    (content,) = split_answer("🙂 **bold**", limits_of("telegram"))
    marked = content.with_note("🙂 note", utf16_length)
    assert marked.text == "🙂 note\n🙂 bold"
    (entity,) = marked.entities
    assert marked.text.encode("utf-16-le")[2 * entity.offset :].decode("utf-16-le") == "bold"


def test_a_preview_closes_what_is_still_open() -> None:
    (content,) = split_preview("Look:\n\n```py\nx = 1", limits_of("discord"))
    assert content.text == "Look:\n\n```py\nx = 1\n```"
    assert content.preview
    assert not content.ends_answer


def test_what_can_not_be_rendered_is_shown_as_it_is() -> None:
    def broken(source: str) -> Rendered:
        raise RecursionError

    assert [content.text for content in split_answer("**x**", Limits(100, render=broken))] == ["**x**"]
    (content,) = split_answer("ask @everyone", Limits(100, render=broken))
    assert "@" not in content.text, "nobody is called by it"
