"""What a file is, told from its first bytes and never from its name: a format of weights, or what is none.

Pointers, web pages, empty files and other people's formats are told in words. Reads a few hundred bytes; follows no
header, and waits for no pipe.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Literal

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.ggml import is_ggml

Kind = Literal["gguf", "ggml", "torch", "pickle", "safetensors", "xor", "json", "sentencepiece", "other"]

_BEGIN = 512
_LFS = re.compile(rb"version https://git-lfs.*?^size (\d{1,20})", re.DOTALL | re.MULTILINE)
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|!--|\?xml|html|head|body|script)", re.IGNORECASE)
_PICKLE = re.compile(rb"\x80[\x01-\x05]")
_ENC = re.compile(r"(.+)\.([0-9a-f]{64})\.enc")
_ANSWERS = (b"Entry not found", b"Repository not found", b"Invalid username or password", b"Access to model ", b"404")
"""How a text begins that a server sends in the place of a file."""


def exists(path: Path) -> bool:
    """Whether something is there; a name that no system takes is nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def kind_of(path: Path) -> Kind:
    """What the file is. Raises ModelLoadError for what is none at all: missing, empty, a pointer, a web page."""
    return _kind(path, _begin(path))


def refuse_stand_ins(path: Path) -> None:
    """Raise ModelLoadError for a file that is missing or empty, or a pointer, a web page or an error in its place."""
    _begin(path)


def encrypted_name(path: Path) -> str | None:
    """What a file of BELLE's is called once it is decrypted; None for any other file.

    Such a file is called NAME.HASH.enc, and begins with the 32 bytes of the hash (BELLE, models/decrypt.py).
    """
    found = _ENC.fullmatch(path.name)
    return found[1] if found else None


def _begin(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelLoadError(f"{path}: this is a folder; give the file in it")
        if not stat.S_ISREG(mode):
            raise ModelLoadError(f"{path}: this is a device or a pipe and no file")
        with path.open("rb") as file:
            begin = file.read(_BEGIN)
    except FileNotFoundError:
        raise ModelLoadError(
            f"{path}: there is no such file; download it, into the same folder as the others"
        ) from None
    except (OSError, ValueError) as error:  # a name may hold what no system takes
        raise ModelLoadError(f"{path}: the file can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not begin:
        raise ModelLoadError(f"{path}: the file is empty; download it again")
    if begin.startswith(b"version https://git-lfs"):
        size = _LFS.match(begin)
        told = f", which has {int(size[1]):,} bytes" if size else ""
        raise ModelLoadError(
            f"{path}: this is a Git LFS pointer and not the file itself{told}; run `git lfs install` and `git lfs "
            f"pull` in that folder, or download the file from the model's page"
        )
    if _PAGE.match(begin):
        raise ModelLoadError(f"{path}: this is a web page and not the file; download it again, by the page's button")
    if len(begin) < _BEGIN and begin.startswith(_ANSWERS):
        told = " ".join(begin.decode("utf-8", "backslashreplace").split())[:100]
        raise ModelLoadError(f"{path}: this is a server's answer and not the file: {told!r}; download it again")
    return begin


def _kind(path: Path, begin: bytes) -> Kind:
    if begin[:4] == b"GGUF":
        return "gguf"
    if is_ggml(begin):
        return "ggml"
    if begin[:4] == b"PK\3\4":
        return "torch"
    if (name := _ENC.fullmatch(path.name)) and begin[:32].hex() == name[2]:
        return "xor"
    if begin[4:9] == b"\0\0\0\0{":  # 8 bytes of length, of which 4 do; it may begin as a pickle does
        return "safetensors"
    if _PICKLE.match(begin):
        return "pickle"
    if path.suffix == ".safetensors":
        return "safetensors"
    if begin[:1] == b"\n" and path.suffix == ".model":  # protobuf: the first field is a piece
        return "sentencepiece"
    return "json" if begin.lstrip()[:1] in (b"{", b"[") else "other"
