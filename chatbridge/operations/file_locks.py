"""A lock of an open file that the operating system lets go when its holder ends: `flock`, on Windows a locked byte.

Two holders in one process keep each other out as well. Knows files, and not what they are for.
"""

from __future__ import annotations

import errno
import logging
import os
import sys

log = logging.getLogger(__name__)

_BYTE = 1 << 30
"""Which byte is locked on Windows, where what is locked can't be read: far behind what such a file says."""


def try_lock(descriptor: int, name: object) -> bool:
    """Whether the lock is ours now; it never waits. `name`: the file's, for the log.

    Where the drive has no locks it is ours, and the log says so. Raises: OSError.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        log.warning("%s: this drive has no locks (%s); see to it that one program alone uses it", name, error.strerror)
    return True
