"""Fetches one file into a folder: goes on where an attempt ended, tries again, and checks what has come.

The bytes lie under a temporary name until they are all there and are the right ones. Knows servers by `http.py` alone,
and no hub.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.kinds import refuse_stand_ins
from chatbridge.model_tools.fetching.http import Answer, Client, Interrupted
from chatbridge.model_tools.fetching.patience import Patience
from chatbridge.model_tools.fetching.remote import RemoteFile, without_secrets
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.model_tools.report import Source

PART = ".fetching"
"""What the name of a file ends in while it is being fetched."""

MARGIN = 64 << 20
"""Bytes of a disk that stay free."""

_CHUNK = 4 << 20


@dataclass(slots=True)
class Attempt:
    """One file on its way into `folder`."""

    file: RemoteFile
    folder: Path
    patience: Patience = field(default_factory=Patience)
    progress: WorkProgress = field(default_factory=Silent)

    @property
    def part(self) -> Path:
        """Where the bytes are until all have come."""
        return self.folder / f"{self.file.name}{PART}"

    @property
    def path(self) -> Path:
        """Where the whole file will be."""
        return self.folder / self.file.name


def download(client: Client, attempt: Attempt) -> Source:
    """Fetch the file, or what is missing of it, and check it. Returns its size and hash.

    Raises ModelLoadError where it can't be had, or is another than it should be; what came stays for the next attempt,
    unless it is wrong.
    """
    if not attempt.path.exists():
        attempt.part.parent.mkdir(parents=True, exist_ok=True)
        _fetch(client, attempt)
        found = _check(attempt, attempt.part)
        attempt.part.replace(attempt.path)
        return found
    try:
        return _check(attempt, attempt.path)
    except ModelLoadError as error:  # damaged since, or wanted in another version by now
        attempt.patience.tell(f"{error}: it is fetched anew")
        attempt.path.unlink(missing_ok=True)
        return download(client, attempt)


def _fetch(client: Client, attempt: Attempt) -> None:
    """All bytes into `part`, by as many connections as it takes."""
    file, failures = attempt.file, 0
    while True:
        begun = _size(attempt.part)
        if file.size is not None and begun >= file.size and attempt.part.exists():
            return  # also where it is too much: the check will say so
        try:
            with client.get(file.url, begun, file.version) as answer:
                if _take(answer, attempt, begun):
                    return
            raise Interrupted("the connection ended before the file did")
        except Interrupted as error:
            failures = 1 if _size(attempt.part) > begun else failures + 1
            attempt.patience.bear(f"{file.name}: {error}", failures, error.seconds)


def _take(answer: Answer, attempt: Attempt, begun: int) -> bool:
    """Write what comes. Returns whether that is all; raises ModelLoadError where it is too much."""
    file = attempt.file
    if answer.total == 0 and file.size != 0:
        raise ModelLoadError(f"{without_secrets(file.url)}: the file is empty there")
    if file.size is not None and answer.total not in (None, file.size):
        raise ModelLoadError(
            f"{file.name}: the server has {answer.total:,} bytes of it, and {file.size:,} were told of; try again later"
        )
    if begun and not answer.start:
        attempt.patience.tell(
            f"{file.name}: the server has another version by now, or sends no parts; it is fetched anew"
        )
        attempt.progress.advance(-begun)
    total = file.size if answer.total is None else answer.total
    done = answer.start
    try:
        with attempt.part.open("r+b" if attempt.part.exists() else "w+b") as part:  # unbuffered may write less
            part.seek(done)
            part.truncate()
            for chunk in answer.chunks():
                done += len(chunk)
                if total is not None and done > total:
                    raise ModelLoadError(f"{file.name}: more bytes come than the {total:,} that it should have")
                part.write(chunk)
                if total is None and shutil.disk_usage(attempt.folder).free < MARGIN:
                    raise ModelLoadError(
                        f"{file.name}: the server does not say how large it is, and after {done:,} bytes the disk is "
                        f"nearly full; make room, or name a folder elsewhere by -o"
                    )
                attempt.progress.advance(len(chunk))
            part.flush()
            os.fsync(part.fileno())
    except OSError as error:
        told = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            told = f"the disk is full ({told}); make room, and the same command goes on"
        raise ModelLoadError(f"{attempt.part}: {told}") from error
    return total is None or done == total


def _check(attempt: Attempt, path: Path) -> Source:
    """Hold the bytes against all that is known of them. Raises ModelLoadError, and forgets what is wrong."""
    file, size = attempt.file, _size(path)
    try:
        if file.size is not None and size != file.size:
            raise ModelLoadError(f"{file.name}: it has {size:,} bytes and should have {file.size:,}")
        sha256, git_sha1 = _hashes(path, size)
        for told, found in ((file.sha256, sha256), (file.git_sha1, git_sha1)):
            if told and told != found:
                raise ModelLoadError(
                    f"{file.name}: its checksum is {found} and should be {told}, so it was thrown away; fetch it "
                    f"again, or from elsewhere"
                )
        if not file.sha256 and not file.git_sha1:
            _refuse_stand_ins(file, path)
    except ModelLoadError:
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise ModelLoadError(f"{path}: the file can't be read: {error.strerror or error}") from error
    return Source(file.name, size, sha256)


def _refuse_stand_ins(file: RemoteFile, path: Path) -> None:
    try:
        refuse_stand_ins(path)
    except ModelLoadError as error:
        what = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise ModelLoadError(
            f"{without_secrets(file.url)}: what comes from there was thrown away: {what}; look at the address again"
        ) from None


def _hashes(path: Path, size: int) -> tuple[str, str]:
    """SHA-256, and git's name of the contents as a blob."""
    plain, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            plain.update(chunk)
            blob.update(chunk)
    return plain.hexdigest(), blob.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
