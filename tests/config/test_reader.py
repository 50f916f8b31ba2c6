"""What the reader says about bad files, word for word; `bad_files.txt` holds most of them with their errors."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from chatbridge import ConfigError, Plugins
from chatbridge.config import load
from chatbridge.config.nodes import MAX_DEPTH, MAX_NODES, parse

from .bad_files import BAD
from .conftest import Diagnostics
from .samples import ENVIRONMENT, GOOD, MODEL, sample_plugins

KNOWN = "models, templates, defaults, bots, store, keep, drain, monitor, template_seconds, template_mib, load_mib"
TOP = f"(known: {KNOWN})"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_these_errors(diagnostics: Diagnostics, folder: Path, name: str) -> None:
    text, expected = BAD[name]
    found = [line.replace(str(folder), "FOLDER") for line in diagnostics(text)]
    # Where all templates are listed, two are enough.
    shortened = [re.sub(r"\b(alpaca, alpaca-lora, ).*", r"\1…", line) for line in found]
    shortened = [re.sub(r"\S*pip install \S*plugins/", "pip install plugins/", line) for line in shortened]
    assert shortened == expected


def test_every_name_of_a_bad_file_is_its_own() -> None:
    text = Path(__file__).with_name("bad_files.txt").read_text(encoding="utf-8")
    assert len(BAD) == len(re.findall(r"(?m)^## ", text))
    assert all(expected for _, expected in BAD.values())


# --- files that can't be kept as text ------------------------------------------------------------------------------

ODD = {
    "a control character": (MODEL + "store: a\x07b\n", ["2:9: the character U+0007 can't stand in YAML; remove it"]),
    "one behind wide characters": ("# é😀 世界 \x00", ["1:9: the character U+0000 can't stand in YAML; remove it"]),
    "a delete": ("\x7f", ["1:1: the character U+007F can't stand in YAML; remove it"]),
    "no character": ("a: \uffff\n", ["1:4: the character U+FFFF can't stand in YAML; remove it"]),
    "no UTF-8": (MODEL.encode() + b"# \xe4\xb8\x96 \xff", ["2:5: this byte is no UTF-8; save the file as UTF-8"]),
    "UTF-16": (MODEL.encode("utf-16"), ["1:1: this byte is no UTF-8; save the file as UTF-8"]),
    "Latin-1": ("# café".encode("latin-1"), ["1:6: this byte is no UTF-8; save the file as UTF-8"]),
    "no UTF-8 behind a BOM": (b"\xef\xbb\xbf\xff", ["1:1: this byte is no UTF-8; save the file as UTF-8"]),
    "half a character": (b"# \xed\xa0\x80", ["1:3: this byte is no UTF-8; save the file as UTF-8"]),
    "a BOM": (
        b"\xef\xbb\xbfstor: 1\n" + MODEL.encode(),
        ["1:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "CRLF": (
        (MODEL + "bots: {}\nstor: 1\n").replace("\n", "\r\n"),
        ["3:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "CR": (
        (MODEL + "bots: {}\nstor: 1\n").replace("\n", "\r"),
        ["3:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "line ends that editors don't count": (
        MODEL + "defaults: {system: 'a\u2028b\x85c'}\nstor: 1\n",
        ["3:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "a list": ("- models\n", ["1:1: the file has to be keys with values, as `key: value`"]),
    "text": ("models", ["1:1: the file has to be keys with values, as `key: value`"]),
    "deep": (MODEL + "x: " + "[" * 99 + "]" * 99, [f"2:{MAX_DEPTH + 3}: nested more than {MAX_DEPTH} deep"]),
    "deep, and never closed": ("[" * 900, [f"1:{MAX_DEPTH + 1}: nested more than {MAX_DEPTH} deep"]),
    "deep blocks": (
        "".join(" " * depth + "a:\n" for depth in range(60)),
        [f"{MAX_DEPTH + 1}:{MAX_DEPTH + 1}: nested more than {MAX_DEPTH} deep"],
    ),
    "a bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{n}: &{n} [{', '.join(['*' + m] * 9)}]\n" for m, n in pairwise("abcdefghi")),
        [f"1:1: there are more than {MAX_NODES} values, those of aliases counted; make do with less"],
    ),
    "a bomb of merges": (
        "a: &a {x: 1}\n"
        + "".join(f"{n}: &{n} {{<<: [{', '.join(['*' + m] * 9)}]}}\n" for m, n in pairwise("abcdefghi")),
        [f"{n}:1: there is no key {k!r} at the top of the file {TOP}"
         for n, k in enumerate("abcdefghi", 1)],
    ),
    "a very long key": (
        MODEL + "k" * 999 + ": 1\n",
        [f"2:1: there is no key '{'k' * 39}…' at the top of the file "
         f"{TOP}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ODD.values(), ids=ODD.keys())
def test_an_odd_file_gets_these_errors(diagnostics: Diagnostics, text: str | bytes, expected: list[str]) -> None:
    assert diagnostics(text) == expected


def test_a_file_that_is_nested_beyond_what_libyaml_reads_gets_the_same_error(diagnostics: Diagnostics) -> None:
    (diagnostic,) = diagnostics("[" * 100_000)
    assert diagnostic.endswith(f": nested more than {MAX_DEPTH} deep")


def test_the_reader_tells_which_files_count(folder: Path, plugins: Plugins) -> None:
    path, files = folder / "bots.yaml", set[Path]()
    path.write_bytes(GOOD.read_bytes())
    load(path, plugins, ENVIRONMENT, looked_at=files)
    assert files == {path, folder / "key.txt", folder / "persona.txt"}
    path.write_text("bots: {b: {frontend: rooms, token_file: nowhere.txt}}", encoding="utf-8")
    with pytest.raises(ConfigError):
        load(path, plugins, ENVIRONMENT, looked_at=(missing := set[Path]()))
    assert missing == {path, folder / "nowhere.txt"}


@pytest.mark.parametrize(
    ("name", "instead"),
    [("nowhere.yaml", "name another one, or write one by `chatbridge init`"), (".", "name another one")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, plugins: Plugins, name: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=rf":1:1: this file can't be read: .*; {instead}$"):
        load(tmp_path / name, plugins)


def test_a_broken_core_backend_is_told_of_where_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "bots.yaml"
    path.write_text("bots: {}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1:1: there are no models, and there is no backend 'numpy' \(inst"):
        load(path, Plugins(discover=False))


def test_errors_come_sorted_and_once(diagnostics: Diagnostics) -> None:
    found = diagnostics(BAD["many mistakes at once"][0])
    locations = [tuple(map(int, line.split(":")[:2])) for line in found]
    assert locations == sorted(locations)
    assert len(set(found)) == len(found) > 5


def test_an_alias_is_read_where_it_is_used() -> None:
    document = parse(b"a: &a [1, {b: 2}]\nc: *a\n", {})
    assert document.value == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
    assert document.value["a"] is not document.value["c"]
    assert document.values["c", 1, "b"] == document.values["a", 1, "b"]


def test_sample_plugins_are_sound_but_for_the_broken_one() -> None:
    assert [record.name for record in sample_plugins().records() if record.reason] == ["walkie"]


def test_a_file_for_what_is_given_already_is_one_mistake(diagnostics: Diagnostics) -> None:
    text = MODEL + "bots: {b: {frontend: rooms, token: x, token_file: nowhere}}\n"
    (told,) = diagnostics(text)
    assert told.endswith("`token` is given, too; keep one of `token` and `token_file`")
