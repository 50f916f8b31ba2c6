"""What a source may be, and what an address tells nobody."""

from __future__ import annotations

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.fetching.remote import HubSource, UrlSource, parse_source, safe_name, without_secrets

SHA = "AB" * 32


@pytest.mark.parametrize(
    ("source", "revision", "found"),
    [
        ("a/b", "", HubSource("a/b")),
        ("a/b", "r", HubSource("a/b", "r")),
        ("a/b@r", "", HubSource("a/b", "r")),
        ("a/b@r", "r", HubSource("a/b", "r")),
        ("a/b:m.gguf", "", HubSource("a/b", "", "m.gguf")),
        ("https://huggingface.co/a/b", "r", HubSource("a/b", "r")),
        ("https://huggingface.co/a/b/tree/main", "", HubSource("a/b", "main")),
        ("https://huggingface.co/a/b/blob/main/m%20x.gguf", "", HubSource("a/b", "main", "m x.gguf")),
        ("https://example.org/m%20x.gguf", "", UrlSource("https://example.org/m%20x.gguf", "m x.gguf")),
        ("https://example.org/", "", UrlSource("https://example.org/", "model")),
        (f"http://example.org/m#sha256={SHA}", "", UrlSource("http://example.org/m", "m", SHA.lower())),
        ("http://127.0.0.1:8000/m", "", UrlSource("http://127.0.0.1:8000/m", "m")),
        ("http://localhost/m", "", UrlSource("http://localhost/m", "m")),
    ],
)
def test_a_source_is_a_repository_or_an_address(source: str, revision: str, found: HubSource | UrlSource) -> None:
    assert parse_source(source, revision) == found


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        ("nothing", "", "'nothing' is no source"),
        ("a/b@r", "s", "two revisions are given, 'r' and 's'"),
        ("ftp://example.org/m", "", "only addresses with https:// are fetched"),
        ("https:///m", "", "only addresses with https:// are fetched"),
        ("https://me:secret@example.org/m", "", r"https://…@example\.org: names and passwords in an address"),
        ("https://example.org/a b", "", "an address has no blanks"),
        ("https://example.org:x/m", "", "this is no address"),
        ("https://example.org/m", "r", "an address has no revision"),
        ("https://example.org/m#sha256=12", "", "behind # stands sha256= and 64 hexadecimal digits"),
        ("http://example.org/m", "", "what comes by http:// may be anybody's"),
        ("http://10.0.0.1/m", "", "what comes by http:// may be anybody's"),
        ("https://example.org/%2e%2e", "", "no file of such a name is written here"),
    ],
)
def test_what_is_no_source_is_told_in_words(source: str, revision: str, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        parse_source(source, revision)


def test_a_folder_is_called_by_what_is_in_it() -> None:
    assert [HubSource("a/b").folder, HubSource("a/b", "", "x/m.q4.gguf").folder] == ["a--b", "a--b--m.q4"]
    assert [UrlSource("u", "m.gguf").folder, UrlSource("u", "").folder] == ["m", "model"]
    assert [str(HubSource("a/b", "r")), str(HubSource("a/b", "r", "f"))] == ["a/b", "a/b:f"]
    assert str(UrlSource("https://x.org/m?key=1", "m")) == "https://x.org/m"


@pytest.mark.parametrize(
    "name", ["a", "a/b.c", "x" * 240, f"{'x' * 150}/{'y' * 149}", "模" * 80, "模型.gguf", "chatbridge.json"]
)
def test_names_of_files_are_taken(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a//b", "./a", "a/..", " a", "a/b ", "a\\b", "a:b", "a*", "a\0", "x" * 301, "a\u202eb"]
)
def test_names_that_lead_elsewhere_are_not(name: str) -> None:
    with pytest.raises(ModelLoadError, match="no file of such a name is written here"):
        safe_name(name)


@pytest.mark.parametrize("name", ["x" * 241, "模" * 81, f"a/{'x' * 241}"])
def test_names_that_no_disk_takes_are_told(name: str) -> None:
    with pytest.raises(ModelLoadError, match="the name is too long for a disk"):
        safe_name(name)


@pytest.mark.parametrize("name", ["chatbridge-report.json", "chatbridge-pull.json", "Chatbridge-Report.JSON"])
def test_names_of_our_own_files_are_not_fetched(name: str) -> None:
    with pytest.raises(ModelLoadError, match="so this program calls files of its own"):
        safe_name(name)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@example.org:8000/m?key=1#sha256=2", "https://example.org:8000/m"),
        ("https://[::1]:8000/m", "https://[::1]:8000/m"),
        ("https://[::1/m?key=1", "https://[::1/m"),
        ("https://me:secret@example.org:x/m?key=1", "example.org:x/m"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
