"""Files and folders that their owner alone may read, whatever the umask. Knows no database.

What people write to a bot is in them. On Windows a file has the rights of its folder, and modes say nothing.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path

log = logging.getLogger(__name__)

FILE, FOLDER = 0o600, 0o700


def open_private(path: Path) -> int:
    """A descriptor for reading and writing a file that is made where it is not there. Raises: OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), FILE)


def make_private(path: Path) -> None:
    """Make the file where it is not there, and take others' rights to one that is. Raises: OSError."""
    os.close(open_private(path))
    keep_private(path)


def keep_private(path: Path) -> None:
    """Take the rights of others to a file away, and say so; where that can't be done, say that."""
    if sys.platform == "win32":
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(FILE)
            log.warning("%s could be read by others on this machine (mode %03o); now by its owner alone", path, mode)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s can be read by others on this machine, and that can't be changed: %s", path, error.strerror)


def private_folder(path: Path) -> None:
    """Make a folder, and those above it, but for those that are there: they stay as they are. Raises: OSError."""
    for folder in (*reversed(path.parents), path):
        folder.mkdir(FOLDER, exist_ok=True)
