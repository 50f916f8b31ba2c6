"""What single pieces of Markdown become, where a text is cut, and what must not be cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatbridge import Attachment, Limits, MarkdownNode, MessageContent, parse_markdown
from chatbridge.delivery.chat import Button, Entity
from chatbridge.delivery.content_json import from_json, to_json
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.discord_markdown import as_markdown, write_markdown
from chatbridge.delivery.markdown import FOLDED, folded
from chatbridge.delivery.rendered import Hold, Rendered, Span, utf16_length
from chatbridge.delivery.splitting import Fragment, split
from chatbridge.delivery.tables import grid
from chatbridge.delivery.telegram_entities import WORD_JOINER, as_entities, write_entities

RENDERERS = pytest.mark.parametrize("render", [as_markdown, as_entities])


def texts(rendered: Rendered, limit: int) -> list[str]:
    return [fragment.text for fragment in split(rendered, limit)]


# --- where a text is cut ---------------------------------------------------------------------------------------------


def test_after_so_many_messages_all_the_rest_is_one_more() -> None:
    fragments = split(Rendered("one   " + " " * 40 + "two " * 9), 8, at_most=2)
    assert [fragment.text for fragment in fragments if fragment.text] == ["one", "two two", "two " * 6 + "two"]
    assert [fragment.text for fragment in split(Rendered("one two six"), 3, at_most=0)] == ["one two six"]


def test_blanks_alone_are_a_message_of_nothing() -> None:
    assert split(Rendered(" \n "), 5) == [Fragment(" \n ", "")]
    assert split(Rendered(""), 5) == []


def test_in_code_a_sentence_is_but_a_word_and_a_paragraph_but_a_line() -> None:
    head = "x" * 30
    code = (Span(30, 45, "pre"),)
    assert texts(Rendered(head + "。bb cc dd ee ff", code), 40)[0] == head + "。bb cc dd"
    assert texts(Rendered(head + "\n\nbb\ncc dd ee ff", code), 40)[0] == head + "\n\nbb"
    assert texts(Rendered(head + "。bb cc dd ee ff"), 40)[0] == head + "。"


def test_formats_that_begin_together_are_closed_and_opened_as_they_lie_in_each_other() -> None:
    spans = (Span(0, 12, "b", "", "[", "]"), Span(0, 19, "a", "", "<", ">"), Span(0, 20, "c", "", "{", "}"))
    found = texts(Rendered("one two six ten nine", spans), 10)
    assert found == ["one ]>}", "{<[two ]>}", "{<[six >}", "{<ten nine"]


def test_what_is_held_is_cut_only_where_nothing_else_helps() -> None:
    text = "one two six ten"
    assert texts(Rendered(text, (), (Hold(4, 11),)), 10) == ["one", "two six", "ten"]
    assert texts(Rendered(text, (), (Hold(4, 15),)), 10) == ["one", "two six", "ten"], "and there at its best place"
    assert texts(Rendered(text, (), (Hold(2, 9, hard=True),)), 7) == ["on", "e two s", "ix ten"]


def test_a_long_line_of_code_is_cut_within_it() -> None:
    found = texts(as_markdown("```\n" + "x" * 300 + "\n```"), 100)
    assert len(found) == 4
    assert all(text.startswith("```\nx") and text.endswith("x\n```") for text in found)
    assert max(map(len, found)) == 100, "as much as there is room for"


def test_bold_words_that_are_cut_open_are_closed_and_opened_again() -> None:
    found = texts(as_markdown("**" + "bold " * 40 + "end**"), 80)
    assert len(found) > 2
    assert [(text[:2], text[-2:], text.count("**")) for text in found] == [("**", "**", 2)] * len(found)


@pytest.mark.parametrize("words", ["`of code here`", "[a link here](https://x.org)"])
@RENDERERS
def test_code_in_a_line_and_links_are_better_left_whole(render: Callable[[str], Rendered], words: str) -> None:
    first, second = texts(render("word " * 9 + words), 52)
    assert first == ("word " * 9).strip()
    assert second == render(words).text


@RENDERERS
def test_a_heading_stays_with_what_follows_it(render: Callable[[str], Rendered]) -> None:
    source = "word " * 20 + "\n\n## Heading\n\n" + "more " * 20
    assert texts(render(source), 130)[1].lstrip("# ").startswith("Heading\n\nmore")


# --- what Markdown becomes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("- one\n\n  | a |\n  |---|\n  | b |", "- one\n\n```\na\n─\nb\n```"),
        ("> ##### head\n> words", "> **head**\n> words"),
        ("> | a |\n> |-|", "> ```\n> a\n> ─\n> ```"),
        ("- one\n\n      code", "- one\n\n```\ncode\n```"),
        ("1. one\n\n   ---", "1. one\n\n   ──────────"),
        ("- > quote\n  > more", "-\n> quote\n> more"),
    ],
)
def test_what_discord_does_not_know_is_replaced_within_lists_and_quotes_too(source: str, shown: str) -> None:
    assert as_markdown(source).text == shown


def test_a_block_of_code_in_a_list_stands_below_the_mark_of_its_item() -> None:
    assert as_markdown("- ```py\n  a\n  ```\n- b").text == "-\n```py\na\n```\n- b"


def test_what_a_list_indents_ends_with_it() -> None:
    assert as_entities("- one\n  two\n\nafter\nthat").text == "• one\n   two\n\nafter\nthat"
    assert as_entities("9. one\n10. two\n    - a\n      b").text == "9. one\n10. two\n    ◦ a\n       b"


def test_code_and_tables_call_nobody_and_so_are_left_as_they_are() -> None:
    assert as_entities("| a |\n|---|\n| @b |").text == "a\n──\n@b"
    assert as_entities("```\n@b\n```").text == "@b"
    assert as_entities("`@b`").text == "@b"
    assert as_entities("    @b").text == "@b"


def test_nobody_is_called_by_a_name_behind_a_sign_of_another_format() -> None:
    assert as_entities("@*name*").text == f"@{WORD_JOINER}name"
    assert as_entities("@*name*", mentions=True).text == "@name"


def test_a_link_without_words_shows_its_address() -> None:
    rendered = as_entities("[](https://x.org)")
    assert rendered.text == "https://x.org"
    assert rendered.spans == (Span(0, 13, "text_link", "https://x.org"),)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert grid([["a", "b"], ["long"], ["", "", ""]]) == "a    │ b\n─────┼──\nlong │\n     │"
    assert grid([["only"]]) == "only\n────"
    assert grid([[""]]).strip("\n") in ("", "─")


@pytest.mark.parametrize(("length", "second"), [(2121, "──┼──"), (2122, "x │ y")])
def test_columns_are_given_up_where_blanks_would_be_most_of_a_table(length: int, second: str) -> None:
    """Five rows of `length` + 7 characters, and four times the `length` + 39 of their words and 2,000 more."""
    table = grid([["x", "y" * length], *[["x", "y"]] * 4])
    assert table.splitlines()[1][:5] == second


# --- what a message holds --------------------------------------------------------------------------------------------


def test_only_what_is_formatted_has_plain_words_beside_it() -> None:
    limits = Limits(200, utf16_length, as_entities)
    assert [content.plain for content in split_answer("plain `@name`", limits)] == ["plain ＠name"]
    assert [content.plain for content in split_answer("plain @ name", limits)] == [None]


def test_a_content_comes_back_from_the_outbox_with_all_that_it_holds() -> None:
    content = MessageContent(
        "汉",
        (Entity("bold", 0, 1, "x"),),
        "plain",
        Attachment("answer.md", "text/markdown", b"\x00\xff"),
        ends_answer=True,
        buttons=(Button("regenerate", "again"),),
    )
    assert from_json(to_json(content)) == content
    assert "汉" in to_json(content), "people read it"


def test_what_lies_too_deep_to_be_read_is_shown_as_it_is_and_calls_nobody() -> None:
    source = "> " * 200 + "@b"
    assert as_entities(source).text == "> " * 200 + f"@{WORD_JOINER}b"
    assert as_entities(source, mentions=True).text == source


@RENDERERS
def test_a_rule_is_a_line_of_its_own(render: Callable[[str], Rendered]) -> None:
    assert render("a\n\n---\n\nb").text == "a\n\n──────────\n\nb"


def test_a_quote_can_be_folded() -> None:
    tree = (MarkdownNode("quote", parse_markdown("one *two*\nthree\n\n- four\n\n```\nfive\n```"), data="folded"),)
    telegram = write_entities(tree)
    assert [span for span in telegram.spans if "quote" in span.kind] == [
        Span(0, len(telegram.text), "expandable_blockquote")
    ]
    shown = "> ||one *two*||\n> ||three||\n> \n> - ||four||\n> \n> ```\n> five\n> ```"
    assert write_markdown(tree).text == shown


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("\\-# x", "\\-# x"),
        ("-# x", "\\-# x"),
        ("\\>>> x", "\\>>> x"),
        ("\\# x", "\\# x"),
        ("#tag", "#tag"),
        ("#tag\n---", "## \\#tag"),
        ("# *#a* #b", "# *#a* #b"),
        ("1986\\. x", "1986\\. x"),
        ("a || b || c", "a \\|\\| b \\|\\| c"),
        ("std::heart:x", "std::heart:x".replace("::h", ":\\:h")),
        ("10:30:45", "10:30:45"),
        ("snake_case_name", "snake_case_name"),
        ("C:\\Users\\x", "C:\\Users\\x"),
        ("5 * 3 * 2", "5 * 3 * 2"),
        ("a[0] \\[x", "a[0] \\[x"),
        ("&amp; &lt;b&gt;", "& <b>"),
        ("__x__", "**x**"),
        ("> a\n>b\n>\n>c", "> a\n> b\n> \n> c"),
        ("[a](b.md) ![c](d.png)", "a (b.md) c (d.png)"),
        ("[https://x.org](https://x.org)", "<https://x.org>"),
        ("见https://x.org/a_b_。后", "见<https://x.org/a_b_>。后"),
        ("a\\\nb", "a\nb"),
        ("`` a`b ``", "``a`b``"),
        ("`a` `@everyone`", "`a` `@everyone`"),
        ("***a** b*", "_**a** b_"),
    ],
)
def test_discord_reads_what_was_meant(source: str, shown: str) -> None:
    assert as_markdown(source).text == shown


def test_it_is_known_where_each_format_lies_to_the_character() -> None:
    rendered = as_markdown("a `b` **c**\n\n```py\nd\n```")
    assert rendered.text == "a `b` **c**\n\n```py\nd\n```"
    assert [(rendered.text[span.start : span.end], span.kind) for span in rendered.spans] == [
        ("b", "code"),
        ("c", "bold"),
        ("d", "pre"),
    ]


# --- thoughts --------------------------------------------------------------------------------------------------------


def test_telegram_folds_a_thought_in_a_quotation_that_can_be_expanded_with_all_that_it_holds() -> None:
    thought = "First **this**.\n\n> they said so\n\n- one\n- two\n\n```\ncode\n```"
    rendered = as_entities(f"{folded(thought)}\n\nThe answer.\n\n> quoted")
    assert rendered.text.startswith("First this.\n\nthey said so")
    kinds = {span.kind: rendered.text[span.start : span.end] for span in rendered.spans}
    assert kinds["expandable_blockquote"].endswith("code")
    assert kinds["blockquote"] == "quoted"
    assert (kinds["bold"], kinds["pre"]) == ("this", "code")


def test_a_quotation_that_only_begins_with_the_sign_of_folding_is_an_ordinary_one() -> None:
    rendered = as_entities(f"> {FOLDED} well\n\n> {FOLDED}")
    assert {span.kind for span in rendered.spans} == {"blockquote"}


def test_a_folded_thought_goes_on_folded_in_the_next_message() -> None:
    limits = Limits(90, utf16_length, as_entities)
    contents = split_answer(folded("word " * 30) + "\n\nyes", limits)
    assert len(contents) > 2
    assert all(content.entities[0].kind == "expandable_blockquote" for content in contents[:-1])


def test_discord_hides_a_thought_line_by_line_until_somebody_presses_it() -> None:
    rendered = as_markdown(folded("one **two**\n\nthree") + "\n\nThe answer.")
    assert rendered.text == "> ||one **two**||\n> \n> ||three||\n\nThe answer."
