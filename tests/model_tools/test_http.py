"""What the client asks a server, and what becomes of each answer."""

from __future__ import annotations

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.fetching.http import PASSING, Client, Interrupted

from .server import Server


def got(server: Server, path: str = "/m", **asked: object) -> tuple[bytes, int, int | None, str]:
    """The bytes, where they begin, how many the file has, and its tag."""
    with Client().get(server.url(path), **asked) as answer:  # type: ignore[arg-type]
        return b"".join(answer.chunks()), answer.start, answer.total, answer.version


def test_a_file_is_asked_for_as_it_is(server: Server) -> None:
    server.put("/m", b"0123456789")
    assert got(server) == (b"0123456789", 0, 10, '"1"')
    headers = server.asked[-1].headers
    assert headers["user-agent"].startswith("chatbridge/")
    assert headers["accept-encoding"] == "identity"
    assert not {"range", "if-range", "authorization"} & headers.keys()


def test_a_part_is_asked_for_by_its_first_byte_and_tag(server: Server) -> None:
    server.put("/m", b"0123456789")
    assert got(server, start=4) == (b"456789", 4, 10, '"1"')
    assert server.asked[-1].headers["range"] == "bytes=4-"
    assert "if-range" not in server.asked[-1].headers
    assert got(server, start=4, version='"1"')[1] == 4
    assert server.asked[-1].headers["if-range"] == '"1"'
    assert got(server, start=4, version='W/"1"')[0] == b"0123456789"
    assert got(server, start=4, version='"2"') == (b"0123456789", 0, 10, '"1"')
    assert got(server, end=0)[0] == b"0"
    assert server.asked[-1].headers["range"] == "bytes=0-0"
    assert got(server, start=2, end=3)[0] == b"23"
    assert got(server, version='"1"')[1] == 0
    assert "if-range" not in server.asked[-1].headers


def test_a_part_behind_the_end_is_the_whole_from_its_beginning(server: Server) -> None:
    server.put("/m", b"0123")
    assert got(server, start=4, version='"1"') == (b"0123", 0, 4, '"1"')


@pytest.mark.parametrize("status", PASSING)
def test_what_may_pass_is_told_with_the_seconds_that_are_asked_for(server: Server, status: int) -> None:
    server.put("/m", b"x").statuses = [(status, {"Retry-After": "7"}), (status, {})]
    with pytest.raises(Interrupted, match=rf"^127\.0\.0\.1 answers {status} ") as caught:
        got(server)
    assert caught.value.seconds == 7
    with pytest.raises(Interrupted) as caught:
        got(server)
    assert caught.value.seconds is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refused .401.: it is not for everybody"),
        (403, "refused .403.: it is not for everybody"),
        (402, "the server answers 402"),
        (404, "there is no such file .404.; look at the address again"),
        (410, "there is no such file .410.; look at the address again"),
        (411, "the server answers 411"),
        (501, "the server answers 501"),
    ],
)
def test_what_will_be_no_better_later_is_an_error(server: Server, status: int, words: str) -> None:
    server.put("/m", b"x").statuses = [(status, {})]
    with pytest.raises(ModelLoadError, match=words):
        got(server)


def test_a_token_is_told_to_its_host_alone(server: Server) -> None:
    server.put("/m", b"x").statuses = [(403, {}), (200, {})]
    base = server.url("/m").removesuffix("/m")
    with (
        pytest.raises(ModelLoadError, match=r"refused .403.: that token may not have it"),
        Client("t", base).get(server.url("/m")),
    ):
        pass
    assert server.asked[-1].headers["authorization"] == "Bearer t"
    for endpoint in ("", base.replace("http:", "https:"), "http://127.0.0.1:1", base.replace("127.0.0.1", "localhost")):
        server.put("/m", b"x")
        with Client("t", endpoint).get(server.url("/m")):
            assert "authorization" not in server.asked[-1].headers


@pytest.mark.parametrize(
    ("path", "kind", "refused"),
    [
        ("/m", "text/html", True),
        ("/m", "application/xhtml+xml", True),
        ("/m", "text/plain", False),
        ("/m.html", "text/html", False),
        ("/m.htm", "text/html; charset=utf-8", False),
    ],
)
def test_a_page_is_no_file_unless_it_is_asked_for(server: Server, path: str, kind: str, refused: bool) -> None:
    server.put(path, b"<html>", kind=kind)
    if refused:
        with pytest.raises(ModelLoadError, match="a web page comes from there and not the file"):
            got(server, path)
    else:
        assert got(server, path)[0] == b"<html>"


def test_what_is_packed_unasked_is_refused(server: Server) -> None:
    server.put("/m", b"x", headers={"Content-Encoding": "gzip"})
    with pytest.raises(ModelLoadError, match=r"the server sends it packed .gzip., unasked"):
        got(server)


def test_a_length_or_a_tag_that_is_not_told_is_not_known(server: Server) -> None:
    server.put("/m", b"0123", tag="", sized=False)
    assert got(server) == (b"0123", 0, None, "")


@pytest.mark.parametrize("told", ["bytes 3-9/10", "bytes 4-9", "nothing"])
def test_another_part_than_was_asked_for_may_be_the_right_one_later(server: Server, told: str) -> None:
    server.put("/m", b"0123456789", headers={"Content-Range": told})
    with pytest.raises(Interrupted, match="sends another part than was asked for"):
        got(server, start=4)


def test_a_part_of_a_file_whose_size_nobody_knows(server: Server) -> None:
    server.put("/m", b"0123456789", headers={"Content-Range": "bytes 4-9/*"})
    assert got(server, start=4) == (b"456789", 4, None, '"1"')


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://[bad/x", "leads to what is none"),
        ("http://a..b/x", "leads to what is none"),
        (f"http://{'a' * 70}.org/x", "leads to what is none"),
        ("http://127.0.0.1:port/x", "leads to what is none"),
        ("/m", "leads in circles, or nowhere"),
        ("", "leads in circles, or nowhere"),
    ],
)
def test_a_redirect_to_no_address_is_told_at_once(server: Server, place: str, words: str) -> None:
    server.put("/m", b"x").statuses = [(302, {"Location": place})] * 20
    with pytest.raises(ModelLoadError, match=rf"^{server.url('/m')}: .*{words}"):
        got(server)


def test_a_host_that_has_no_such_name_is_no_address() -> None:
    with pytest.raises(ModelLoadError, match=r"^https://a\.\.b/m: it is no address"), Client().get("https://a..b/m"):
        pass
