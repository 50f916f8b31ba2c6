"""Space in the database's file: freed pages are overwritten at once, and go back to the file system in small steps.

Knows SQLite's pages; knows no table. `auto_vacuum = INCREMENTAL` can be set on an empty file alone: one of an earlier
version is written anew, once. What was deleted before it also is gone from the file then.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)

SPARE_PAGES = 256
"""Free pages that stay in the file, since the next messages take them again."""

STEP_PAGES = 16
"""Pages given back in one step, which takes a few milliseconds at most."""

_INCREMENTAL = 2


def prepare(db: sqlite3.Connection) -> None:
    """Settings of a connection, before anything else is done with it; a new file is made to give pages back."""
    if db.execute("PRAGMA page_count").fetchone()[0] == 0:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA secure_delete = ON").fetchall()


def gives_back(db: sqlite3.Connection) -> bool:
    """Whether the file was made, or written anew, so that it gives free pages back."""
    return bool(db.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL)


def write_anew(db: sqlite3.Connection, path: Path) -> None:
    """Write a whole file of an earlier version anew, so that it gives free pages back and holds nothing deleted.

    Raises: sqlite3.Error where there is no room, or another program reads it; then it is as it was.
    """
    size = path.stat().st_size
    needed = 2 * size + (1 << 20)  # the new file, and the journal that it goes through
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise sqlite3.OperationalError(f"that takes {needed >> 20} MiB of room for a while, and {free >> 20} are free")
    log.info("%s: its %d bytes are written anew, once, so that free space can be given back", path, size)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("VACUUM")
    shrink_journal(db)


def give_back(db: sqlite3.Connection, spare: int = SPARE_PAGES, step: int = STEP_PAGES) -> int:
    """Give back some free pages but for `spare` ones; how many they were."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(step, free - spare)):  # one by one, since `sqlite3` reads no more than one row without columns
        db.execute("PRAGMA incremental_vacuum(1)")
    return int(free - db.execute("PRAGMA freelist_count").fetchone()[0])


def shrink_journal(db: sqlite3.Connection) -> bool:
    """Bring all that is in the write-ahead log into the file, and empty it; False while another program reads it."""
    (wait,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute("PRAGMA busy_timeout = 0")
    try:
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute(f"PRAGMA busy_timeout = {wait}")
    return not busy
