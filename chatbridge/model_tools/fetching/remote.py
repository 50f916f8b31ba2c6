"""What is to be fetched, in values: how people name a source, and the files that it has.

Reads addresses and names; opens no connection and writes no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from chatbridge.errors import ModelLoadError

HUB = "huggingface.co"

OWN = "chatbridge-*.json"
"""What this program writes into the folder of a model."""

MAX_NAME = 240
"""Bytes of a name: disks take 255, and while a file is fetched its name is longer."""

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]*\w)(?:@([\w./-]+))?(?::(.+))?")
_PAGE = re.compile(r"/([^/]+/[^/]+)(?:/(tree|blob)/([^/]+)(?:/(.*))?)?/?")
_SHA256 = re.compile(r"(?:sha256[=:])([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on the hub. `revision`: a branch, tag or commit; "" for the newest. `file`: the one that is wanted;
    "" for all that fit."""

    repository: str
    revision: str = ""
    file: str = ""

    @property
    def folder(self) -> str:
        """What a folder for it is called."""
        stem = f"--{PurePosixPath(self.file).stem}" if self.file else ""
        return self.repository.replace("/", "--") + stem

    def __str__(self) -> str:
        return f"{self.repository}{f':{self.file}' if self.file else ''}"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """One file at an address. `sha256`: what it has to have, in small hexadecimal digits; "" where nobody said."""

    url: str
    name: str
    sha256: str = ""

    @property
    def folder(self) -> str:
        """What a folder for it is called."""
        return PurePosixPath(self.name).stem or "model"

    def __str__(self) -> str:
        return without_secrets(self.url)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to be fetched. `name`: where it goes in the folder, with `/`. `size` in bytes, None where nobody knows.

    `sha256`: what the hub or a person says of its contents; `git_sha1`: git's hash of a blob, which the hub has of
    small files. `version`: the server's tag of it, "" where the contents are known by a checksum.
    """

    name: str
    url: str = field(repr=False)
    size: int | None = None
    sha256: str = ""
    git_sha1: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Remote:
    """All that is to be fetched from a source. `revision`: the commit; `left_out`: files that are not wanted.

    `token`: for the host of `endpoint` alone, and for no file and no report.
    """

    source: str
    files: tuple[RemoteFile, ...]
    revision: str = ""
    left_out: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    endpoint: str = ""


def parse_source(source: str, revision: str = "") -> HubSource | UrlSource:
    """What somebody means by a source: `owner/name`, `owner/name@revision`, `owner/name:file`, or an address.

    Raises ModelLoadError for what is none of these.
    """
    if "://" in source:
        return _parse_url(source, revision)
    found = _REPOSITORY.fullmatch(source)
    if found is None:
        raise ModelLoadError(
            f"{source!r} is no source: give a name of `chatbridge model list`, owner/name on Hugging Face, or an "
            f"address that begins with https://"
        )
    if revision and found[2] and found[2] != revision:
        raise ModelLoadError(f"{source}: two revisions are given, {found[2]!r} and {revision!r}; keep one")
    return HubSource(found[1], revision or found[2] or "", found[3] or "")


def _parse_url(url: str, revision: str) -> HubSource | UrlSource:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ModelLoadError(f"{without_secrets(url)}: this is no address ({error})") from error
    shown = without_secrets(url)
    if parts.scheme not in ("https", "http") or not host:
        raise ModelLoadError(f"{shown}: only addresses with https:// are fetched")
    if "@" in parts.netloc:
        raise ModelLoadError(
            f"{parts.scheme}://…@{host}: names and passwords in an address are not sent; leave them out"
        )
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ModelLoadError(f"{shown!r}: an address has no blanks; write %20 for one")
    page = _PAGE.fullmatch(parts.path) if host == HUB else None
    if page is not None:
        file = unquote(page[4] or "") if page[2] == "blob" else ""
        return HubSource(unquote(page[1]), revision or unquote(page[3] or ""), file)
    if revision:
        raise ModelLoadError(f"{shown}: an address has no revision; leave --revision out")
    sha256 = _SHA256.fullmatch(parts.fragment)
    if parts.fragment and sha256 is None:
        raise ModelLoadError(f"{shown}: behind # stands sha256= and 64 hexadecimal digits, or nothing")
    if parts.scheme == "http" and sha256 is None and not _is_here(host):
        raise ModelLoadError(f"{shown}: what comes by http:// may be anybody's; give https://, or put #sha256=… behind")
    name = safe_name(unquote(PurePosixPath(parts.path).name) or "model")
    return UrlSource(urlunsplit(parts._replace(fragment="")), name, sha256[1].lower() if sha256 else "")


def safe_name(name: str) -> str:
    """The name of a file in a folder, as a server gives it. Raises ModelLoadError for one that leads elsewhere."""
    parts = name.split("/")
    wrong = any(part in ("", ".", "..") or part != part.strip() for part in parts)
    if wrong or re.search(r'[\\:*?"<>|\x00-\x1f\x7f]', name) or len(name) > 300 or not name.isprintable():
        raise ModelLoadError(f"{name[:100]!r}: no file of such a name is written here; fetch it by other means")
    if any(len(part.encode()) > MAX_NAME for part in parts):
        raise ModelLoadError(f"{name[:100]!r}…: the name is too long for a disk; fetch it by other means")
    if fnmatchcase(name.lower(), OWN):
        raise ModelLoadError(
            f"{name!r}: so this program calls files of its own beside a model; fetch it by other means"
        )
    return name


def without_secrets(url: str) -> str:
    """The address without a password, and without what stands behind `?` and `#`, which may be a key to it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2][:200]
    return urlunsplit(SplitResult(parts.scheme, netloc, parts.path, "", ""))


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
