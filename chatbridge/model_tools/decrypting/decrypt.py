"""Decrypts weights that BELLE publishes as XOR with a file of the original LLaMA, and believes their hashes alone.

A file NAME.HASH.enc is the SHA-256 of what comes out, 32 bytes, and then that, XOR the key (BELLE, models/decrypt.py).
What can be told of key and files is told before anything is written. Knows no format of weights but by first bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.kinds import encrypted_name, kind_of
from chatbridge.model_files.reading import files_in
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.decrypting.llama_keys import (
    ORIGINALS,
    Original,
    check_key,
    identify,
    keys_at,
    short,
    unlike,
)
from chatbridge.model_tools.output import alone_with, check_output, check_space, output_folder, partial_name
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.model_tools.report import Report, Source

CHUNK = 10 << 20
"""Bytes that the original takes at a time. Part of the format: after the key's last chunk, a short one that is repeated
within its own, the key begins anew."""

_HASH = 32
_TORCH = (b"PK\3\4", b"\x80\2")
_ZIP_TAIL = (1 << 16) + 22
_BESIDE = (".json", ".model", ".jinja", ".txt", ".md")
_MAX_BESIDE = 64 << 20


@dataclass(frozen=True, slots=True)
class Encrypted:
    """One file of BELLE's. `name`: of what comes out; `sha256`: its hash as published; `size`: its bytes."""

    path: Path
    name: str
    sha256: str
    size: int


@dataclass(slots=True)
class _Work:
    """`about`: what the key's header tells; `original`: which one it is."""

    key: Path
    originals: Sequence[Original]
    progress: WorkProgress
    report: Report
    about: str = ""
    known: Source = field(default_factory=lambda: Source("", 0, ""))
    original: Original | None = None

    def unlike(self, why: str) -> ModelLoadError:
        return unlike(self.known, self.originals, self.about, why)


def decrypt(
    source: Path,
    key: Path,
    output: Path,
    progress: WorkProgress | None = None,
    report: Report | None = None,
    originals: Sequence[Original] = ORIGINALS,
) -> None:
    """Decrypt a file into a file, or a folder of such files into a folder, with all that lies beside them.

    `key`: the file, or the folder of the original LLaMA; `originals`: those that may be it. It is finished under a
    temporary name and goes on where a run that was killed has ended. Raises ModelLoadError: for another key it names
    the hash that was expected and the one that the key has.
    """
    report = report or Report(f"model decrypt {source} {key} -o {output}")
    check_output(output)
    if _is_encrypted(key) and not _is_encrypted(source):
        raise ModelLoadError(
            f"{source}: this is no file of BELLE's, but {key} is: give that first, and the key after it"
        )
    files = encrypted_files(source)
    work = _Work(_fitting(keys_at(key), files), originals, progress or Silent(), report)
    _take_key(work, files)
    check_space(output, sum(file.size for file in files))
    work.progress.begin("decrypting", sum(file.size for file in files))
    if source.is_dir():
        with output_folder(output, f"decrypt {work.known.sha256} {[file.path.name for file in files]}") as partial:
            _folder(work, source, files, partial)
            report.write(partial)
        return
    with alone_with(output) as partial:
        _finish(work, files[0], partial, output)
        report.write(output)


def encrypted_files(source: Path) -> list[Encrypted]:
    """The encrypted file at a path, or those in a folder, by name. Raises ModelLoadError where one can't be one."""
    if not source.is_dir():
        return [_encrypted(source)]
    found = [_encrypted(file) for file in files_in(source) if file.name.endswith(".enc")]
    if not found:
        raise ModelLoadError(f"{source}: there are no files NAME.HASH.enc here; give the folder that BELLE published")
    names = [file.name.lower() for file in found]
    for file in found:
        if names.count(file.name.lower()) > 1:
            raise ModelLoadError(f"{source}: {file.name} is here more than once, with two hashes; delete the older one")
    return found


