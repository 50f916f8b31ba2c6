"""Fetches a model into a folder of its own, whole or not at all; a run that was killed is gone on with.

Until all is there it lies under `FOLDER.partial`. Knows what is wanted by `remote.py`; one file comes by `download.py`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.fetching.download import MARGIN, PART, Attempt, download
from chatbridge.model_tools.fetching.http import TIMEOUT, Client, Interrupted
from chatbridge.model_tools.fetching.patience import Patience
from chatbridge.model_tools.fetching.remote import HubSource, Remote, RemoteFile, UrlSource
from chatbridge.model_tools.output import partial_name
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.model_tools.report import Report, Source, hashed
from chatbridge.operations.file_locks import try_lock
from chatbridge.operations.hardware import size as in_words

_MEMORY = "chatbridge-pull.json"
"""In the folder of what is not whole yet: which file is of which version."""


@dataclass(frozen=True, slots=True)
class Pull:
    """A source that was looked at, and the folder that it goes into. `there`: bytes that earlier runs have fetched.

    `size` in bytes, None where the server does not say; `free`: bytes that the disk has.
    """

    remote: Remote
    folder: Path
    size: int | None
    there: int
    free: int
    timeout: float = TIMEOUT
    patience: Patience = field(default_factory=Patience)


def look(
    source: HubSource | UrlSource,
    folder: Path,
    include: Sequence[str] = (),
    *,
    sha256: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    timeout: float = TIMEOUT,
    patience: Patience | None = None,
) -> Pull:
    """What would be fetched. `include`: patterns of names in a repository; `sha256`: of files, where they are known.

    Raises ModelLoadError where there is nothing to fetch, or no room for it.
    """
    patience = patience or Patience()
    if isinstance(source, UrlSource):
        if include:
            raise ModelLoadError(f"{source}: an address is one file; leave --include out")
        remote = _look_at_url(source, timeout, patience)
    else:
        from chatbridge.model_tools.fetching.hub import list_hub

        remote = list_hub(source, include, endpoint, patience)
    if sha256:
        remote = replace(remote, files=tuple(_with_sha256(file, sha256) for file in remote.files))
    sizes = [file.size for file in remote.files]
    size = None if None in sizes else sum(one for one in sizes if one is not None)
    folder = folder if folder.name else folder.absolute()
    if not folder.name:
        raise ModelLoadError(f"{folder}: name a folder in there by -o")
    stage = partial_name(folder)
    there = sum(_there(stage, file) for file in remote.files)
    free = _free(folder)
    if read_report(folder)[0] is None and (needed := (size or 0) - there) + MARGIN > free:
        raise ModelLoadError(
            f"{folder}: that disk has {in_words(free)} free, and {in_words(max(0, needed))} are still to be fetched; "
            f"make room, or name a folder elsewhere by -o"
        )
    return Pull(remote, folder, size, there, free, timeout, patience)


def pull(work: Pull, report: Report, progress: WorkProgress | None = None) -> bool:
    """Fetch it. Returns False where it was there already, whole. The report is written into the folder.

    Raises ModelLoadError; what came stays for the next run.
    """
    progress = progress or Silent()
    folder, stage = work.folder, partial_name(work.folder)
    try:
        stage.parent.mkdir(parents=True, exist_ok=True)
        with _alone(stage):
            if _is_there(work, progress):
                return False
            _refuse_others(stage)
            stage.mkdir(exist_ok=True)
            try:
                _forget_changed(work, stage)
                _fetch_all(work, stage, report, progress)
                report.write(stage, ("huggingface_hub",))
                (stage / _MEMORY).unlink()
                with suppress(FileNotFoundError):
                    folder.rmdir()  # an empty one
                stage.rename(folder)
            except BaseException:
                _delete_empty(stage)
                raise
    except OSError as error:
        raise ModelLoadError(f"{error.filename or folder}: {error.strerror or error}") from error
    return True


def _look_at_url(source: UrlSource, timeout: float, patience: Patience) -> Remote:
    """One byte is asked for, since not every server answers HEAD."""
    failures = 0
    while True:
        try:
            with Client(timeout=timeout).get(source.url, end=0) as answer:
                file = RemoteFile(source.name, source.url, answer.total, source.sha256, version=answer.version)
                return Remote(str(source), (file,))
        except Interrupted as error:
            failures += 1
            patience.bear(f"{source}: {error}", failures, error.seconds)


def _with_sha256(file: RemoteFile, known: Mapping[str, str]) -> RemoteFile:
    told = known.get(file.name, "")
    if told and file.sha256 and told != file.sha256:
        raise ModelLoadError(
            f"{file.name}: the hub has another file by now than the catalogue knows: its checksum is {file.sha256} and "
            f"should be {told}"
        )
    return replace(file, sha256=told or file.sha256)


def _fetch_all(work: Pull, stage: Path, report: Report, progress: WorkProgress) -> None:
    remote = work.remote
    client = Client(remote.token, remote.endpoint, work.timeout)
    progress.begin("fetching", work.size or 0)
    if there := sum(_there(stage, file) for file in remote.files):
        progress.advance(there)
    for file in remote.files:
        report.sources.append(download(client, Attempt(file, stage, work.patience, progress)))
    facts: dict[str, Any] = {"source": remote.source, "files": len(remote.files)}
    if remote.revision:
        facts["revision"] = remote.revision
    if remote.left_out:
        facts["left_out"] = list(remote.left_out)
    if there:
        facts["bytes_from_earlier_runs"] = there
    report.step("fetched", **facts)


def _refuse_others(stage: Path) -> None:
    """Raise ModelLoadError for what no run of ours has left: a folder of somebody's, or of a conversion at work."""
    ours = any((stage / name).exists() for name in (_MEMORY, f"{_MEMORY}{PART}")) or read_report(stage)[0] is not None
    empty = not stage.exists() or (stage.is_dir() and not any(stage.iterdir()))
    if stage.is_symlink() or not (ours or empty):
        raise ModelLoadError(
            f"{stage}: it is in the way, and no run that fetches has left it; move it, or name another folder by -o"
        )


