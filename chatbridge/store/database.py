"""One SQLite file: every operation is one transaction on one writer thread, and durable when its await returns.

Knows no table but by `schema`, which brings an old file up to date.

Durability: WAL with `synchronous=NORMAL`. A commit is in the operating system's hands when it returns, so nothing
committed is lost when the program is killed or crashes; after a power failure the last moments may be missing, but
the file is sound. `FULL` would wait for the disk at each message.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from chatbridge.errors import StoreError
from chatbridge.store.schema import migrate

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long to wait for another program that is writing to the same file."""


class Database:
    """An open file and its thread. `await Database.open(path)` makes one; close it with `aclose`."""

    def __init__(self, path: Path) -> None:
        self._file = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file. Raises StoreError."""
        database = cls(path)
        try:
            await database._run(database._connect)
        except BaseException:
            await database.aclose()
            raise
        return database

    async def aclose(self) -> None:
        """Wait for what is under way, then close the file."""

        def close() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as one transaction on the store's thread. Raises StoreError."""

        def transaction() -> T:
            db = self._connection
            if db is None:
                raise StoreError(f"{self._file} is closed already")
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
            return result

        return await self._run(transaction)

    async def execute(self, statement: str, *values: object) -> int:
        """One statement as a transaction; how many rows it changed. Raises StoreError."""
        return await self.transaction(lambda db: db.execute(statement, values).rowcount)

    def _connect(self) -> None:
        if not self._file.parent.is_dir():
            raise StoreError(f"{self._file}: there is no folder {self._file.parent}; make it, or change `store:`")
        self._connection = sqlite3.connect(
            self._file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        migrate(self._connection, str(self._file))

    async def _run(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except sqlite3.Error as error:
                raise StoreError(f"{self._file}: {_in_words(error)}") from error

        # Shielded: a caller that is cancelled must not leave a transaction half-way.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, guarded))


def storable(text: str) -> str:
    """SQLite takes no lone surrogates, which some clients send."""
    return text.encode("utf-8", "replace").decode("utf-8")


_WORDS = {
    "SQLITE_BUSY": "another program is writing to it and does not let go; end that one, or name another file",
    "SQLITE_CANTOPEN": "it can't be opened; look at the folder's and the file's permissions",
    "SQLITE_READONLY": "it can't be written to; look at its permissions",
    "SQLITE_NOTADB": "this is no SQLite database; name another file under `store:`",
    "SQLITE_CORRUPT": "the database is damaged; move it away and start anew, or restore a backup",
    "SQLITE_FULL": "the disk is full; make room and start again",
    "SQLITE_IOERR": "the disk reports an error",
}


def _in_words(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    for code, words in _WORDS.items():
        if name.startswith(code):
            return f"{words} ({error})"
    return str(error)


def short_key(created: float, id: int) -> str:
    """A short name for a row, at most 20 characters; another than a row of the same id had in an earlier database."""
    return f"{int(created * 1000):x}-{id:x}"