def _is_encrypted(path: Path) -> bool:
    names = files_in(path) if path.is_dir() else [path]
    return any(encrypted_name(file) is not None for file in names)


def _encrypted(path: Path) -> Encrypted:
    name, kind = encrypted_name(path), kind_of(path)
    if name is None:
        raise ModelLoadError(
            f"{path}: files that BELLE encrypts are called NAME.HASH.enc, with a hash of 64 digits; give it the name "
            f"that it was published with"
        )
    if kind != "xor":
        raise ModelLoadError(f"{path}: it does not begin with the hash that its name says; download it again")
    if name in (".", "..") or name.endswith(".partial") or name == REPORT:
        raise ModelLoadError(f"{path}: {name!r} is no name for a file of a model")
    if (nbytes := path.stat().st_size - _HASH) < 1:
        raise ModelLoadError(f"{path}: there is nothing behind its hash: only a part was downloaded; download it again")
    return Encrypted(path, name, path.name[-68:-4], nbytes)


# --- before anything is written --------------------------------------------------------------------------------------


def _fitting(keys: Sequence[Path], files: Sequence[Encrypted]) -> Path:
    """The only key or, of several, the first with which the files begin as they should."""
    for key in keys if len(keys) > 1 else ():
        if kind_of(key) and not any(_wrong(key, file) for file in files):
            return key
    return keys[0]


def _take_key(work: _Work, files: Sequence[Encrypted]) -> None:
    """Look the key over, and try it: small files whole, of large ones what stands at their ends."""
    work.about = check_key(work.key)
    wrong = [(file, why) for file in files if (why := _wrong(work.key, file))]
    work.known, work.original = identify(work.key, work.originals, work.progress)
    bad = [file for file, _ in wrong]
    proven = max((file.size for file in files if file not in bad and file.size <= CHUNK), default=0)
    for file, why in wrong if len(wrong) < len(files) or len(files) == 1 else ():
        if work.original is not None or file.size <= proven:
            shown = work.original or "right, as another file shows"
            raise ModelLoadError(
                f"{file.path}: the key is {shown}, and what comes out {why}: only a part of the file was downloaded, "
                f"or it was changed{', or another key is wanted' if work.original else ''}; download it again"
            )
    if wrong:
        raise work.unlike(f"{bad[0].name}, decrypted with it, {wrong[0][1]}")
    if work.original is None and work.about in [f"by its tensors it is a LLaMA {one.model}" for one in work.originals]:
        raise work.unlike("it is none of the files that Meta published, but damaged or saved anew")
    work.report.sources.append(work.known)
    work.report.step("key", key=str(work.key), **({"is": str(work.original)} if work.original else {}))


def _wrong(key: Path, file: Encrypted) -> str:
    """What shows that a file does not come out right, after "decrypted with it"; "" where nothing does."""
    begin = _chunk(key, file, 0)
    if file.size <= CHUNK:
        found = hashlib.sha256(begin).hexdigest()
        return "" if found == file.sha256 else f"has the sha256 {short(found)} and should have {short(file.sha256)}"
    if file.name.endswith((".bin", ".pth", ".pt")) and not begin.startswith(_TORCH):
        return f"does not begin as torch's files do ({begin[:4].hex(' ')})"
    if begin.startswith(_TORCH[0]) and b"PK\5\6" not in _tail(key, file):
        return "has no table of contents at its end"
    return ""


def _tail(key: Path, file: Encrypted) -> bytes:
    """The last bytes of a file, of two chunks where one is short."""
    last = (file.size - 1) // CHUNK
    return b"".join(_chunk(key, file, at) for at in range(max(0, last - 1), last + 1))[-_ZIP_TAIL:]


# --- the work --------------------------------------------------------------------------------------------------------


