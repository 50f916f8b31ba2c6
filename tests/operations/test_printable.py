"""Text that is safe to print, in whatever way it was meant to be unsafe."""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.operations.logs import Brief, JsonFormatter, Redactor, TextFormatter
from chatbridge.operations.printable import as_json, escaped, in_one_line, printable

HOSTILE = "\x1b]52;c;cm0gLXJmIH4K\x07\x1b[2J\x9b8m\r\x08\x7f\x85\u202eevil\u2066\u2028"
ANY = st.text(st.one_of(st.characters(), st.sampled_from(HOSTILE)))


def steers(text: str) -> bool:
    odd = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return any(
        (unicodedata.category(char) == "Cc" and char not in "\n\t") or unicodedata.bidirectional(char) in odd
        for char in text
    )


@given(ANY)
def test_nothing_steers_the_terminal(text: str) -> None:
    assert not steers(printable(text))
    assert not steers(escaped(text))
    assert not steers(as_json({text: text}))
    assert "\n" not in in_one_line(text)


@given(ANY)
def test_json_reads_back_as_it_was(text: str) -> None:
    assert json.loads(as_json([text])) == [text]


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == escaped(text) == text


def record(message: str, name: str = "chatbridge.x") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, "%s", (message,), None)


@given(ANY)
def test_only_a_record_begins_a_line_of_the_log(text: str) -> None:
    line = TextFormatter(Redactor()).format(record(f"a\n2026-01-01 ERROR root: forged {text}"))
    assert not steers(line)
    assert all(row.startswith("    ") for row in line.split("\n")[1:])
    assert not steers(JsonFormatter(Redactor()).format(record(text)))


@pytest.mark.parametrize(("name", "lines"), [("discord.client", 1), ("telegram.ext", 1), ("chatbridge.bridge", 9)])
def test_a_librarys_traceback_is_a_line(name: str, lines: int) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Brief())
    try:
        raise ConnectionError("502 Bad Gateway\n<html>\n</html>")
    except ConnectionError as error:
        made = record("Attempting a reconnect", name)
        made.exc_info = (type(error), error, error.__traceback__)
    handler.handle(made)
    told = stream.getvalue()
    assert re.match(r"Attempting a reconnect", told)
    assert "502 Bad Gateway" in told
    assert (told.count("\n") == 1) == (lines == 1)


def test_json_with_a_name_whose_bytes_are_no_text_can_be_printed_and_read_back() -> None:
    value = {"path": "/models/\udcff\udcfe"}
    written = as_json(value)
    assert written.encode() == b'{"path": "/models/\\udcff\\udcfe"}'
    assert json.loads(written) == value