def _forget_changed(work: Pull, stage: Path) -> None:
    """Throw away what earlier runs have fetched of files that are others by now, or that may be."""
    try:
        known = json.loads((stage / _MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    now = {file.name: [file.size, file.sha256, file.git_sha1, file.version] for file in work.remote.files}
    for file in work.remote.files:
        traces = [path for path in (stage / file.name, stage / f"{file.name}{PART}") if path.exists()]
        unsure = not (file.sha256 or file.git_sha1 or file.version)
        if traces and (unsure or known.get(file.name) != now[file.name]):
            why = "the server does not say which version it has" if unsure else "it has changed since the last run"
            work.patience.tell(f"{file.name}: {why}; it is fetched anew")
            for path in traces:
                path.unlink()
    for path in sorted(stage.rglob("*")):  # of another source, or of other patterns
        name = path.relative_to(stage).as_posix()
        if path.is_file() and name != _MEMORY and name.removesuffix(PART) not in now:
            path.unlink()
    memory = stage / f"{_MEMORY}{PART}"
    memory.write_text(json.dumps(now, indent=1), encoding="utf-8")
    memory.replace(stage / _MEMORY)


def _delete_empty(stage: Path) -> None:
    """Where nothing has come, nothing stays."""
    with suppress(OSError):
        files = [path for path in stage.rglob("*") if path.is_file() and path.relative_to(stage).parts != (_MEMORY,)]
        if not any(path.stat().st_size for path in files):
            shutil.rmtree(stage)


def _is_there(work: Pull, progress: WorkProgress) -> bool:
    """Whether the folder has it already, to the byte. Raises ModelLoadError where it has something else."""
    folder, remote = work.folder, work.remote
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    instead = "name another folder by -o, or delete it"
    step, sources = read_report(folder)
    if step is None:
        raise ModelLoadError(f"{folder}: it is there already, and was not fetched by this command; {instead}")
    if step.get("source") != remote.source:
        raise ModelLoadError(f"{folder}: it is there already, fetched from {step.get('source')}; {instead}")
    wanted = {file.name: file for file in remote.files}
    same = step.get("revision", "") == remote.revision and {one.path for one in sources} == wanted.keys()
    if not same or any(wanted[one.path].size not in (None, one.size) for one in sources):
        raise ModelLoadError(f"{folder}: it is there already, in another version or with other files; {instead}")
    for source, found in zip(sources, hashed([folder / one.path for one in sources], progress), strict=True):
        told = wanted[source.path].sha256 or source.sha256
        if found.sha256 != told:
            raise ModelLoadError(
                f"{folder / source.path}: it is damaged, or has changed there; delete {folder} and fetch anew"
            )
    return True


def read_report(folder: Path) -> tuple[dict[str, Any] | None, list[Source]]:
    """What the report in a folder says of a fetch: its step, and the files; None and nothing where it says none."""
    try:
        told = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        step = next(one for one in told["steps"] if one["step"] == "fetched")
        return step, [Source(str(one["path"]), int(one["size"]), str(one["sha256"])) for one in told["sources"]]
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None, []


def fetched_folders(models: Path) -> list[Path]:
    """The folders of models that were fetched, by name."""
    try:
        return sorted(folder for folder in models.iterdir() if read_report(folder)[0] is not None)
    except OSError:
        return []


def _there(stage: Path, file: RemoteFile) -> int:
    for path in (stage / file.name, stage / f"{file.name}{PART}"):
        with suppress(OSError):
            return path.stat().st_size
    return 0


def _free(folder: Path) -> int:
    """Bytes that the disk has of the nearest folder that is there."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise ModelLoadError(f"{there}: it can't be told how much room is there: {error.strerror or error}") from error


@contextmanager
def _alone(stage: Path) -> Iterator[None]:
    """Keep a second run out of the same folder. Raises ModelLoadError for the second."""
    lock = stage.with_name(f"{stage.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not try_lock(descriptor, lock):
            raise ModelLoadError(f"{stage}: another run is fetching into it just now; wait for that one")
        if not lock.exists() or not os.path.samestat(os.fstat(descriptor), lock.stat()):
            raise ModelLoadError(f"{stage}: another run has just ended; run the command again")
        try:
            yield
        finally:
            with suppress(OSError):  # on Windows not while it is open
                lock.unlink()
    finally:
        os.close(descriptor)