def _folder(work: _Work, source: Path, files: Sequence[Encrypted], output: Path) -> None:
    for file in sorted(files, key=lambda file: file.size):
        _finish(work, file, partial_name(output / file.name), output / file.name)
    beside = [path for path in _beside(source) if not any(file.name == path.name for file in files)]
    for path in beside:
        shutil.copyfile(path, output / path.name)
    work.report.step("copied", files=[path.name for path in beside])


def _beside(source: Path) -> Iterator[Path]:
    """What is published as it is: a tokenizer, settings, a licence."""
    for file in files_in(source):
        named = file.suffix in _BESIDE or file.stem.upper().startswith("LICENSE")
        if named and file.name != REPORT and file.is_file() and file.stat().st_size <= _MAX_BESIDE:
            yield file


def _finish(work: _Work, file: Encrypted, partial: Path, output: Path) -> None:
    """Decrypt one file into `partial` and, once its hash is right, give it its name."""
    if output.exists():  # of a run that was killed: hashed anew, since that is quick
        output.replace(partial)
    resumed = partial.stat().st_size // CHUNK * CHUNK if partial.is_file() else 0
    if partial.is_file() and partial.stat().st_size == file.size:
        resumed = file.size
    found, source = _decrypted(work, file, partial, resumed)
    if found != file.sha256 and resumed:  # with another key, or never written by a machine that lost its power
        work.report.step("began anew", file=file.name)
        resumed = 0
        found, source = _decrypted(work, file, partial, 0)
    if found != file.sha256:
        partial.unlink()
        why = f"has the sha256 {short(found)} and should have {short(file.sha256)}"
        if work.original is None:
            raise work.unlike(f"{file.name}, decrypted with it, {why}")
        raise ModelLoadError(
            f"{file.path}: decrypted with {work.original}, it {why}: only a part of it was downloaded, or it was "
            f"changed, or another key is wanted; download it again"
        )
    partial.replace(output)
    work.report.sources.append(Source(str(file.path), file.size + _HASH, source))
    work.report.step("decrypted", file=file.name, bytes=file.size, sha256=found, resumed_at=resumed)


def _decrypted(work: _Work, file: Encrypted, partial: Path, start: int) -> tuple[str, str]:
    """The hash of what came out, and that of the encrypted file. What is there up to `start` is hashed alone."""
    plain, source = hashlib.sha256(), hashlib.sha256()
    parts = _parts(work.key)
    with file.path.open("rb") as encrypted, work.key.open("rb") as key, partial.open("r+b" if start else "wb") as out:
        source.update(encrypted.read(_HASH))
        for at in range(-(-file.size // CHUNK)):
            data = encrypted.read(CHUNK)
            source.update(data)
            if at * CHUNK < start:
                chunk = out.read(CHUNK)
            else:
                chunk = _xor(data, _key_chunk(key, at % parts))
                out.seek(at * CHUNK)
                out.write(chunk)
            plain.update(chunk)
            work.progress.advance(len(data))
        out.truncate(file.size)
        out.flush()
        os.fsync(out.fileno())
    return plain.hexdigest(), source.hexdigest()


def _chunk(key: Path, file: Encrypted, at: int) -> bytes:
    """One chunk, decrypted. `at`: its number."""
    with file.path.open("rb") as encrypted, key.open("rb") as opened:
        encrypted.seek(_HASH + at * CHUNK)
        return _xor(encrypted.read(CHUNK), _key_chunk(opened, at % _parts(key)))


def _key_chunk(key: BinaryIO, at: int) -> bytes:
    key.seek(at * CHUNK)
    return key.read(CHUNK)


def _parts(key: Path) -> int:
    return -(-key.stat().st_size // CHUNK)


def _xor(data: bytes, key: bytes) -> bytes:
    """A key that is shorter is repeated."""
    left, right = np.frombuffer(data, np.uint8), np.frombuffer(key, np.uint8)
    if len(right) < len(left):
        right = np.resize(right, len(left))
    return (left ^ right[: len(left)]).tobytes()
