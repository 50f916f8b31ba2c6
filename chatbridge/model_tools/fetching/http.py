"""Asks servers for files, from any byte on: what they answer is checked before a byte of it is taken.

Python's own client does it, so that a plain address needs no package. Opens http and https alone; follows redirects to
https, and gives a token to the host that it is for, and to no other. Writes no file.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from chatbridge import __version__
from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.fetching.remote import without_secrets

TIMEOUT = 30.0
"""Seconds that a server may stay silent, unless somebody says otherwise."""

_CHUNK = 1 << 20
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that another attempt may change."""


class Interrupted(Exception):
    """The connection failed in a way that may pass. `seconds`: how long the server asks to wait, if it does."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sends. `start`: the byte that it begins with; `total`: how many the file has, None where it does
    not say; `version`: a tag that changes with the file, "" where it has none."""

    body: http.client.HTTPResponse
    start: int
    total: int | None
    version: str

    def chunks(self) -> Iterator[bytes]:
        """The bytes, up to a mebibyte at a time. Raises Interrupted where they stop coming."""
        while True:
            try:
                chunk = self.body.read1(_CHUNK)  # what is there: what a whole chunk waits for may never come
            except (OSError, http.client.HTTPException) as error:
                raise Interrupted(f"the connection broke ({error or type(error).__name__})") from error
            if not chunk:
                return
            yield chunk


class Client:
    """Asks for files. `token`: what is told to the host of `endpoint`, such as `https://huggingface.co`, and to no
    other. `timeout`: seconds that a server may stay silent."""

    def __init__(self, token: str = "", endpoint: str = "", timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._credentials = _Credentials(token, _origin(endpoint) if endpoint else None)
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self._credentials),
        ):
            self._opener.add_handler(handler)

    @contextmanager
    def get(self, url: str, start: int = 0, version: str = "", end: int | None = None) -> Iterator[Answer]:
        """The file from byte `start` on, if it is still of that `version`; else all of it, as `Answer.start` tells.

        `end`: the last byte that is wanted. Raises Interrupted, and ModelLoadError for what will be no better later.
        """
        response = self._open(url, start, version, end)
        if response is None or (start and version and _version(response) not in ("", version)):
            if response is not None:  # it is of another version, and the server has not looked
                response.close()
            start, response = 0, self._open(url)
        if response is None:
            raise ModelLoadError(f"{without_secrets(url)}: the server has no bytes of it (416)")
        with response:
            yield _checked(url, response, start)

    def _open(
        self, url: str, start: int = 0, version: str = "", end: int | None = None
    ) -> http.client.HTTPResponse | None:
        """What the server says; None where the file has no such part."""
        request = urllib.request.Request(url)  # noqa: S310 (other schemes have no handler here)
        request.add_header("User-Agent", f"chatbridge/{__version__}")
        request.add_header("Accept-Encoding", "identity")  # else what comes has another length and other bytes
        if start or end is not None:
            request.add_header("Range", f"bytes={start}-{'' if end is None else end}")
        if start and version and not version.startswith("W/"):
            request.add_header("If-Range", version)
        self._credentials.give(request)
        try:
            response = self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with closing(error):  # a redirect that leads nowhere has closed what it came with
                if error.code == 416 and request.has_header("Range"):
                    return None
                raise _refusal(url, error, bool(self._credentials.token)) from error
        except urllib.error.URLError as error:
            raise _unreachable(url, error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, http.client.InvalidURL):
                raise _astray(url, error) from error
            raise Interrupted(f"{_host(url)} does not answer ({str(error)[:200] or type(error).__name__})") from error
        except (ValueError, OverflowError) as error:  # of names of hosts that are none, of ports above 65535
            raise _astray(url, error) from error
        assert isinstance(response, http.client.HTTPResponse)
        return response


def _checked(url: str, response: http.client.HTTPResponse, start: int) -> Answer:
    """What the headers tell. Raises ModelLoadError where what follows is not the file."""
    headers = response.headers
    kind, encoding = headers.get_content_type(), headers.get("Content-Encoding", "identity")
    if kind in ("text/html", "application/xhtml+xml") and not urlsplit(url).path.endswith((".html", ".htm")):
        raise ModelLoadError(
            f"{without_secrets(url)}: a web page comes from there and not the file; give the address that the page's "
            f"download button has"
        )
    if encoding != "identity":
        raise ModelLoadError(f"{without_secrets(url)}: the server sends it packed ({encoding[:20]}), unasked")
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)", headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise Interrupted(f"{_host(url)} sends another part than was asked for")
        return Answer(response, start, None if found[2] == "*" else int(found[2]), _version(response))
    if response.status != 200:
        raise ModelLoadError(f"{without_secrets(url)}: the server answers with {response.status}, and with no file")
    length = headers.get("Content-Length", "")
    return Answer(response, 0, int(length) if re.fullmatch(r"\d{1,19}", length) else None, _version(response))


def _version(response: http.client.HTTPResponse) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _refusal(url: str, error: urllib.error.HTTPError, known: bool) -> Exception:
    """What a status means, and what to do. `known`: whether a token was given."""
    where, status = without_secrets(url), error.code
    if status in PASSING:
        return Interrupted(
            f"{_host(url)} answers {status} ({error.reason})", retry_after(error.headers.get("Retry-After"))
        )
    if status in (401, 403):
        hub = "it is not for everybody; of Hugging Face, fetch it as owner/name:FILE with HF_TOKEN set"
        return ModelLoadError(f"{where}: refused ({status}): {'that token may not have it' if known else hub}")
    if status in (404, 410):
        return ModelLoadError(f"{where}: there is no such file ({status}); look at the address again")
    if status in (301, 302, 303, 307, 308):
        return ModelLoadError(f"{where}: the server leads in circles, or nowhere ({status}); look at the address again")
    return ModelLoadError(f"{where}: the server answers {status} ({error.reason})")


def _astray(url: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{without_secrets(url)}: it is no address, or leads to what is none ({str(error)[:200]}); look at it again"
    )


def _unreachable(url: str, reason: object) -> Exception:
    if isinstance(reason, ModelLoadError):
        return reason
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ModelLoadError(f"{_host(url)}: it can't prove who it is ({reason.verify_message}); nothing was fetched")
    if isinstance(reason, socket.gaierror):
        return ModelLoadError(
            f"{_host(url)}: this name leads nowhere; look at the address, and whether this machine is online"
        )
    return Interrupted(f"{_host(url)} can't be reached ({getattr(reason, 'strerror', None) or reason})")


def retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


class _Credentials:
    """Puts a token into requests to one origin."""

    def __init__(self, token: str, origin: tuple[str, str, int | None] | None) -> None:
        self.token = token if origin is not None else ""
        self._origin = origin

    def give(self, request: urllib.request.Request) -> None:
        if self.token and _origin(request.full_url) == self._origin:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes on to https, and to http only from there; each place is given the token or not by what it is."""

    def __init__(self, credentials: _Credentials) -> None:
        self._credentials = credentials

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        allowed = ("https",) if urlsplit(req.full_url).scheme == "https" else ("https", "http")
        if urlsplit(newurl).scheme not in allowed:
            raise ModelLoadError(
                f"{without_secrets(req.full_url)}: the server leads on to {without_secrets(newurl)}, which is not https"
            )
        fp.close()  # else all that it says is read, however much that is
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            self._credentials.give(request)
        return request


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the server"
