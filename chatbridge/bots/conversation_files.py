"""The files of `/save` and `/load`: written for their owner alone, never through a link, read within a limit.

Knows files; does not know what is in them, nor who asks.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def path_of(text: str) -> Path:
    """The path that somebody typed. Raises: OSError for one that can't be any."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who has no home here
        raise OSError(errno.ENOENT, "there is no such home folder", text) from error
    if "\0" in text:
        raise OSError(errno.EINVAL, "this can't be a path", text)
    return path


def is_there(path: Path) -> bool:
    """Whether a file is there that would be replaced. Raises: OSError for what is no file: a link, a folder, a pipe."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "this is a link; name the file itself", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "this is no file but something else", str(path))
    return True


def write_text(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that its owner alone may read. All of it is there afterwards, or nothing has changed.

    Raises: OSError; FileExistsError, unless it may `replace` one, where something has come there meanwhile.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            is_there(path)
            os.replace(name, path)  # noqa: PTH105 (both are texts of the system)
        else:
            _move_to_nothing(name, path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _move_to_nothing(name: str, path: Path) -> None:
    """Rename where nothing is there yet; by a link where the system has them, since renaming would replace."""
    try:
        os.link(name, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links
        path.open("x").close()
        os.replace(name, path)  # noqa: PTH105
    else:
        Path(name).unlink()


def read_text(path: Path, max_mib: int) -> str:
    """What is in a file of at most `max_mib` MiB. Raises: OSError, also for what is no file or too big;
    UnicodeDecodeError."""
    if not is_there(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, os.O_RDONLY | flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "this is no file but something else", str(path))
        data = file.read((max_mib << 20) + 1)
    if len(data) > max_mib << 20:
        raise OSError(errno.EFBIG, f"it has more than {max_mib} MiB (`load_mib` in bots.yaml)", str(path))
    return data.decode("utf-8-sig")
