"""Files that are fetched from an address: whole or not at all, gone on with, checked, and refused in words."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from random import Random

import pytest

from chatbridge import ModelLoadError
from chatbridge.model_tools.fetching import pull as pulling
from chatbridge.model_tools.fetching.download import MARGIN, PART
from chatbridge.model_tools.fetching.http import Client
from chatbridge.model_tools.fetching.patience import Patience
from chatbridge.model_tools.fetching.pull import look
from chatbridge.model_tools.fetching.remote import HubSource, UrlSource, parse_source, without_secrets
from chatbridge.model_tools.output import output_folder
from chatbridge.model_tools.report import Report
from chatbridge.operations.file_locks import try_lock

from .conftest import Fetch
from .server import Server, serving

BODY = Random(1).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


def in_folder(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_fetched_with_its_checksum_in_the_report(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.gguf", BODY)
    folder = tmp_path / "deep" / "m"
    assert fetch(server.url("/m.gguf?key=secret"), folder).made
    assert (folder / "m.gguf").read_bytes() == BODY
    assert in_folder(tmp_path) == {"deep/m/m.gguf", "deep/m/chatbridge-report.json"}
    report = json.loads((folder / "chatbridge-report.json").read_text("utf-8"))
    assert report["sources"] == [{"path": "m.gguf", "size": len(BODY), "sha256": SHA}]
    assert report["steps"] == [{"step": "fetched", "source": server.url("/m.gguf"), "files": 1}]
    assert "secret" not in json.dumps(report)


@pytest.mark.parametrize("broken", [[100_000], [100_000, 0, 50_000], [299_999]])
def test_a_connection_that_breaks_is_gone_on_with(
    server: Server, fetch: Fetch, tmp_path: Path, broken: list[int]
) -> None:
    file = server.put("/m.bin", BODY, cuts=list(broken))
    seen = fetch(server.url("/m.bin"), tmp_path / "m")
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY
    assert server.ranges("/m.bin")[:2] == [None, f"bytes={broken[0]}-"]
    assert len(seen.waited) == len(broken)
    assert file.cuts == []


def test_the_next_run_goes_on_where_the_last_one_ended(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    file = server.put("/m.bin", BODY, cuts=[100_000, 0, 0])
    with pytest.raises(ModelLoadError, match="3 times in a row; the same command goes on where it was"):
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    file.cuts = []
    seen = fetch(server.url("/m.bin"), tmp_path / "m")
    assert (seen.made, seen.told) == (True, [])
    assert server.ranges("/m.bin")[-1] == "bytes=100000-"
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY
    report = json.loads((tmp_path / "m" / "chatbridge-report.json").read_text("utf-8"))
    assert report["steps"][0]["bytes_from_earlier_runs"] == 100_000
    assert in_folder(tmp_path) == {"m/m.bin", "m/chatbridge-report.json"}


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (('"1"', '"2"'), "it has changed since the last run; it is fetched anew"),
        (("", ""), "the server does not say which version it has; it is fetched anew"),
    ],
)
def test_another_version_is_never_put_behind_the_first(
    server: Server, fetch: Fetch, tmp_path: Path, tags: tuple[str, str], told: str
) -> None:
    server.put("/m.bin", b"x" * len(BODY), tag=tags[0], cuts=[100_000, 0, 0])
    with pytest.raises(ModelLoadError):
        fetch(server.url("/m.bin"), tmp_path / "m")
    server.put("/m.bin", BODY, tag=tags[1])
    assert fetch(server.url("/m.bin"), tmp_path / "m").told == [f"m.bin: {told}"]
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY


@pytest.mark.parametrize("blind", [False, True], ids=["server looks", "server sends parts of any version"])
def test_a_file_that_changes_meanwhile_is_fetched_anew(
    server: Server, fetch: Fetch, tmp_path: Path, blind: bool
) -> None:
    old = server.put("/m.bin", b"x" * len(BODY), cuts=[100_000])
    new = server.put("/new", BODY, tag='"2"', blind=blind)

    class Changing(list[int]):
        def pop(self, at: int = -1) -> int:  # type: ignore[override]
            server.files["/m.bin"] = new
            return super().pop(at)

    old.cuts = Changing([100_000])
    seen = fetch(server.url("/m.bin"), tmp_path / "m")
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY
    assert seen.told[-1] == "m.bin: the server has another version by now, or sends no parts; it is fetched anew"


@pytest.mark.parametrize("ranges", [True, False])
def test_progress_ends_at_the_size_however_often_it_began(
    server: Server, fetch: Fetch, tmp_path: Path, ranges: bool
) -> None:
    file = server.put("/m.bin", BODY, cuts=[100_000, 0, 0], ranges=ranges)
    with pytest.raises(ModelLoadError, match="in a row"):
        fetch(server.url("/m.bin"), tmp_path / "m")
    file.cuts = [50_000]
    seen = fetch(server.url("/m.bin"), tmp_path / "m")
    assert (seen.stages, seen.bytes) == ([("fetching", len(BODY))], len(BODY))


def test_a_server_without_ranges_sends_all_once_more(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY, cuts=[100_000], ranges=False)
    seen = fetch(server.url("/m.bin"), tmp_path / "m")
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY
    assert "fetched anew" in seen.told[-1]


def test_a_server_that_is_busy_is_waited_for_as_it_asks(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    file = server.put("/m.bin", BODY, statuses=[(429, {"Retry-After": "7"}), (503, {})])
    assert fetch(server.url("/m.bin"), tmp_path / "m").waited == [7.0, 2.0]
    file.statuses = [(503, {"Retry-After": "3600"})]
    with pytest.raises(ModelLoadError, match=r"answers 503 .*asks to wait 3,600 seconds"):
        fetch(server.url("/m.bin"), tmp_path / "n")
    file.statuses = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    assert fetch(server.url("/m.bin"), tmp_path / "o").waited == [0.0]


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refused \\(401\\): it is not for everybody"), (404, "there is no such file"), (418, "418")],
)
def test_what_no_patience_helps_is_told_at_once(
    server: Server, fetch: Fetch, tmp_path: Path, status: int, told: str
) -> None:
    server.put("/m.bin", BODY, statuses=[(status, {})])
    with pytest.raises(ModelLoadError, match=told):
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_asked_anew(server: Server, tmp_path: Path) -> None:
    server.put("/m.bin", BODY)
    server.stall_after = 100_000

    def wait(seconds: float) -> None:
        server.stall_after = None

    work = look(parse_source(server.url("/m.bin")), tmp_path / "m", timeout=0.5, patience=Patience(3, wait=wait))
    assert pulling.pull(work, Report(""))
    assert server.ranges("/m.bin") == [None, "bytes=100000-"]
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY


def test_a_server_that_nobody_runs_is_told(tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.url("/m.bin")
    with pytest.raises(ModelLoadError, match=r"127\.0\.0\.1 can't be reached \(.*\), 2 times in a row"):
        look(parse_source(url), tmp_path / "m", patience=Patience(2, wait=lambda seconds: None))
    with pytest.raises(ModelLoadError, match=r"nowhere\.invalid: this name leads nowhere"):
        look(parse_source("https://nowhere.invalid/m.bin"), tmp_path / "m", patience=Patience(1))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4000\n"


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"<html>Log in</html>", "text/html; charset=utf-8", "a web page comes from there"),
        (b"<!DOCTYPE html><html>Log in</html>", "application/octet-stream", "this is a web page"),
        (LFS, "text/plain", "this is a Git LFS pointer"),
        (b"", "application/octet-stream", "the file is empty"),
    ],
)
def test_what_is_no_file_is_refused(
    server: Server, fetch: Fetch, tmp_path: Path, body: bytes, kind: str, told: str
) -> None:
    server.put("/m.bin", body, kind=kind)
    with pytest.raises(ModelLoadError, match=rf"^{server.url('/m.bin')}: .*{told}") as caught:
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert PART not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_in_an_address_is_held_against_what_comes(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY)
    assert fetch(server.url(f"/m.bin#sha256={SHA.upper()}"), tmp_path / "m").made
    with pytest.raises(ModelLoadError, match=f"m.bin: its checksum is {SHA} and should be {'0' * 64}, so it was"):
        fetch(server.url(f"/m.bin#sha256={'0' * 64}"), tmp_path / "n")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_length_that_is_a_lie_is_no_whole_file(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY, claims=len(BODY) + 5, ranges=False)
    with pytest.raises(ModelLoadError, match="300,005 bytes of it, and 300,000 were told of"):
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("tag", "asked"), [('"1"', '"1"'), ('W/"1"', None)], ids=["strong", "weak"])
def test_servers_are_asked_for_the_rest_of_the_same_version(
    server: Server, fetch: Fetch, tmp_path: Path, tag: str, asked: str | None
) -> None:
    server.put("/m.bin", BODY, tag=tag, cuts=[100_000])
    fetch(server.url("/m.bin"), tmp_path / "m")
    assert (server.ranges("/m.bin")[-1], server.asked[-1].headers.get("if-range")) == ("bytes=100000-", asked)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Content-Range": "bytes 99999-299998/300000"}, "sends another part than was asked for, 3 times in a row"),
        ({"Content-Range": "bytes"}, "sends another part than was asked for"),
        ({"Content-Encoding": "gzip"}, r"the server sends it packed \(gzip\), unasked"),
    ],
)
def test_a_part_that_was_not_asked_for_is_not_taken(
    server: Server, fetch: Fetch, tmp_path: Path, headers: dict[str, str], told: str
) -> None:
    file = server.put("/m.bin", BODY, cuts=[100_000, 0, 0])
    with pytest.raises(ModelLoadError, match="in a row"):
        fetch(server.url("/m.bin"), tmp_path / "m")
    file.cuts, file.headers = [], headers
    with pytest.raises(ModelLoadError, match=told):
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert (tmp_path / "m.partial" / "m.bin.fetching").stat().st_size == 100_000


def test_a_server_that_tells_no_length_is_read_to_its_end(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY, sized=False, ranges=False)
    assert fetch(server.url("/m.bin"), tmp_path / "m").made
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY


def test_a_server_that_never_ends_does_not_fill_the_disk(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/m.bin", BODY, sized=False, ranges=False)
    room = iter([1 << 30])  # for the look at it; none after that
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(room, MARGIN - 1)))
    with pytest.raises(ModelLoadError, match=r"the server does not say how large it is, and after .* nearly full"):
        fetch(server.url("/m.bin"), tmp_path / "m")


def test_a_redirect_takes_no_token_along(server: Server) -> None:
    with serving() as other:
        other.put("/far", BODY)
        server.put("/near", BODY, statuses=[(302, {"Location": other.url("/far")})])
        client = Client("hf_secret", server.address)
        with client.get(server.url("/near")) as answer:
            assert b"".join(answer.chunks()) == BODY
        server.put("/moved", BODY, statuses=[(307, {"Location": "/near"})])
        with client.get(server.url("/moved")) as answer:
            assert answer.total == len(BODY)
        assert [one.headers.get("authorization") for one in other.asked] == [None]
    assert [one.headers.get("authorization") for one in server.asked] == ["Bearer hf_secret"] * 3


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/m", "data:,x"])
def test_a_redirect_leads_to_no_other_scheme(server: Server, fetch: Fetch, tmp_path: Path, place: str) -> None:
    server.put("/m.bin", BODY, statuses=[(302, {"Location": place})])
    with pytest.raises(ModelLoadError):
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_checked_and_not_fetched(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY)
    url, folder = server.url("/m.bin"), tmp_path / "m"
    folder.mkdir()  # an empty one is no hindrance
    fetch(url, folder)
    assert not fetch(url, folder).made
    assert len(server.ranges("/m.bin")) == 1
    (folder / "m.bin").write_bytes(BODY[:-1] + b"?")
    with pytest.raises(ModelLoadError, match="it is damaged, or has changed there"):
        fetch(url, folder)
    server.put("/m.bin", BODY + b"more")
    with pytest.raises(ModelLoadError, match="in another version or with other files"):
        fetch(url, folder)
    server.put("/n.bin", BODY)
    with pytest.raises(ModelLoadError, match="it is there already, fetched from http"):
        fetch(server.url("/n.bin"), folder)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelLoadError, match="was not fetched by this command; name another folder by -o"):
        fetch(url, tmp_path / "own")
    assert {path.name for path in tmp_path.iterdir()} == {"m", "own"}


def test_what_another_source_has_left_behind_is_no_part_of_this_one(
    server: Server, fetch: Fetch, tmp_path: Path
) -> None:
    server.put("/old.bin", BODY, cuts=[100_000, 0, 0])
    with pytest.raises(ModelLoadError, match="in a row"):
        fetch(server.url("/old.bin"), tmp_path / "m")
    server.put("/new.bin", BODY)
    fetch(server.url("/new.bin"), tmp_path / "m")
    assert in_folder(tmp_path / "m") == {"new.bin", "chatbridge-report.json"}


def test_a_folder_that_no_run_has_left_is_in_the_way_and_stays(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY)
    with (
        output_folder(tmp_path / "m", "a merge that is at work") as folder,
        pytest.raises(ModelLoadError, match=r"m\.partial: it is in the way"),
    ):
        fetch(server.url("/m.bin"), tmp_path / "m")
    assert folder.name == "m.partial"
    assert in_folder(tmp_path / "m") == set()


def test_two_runs_do_not_write_into_one_folder(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.put("/m.bin", BODY)
    lock = tmp_path / "m.partial.lock"
    with lock.open("w") as held:
        assert try_lock(held.fileno(), lock)
        with pytest.raises(ModelLoadError, match="another run is fetching into it just now"):
            fetch(server.url("/m.bin"), tmp_path / "m")
    assert fetch(server.url("/m.bin"), tmp_path / "m").made


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_what_came_before_a_full_disk_stays_to_be_gone_on_with(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    import resource

    server.put("/m.bin", BODY)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) - 10, limits[1]))
    try:
        with pytest.raises(ModelLoadError, match=r"m\.bin\.fetching: File too large"):
            fetch(server.url("/m.bin"), tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fetch(server.url("/m.bin"), tmp_path / "m").told == []
    assert server.ranges("/m.bin")[-1] != server.ranges("/m.bin")[0]
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY


def test_too_little_room_is_told_before_anything_is_fetched(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/m.bin", BODY)
    usage = shutil.disk_usage(tmp_path)._replace(free=50 << 20)
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelLoadError, match="that disk has 50 MiB free, and 0 MiB are still to be fetched; make room"):
        fetch(server.url("/m.bin"), tmp_path / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="make room"):
        fetch(server.url("/m.bin"), tmp_path / "empty")
    assert server.ranges("/m.bin") == []


def test_a_folder_has_a_name(server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("/m.bin", BODY)
    with pytest.raises(ModelLoadError, match="name a folder in there by -o"):
        fetch(server.url("/m.bin"), Path("/"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelLoadError, match="was not fetched by this command"):
        fetch(server.url("/m.bin"), Path())


# --- how sources are named -------------------------------------------------------------------------------------------


def test_sources_are_told_apart() -> None:
    assert parse_source("Qwen/Qwen3-4B-GGUF") == HubSource("Qwen/Qwen3-4B-GGUF")
    assert parse_source("a/b@v1.0:sub/c.gguf") == HubSource("a/b", "v1.0", "sub/c.gguf")
    assert parse_source("a/b", "main") == HubSource("a/b", "main")
    assert parse_source("https://huggingface.co/a/b") == HubSource("a/b")
    assert parse_source("https://huggingface.co/a/b/tree/main") == HubSource("a/b", "main")
    assert parse_source("https://huggingface.co/a/b/blob/main/c%20d.gguf") == HubSource("a/b", "main", "c d.gguf")
    url = "https://huggingface.co/a/b/resolve/main/c.gguf?download=true"
    assert parse_source(url) == UrlSource(url, "c.gguf")
    assert parse_source(f"http://example.org/#sha256={SHA}") == UrlSource("http://example.org/", "model", SHA)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("file:///etc/passwd", "only addresses with https://"),
        ("https:///m", "only addresses with https://"),
        ("http://example.org/m.gguf", "what comes by http:// may be anybody's"),
        ("https://me:pw1x@example.org/m.gguf", "names and passwords in an address are not sent"),
        ("https://example.org/m.gguf#md5=1", "behind # stands sha256="),
        ("https://example.org/..%2F..%2Fetc", "no file of such a name"),
        ("https://example.org:99999/m", "this is no address"),
        ("https://example.org/a b", "no blanks"),
        ("a/b/c", "is no source"),
        ("../up", "is no source"),
        ("", "is no source"),
    ],
)
def test_what_is_no_source_is_told(source: str, told: str) -> None:
    with pytest.raises(ModelLoadError, match=told) as error:
        parse_source(source)
    assert "pw1x" not in str(error.value)


def test_two_revisions_are_one_too_many() -> None:
    with pytest.raises(ModelLoadError, match="two revisions"):
        parse_source("a/b@v1", "v2")
    with pytest.raises(ModelLoadError, match="leave --revision out"):
        parse_source("https://example.org/m.gguf", "v2")


def test_addresses_are_shown_without_keys() -> None:
    assert without_secrets("https://me:pw@[::1]:8443/a?key=1#x") == "https://[::1]:8443/a"
    assert without_secrets("https://me:pw@host:port/a?key=1") == "host:port/a"
