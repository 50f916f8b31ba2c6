"""A server on loopback for what is fetched: files with ranges and tags, connections that break, and a hub's answers.

Speaks HTTP by Python's own server; knows nothing of who asks.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee00" * 5


@dataclass
class Served:
    """What lies at a path. `cuts`: after how many bytes each of the next connections breaks; `statuses`: with which
    status each of the next ones ends instead; `claims`: a length that is told in the place of the true one."""

    body: bytes
    tag: str = '"1"'
    kind: str = "application/octet-stream"
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    claims: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """What is told besides, or in the place of what would be."""
    sized: bool = True
    """Whether the length is told at all."""
    blind: bool = False
    """Whether parts are sent whatever `If-Range` says."""


@dataclass
class Asked:
    """One request: the path, and the headers by their names in small letters."""

    path: str
    headers: dict[str, str]


class Server:
    """The stand-in. `files` by path; `asked`: every request; `stalled` is set where a connection waits for `go_on`."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.stall_after: int | None = None
        self.address = ""

    def put(self, path: str, body: bytes, **more: object) -> Served:
        """Serve a file; returns it, to be changed."""
        self.files[path] = Served(body, **more)  # type: ignore[arg-type]
        return self.files[path]

    def url(self, path: str) -> str:
        return self.address + path

    def repository(
        self, name: str, files: dict[str, bytes], *, large: tuple[str, ...] = (), commit: str = COMMIT
    ) -> None:
        """Serve a repository as the hub does, at the branch `main`. `large`: names of files that are in LFS."""
        siblings: list[dict[str, object]] = []
        for file, body in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
            one: dict[str, object] = {"rfilename": file, "size": len(body), "blobId": blob}
            if file in large:
                one["lfs"] = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 134}
            siblings.append(one)
            self.put(f"/{name}/resolve/{commit}/{file}", body)
        told = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        for path in (
            f"/api/models/{name}",
            f"/api/models/{name}/revision/main",
            f"/api/models/{name}/revision/{commit}",
        ):
            self.put(path, json.dumps(told).encode(), kind="application/json")

    def ranges(self, path: str) -> list[str | None]:
        """What `Range` each request of a path had, but those that look at its size alone."""
        found = [one.headers.get("range") for one in self.asked if one.path == path]
        return [one for one in found if one != "bytes=0-0"]


@contextmanager
def serving() -> Iterator[Server]:
    """The stand-in at work."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            server.asked.append(Asked(path, {name.lower(): value for name, value in self.headers.items()}))
            served = server.files.get(path)
            if served is None:
                self.answer(404, {}, b"Entry not found")
                return
            look = self.headers.get("Range") == "bytes=0-0"
            if served.statuses:
                status, headers = served.statuses.pop(0)
                self.answer(status, headers, b"")
                return
            self.send_file(served, look)

        def send_file(self, served: Served, look: bool) -> None:
            start, end, size = 0, len(served.body) - 1, len(served.body)
            asked = self.headers.get("Range", "") if served.ranges else ""
            if_range = self.headers.get("If-Range")
            headers = {"Content-Type": served.kind, **({"ETag": served.tag} if served.tag else {})}
            if asked and (served.blind or if_range in (None, served.tag)):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or end), end)
                if start >= size:
                    self.answer(416, {"Content-Range": f"bytes */{size}"}, b"")
                    return
                headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            body = served.body[start : end + 1]
            headers |= {} if look else served.headers
            length: int | None = len(body) if served.claims is None or look else served.claims
            cut = served.cuts.pop(0) if served.cuts and not look else None
            self.answer(206 if "Content-Range" in headers else 200, headers, body, length if served.sized else -1, cut)

        def answer(
            self, status: int, headers: dict[str, str], body: bytes, length: int | None = None, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if length != -1:
                self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            stall = server.stall_after if len(body) > 1000 else None
            if stall is not None:
                self.wfile.write(body[:stall])
                self.wfile.flush()
                server.stalled.set()
                server.go_on.wait(60)
                body = body[stall:]
            self.wfile.write(body if cut is None else body[:cut])
            if cut is not None or length is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever is killed leaves a broken pipe behind."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            http.shutdown()
            thread.join()
