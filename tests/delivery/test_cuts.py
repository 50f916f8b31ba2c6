"""Where formatted text is cut: at its best places, and each part looks as the whole did."""

from __future__ import annotations

import pytest

from chatbridge import Limits, as_entities, as_markdown, utf16_length
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.rendered import Gap, Rendered, Span
from chatbridge.delivery.splitting import split

WORDS = {"Chapter", "The", "history", "of", "things", "long", "words", "end"}


def parts(source: str, service: str, length: int) -> list[str]:
    if service == "telegram":
        return [one.text for one in split(as_entities(source), length, utf16_length)]
    return [one.text for one in split(as_markdown(source), length)]


@pytest.mark.parametrize("service", ["telegram", "discord"])
@pytest.mark.parametrize(
    "source",
    [
        "\n\n".join(["## Chapter The history of things"] * 95),
        "\n".join(["# Chapter"] * 95),
        f"**{'long words ' * 95}end**",
        f"*{'long words ' * 95}end*",
        f"[{'long words ' * 95}end](https://x.org)",
        f"> ***{'long words ' * 95}end***",
    ],
    ids=["headings", "tight headings", "bold", "italic", "a link", "a quote"],
)
def test_no_word_is_cut_in_what_is_longer_than_a_message(source: str, service: str) -> None:
    found = parts(source, service, 400)
    assert len(found) > 1
    for text in found:
        # The address of a link that is cut has no blank to be cut at.
        assert {word.strip("*_#>[]") for word in text.split() if "x.org" not in word} <= WORDS | {""}


@pytest.mark.parametrize("service", ["telegram", "discord"])
def test_a_heading_among_headings_ends_no_message_but_goes_with_a_paragraph(service: str) -> None:
    source = "\n\n".join(f"## Heading\n\n{'words ' * n}" for n in range(1, 30))
    for text in parts(source, service, 200):
        assert not text.split("\n")[-1].lstrip("# ").startswith("Heading")


def test_each_part_of_a_heading_is_a_heading_and_keeps_its_signs() -> None:
    found = parts("## " + "C# or F# " * 40, "discord", 100)
    assert len(found) > 3
    assert all(text.startswith("## ") for text in found)
    assert "".join(text[3:] for text in found).count("#\u200b") == 80


def test_each_part_of_a_quote_is_a_quote_and_its_marks_are_closed() -> None:
    for text in parts(
        "> **long words\n> " + "long words " * 60 + "end**\n>\n> " + "*long words* " * 30, "discord", 150
    ):
        for line in text.split("\n"):
            assert line.startswith("> ") or line == ">", text
            assert line.count("*") % 2 == 0, line
        assert text.strip("> \n")


def test_each_part_of_code_in_a_quote_is_code_in_a_quote() -> None:
    code = "\n".join(f"> x{number} = {number}" for number in range(60))
    found = parts(f"> ```py\n{code}\n> ```", "discord", 100)
    assert len(found) > 5
    for text in found:
        assert text.startswith("> ```py\n> x")
        assert text.endswith("\n> ```")
        assert all(line.startswith("> ") for line in text.split("\n"))


def test_a_blank_line_of_a_quote_is_left_out_where_a_message_ends() -> None:
    found = parts(f"> {'long words ' * 8}\n>\n> {'long words ' * 8}", "discord", 120)
    assert found == [f"> {('long words ' * 8).strip()}"] * 2


def test_a_gap_is_a_good_place_for_a_cut_and_is_not_sent() -> None:
    fragments = split(Rendered("one two--three four", gaps=(Gap(7, 9),)), 12)
    assert [one.text for one in fragments] == ["one two", "three four"]
    assert "".join(one.body for one in fragments) == "one two--three four"


@pytest.mark.parametrize(
    "source",
    [
        "\n".join(f"- [s{number}](https://x.example/{number})" for number in range(130)),
        " ".join(f"**b{number}** *i{number}* `c{number}`" for number in range(90)),
        "> " + " ".join(f"`c{number}`" for number in range(250)),
        "\n\n".join(f"**a *b{number}* c** ~~||d||~~" for number in range(70)),
    ],
    ids=["links", "formats", "in a quote", "in each other"],
)
def test_no_message_has_more_formats_than_it_may_and_none_is_lost(source: str) -> None:
    rendered = as_entities(source)
    limits = Limits(4096, utf16_length, as_entities, max_entities=100, max_messages=50)
    contents = split_answer(source, limits)
    assert all(0 < len(content.entities) <= 100 for content in contents)
    assert len(contents) > 1
    kinds = [entity.kind for content in contents for entity in content.entities if entity.kind != "blockquote"]
    assert sorted(kinds) == sorted(span.kind for span in rendered.spans if span.kind != "blockquote")


def test_formats_have_no_blanks_at_their_ends_but_code_has() -> None:
    text = " bold  code "
    (fragment,) = split(Rendered(text, (Span(0, 6, "bold"), Span(6, 12, "code"))), 100)
    assert [(one.kind, fragment.text[one.offset : one.offset + one.length]) for one in fragment.entities] == [
        ("bold", "bold"),
        ("code", " code"),
    ]


def test_a_message_begins_with_no_blanks_but_those_of_code() -> None:
    nested = "- a\n" + "".join(f"  - {'words ' * 8}{number}\n" for number in range(20))
    assert all(text == text.strip() for text in parts(nested, "telegram", 120))
    assert parts("      a\n    b", "telegram", 100) == ["  a\nb"]
    code = "```\n" + "\n".join(f"    x{number}" for number in range(40)) + "\n```"
    assert all(text.startswith("    x") for text in parts(code, "telegram", 60))


def test_items_show_how_deep_they_lie_where_a_message_begins_with_them() -> None:
    source = "\n".join(f"{'  ' * depth}- {'words ' * 5}" for depth in (0, 1, 2, 3, 1, 0))
    assert "".join(text[0] for text in parts(source, "telegram", 40)) == "•◦▪▪◦•"


def test_all_that_is_too_much_for_the_messages_is_in_the_file() -> None:
    source = "\n".join(f"> **{'words ' * 10}{number}**" for number in range(60))
    *_, last = split_answer(source, Limits(300, render=as_markdown, max_messages=2))
    assert last.file is not None
    assert last.file.data.decode().rstrip().endswith("59**")
