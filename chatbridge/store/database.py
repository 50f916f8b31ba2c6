"""One SQLite file: every operation is whole or not at all, on one writer thread, and durable when its await returns.

Knows no table but by `schema`, which brings an old file up to date. What waits while the thread is busy is committed
together (`transactions`): many chats at once cost hardly more commits and thread switches than one.

Durability: WAL with `synchronous=NORMAL`. A commit is in the operating system's hands when it returns, so nothing
committed is lost when the program is killed or crashes; after a power failure the last moments may be missing, but
the file is sound. `FULL` would wait for the disk at each message.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar, cast

from chatbridge.errors import StoreError, StoreFull
from chatbridge.store import damaged, packing
from chatbridge.store.audit import Audit
from chatbridge.store.lock import StoreLock
from chatbridge.store.private import keep_private, make_private
from chatbridge.store.schema import migrate, outdated, refuse_newer
from chatbridge.store.transactions import Outcome, Work, WriterThread

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long to wait for another program that is writing to the same file."""

AUDIT_SECONDS = 0.1
"""How long rows are looked over before the store is open; in a large one `Upkeep` looks at the others meanwhile."""


class Database:
    """An open file and its thread. `await Database.open(path)` makes one; close it with `aclose`."""

    def __init__(self, path: Path, *, shared: bool = False, config: str = "") -> None:
        self._file = path
        self._shared = shared
        self._lock = StoreLock(path, config)
        self._thread = WriterThread(self._transaction)
        self._connection: damaged.Connection | None = None
        self._audit = Audit()
        self.damaged_rows = 0
        """How many rows that can't be read are kept aside; `chatbridge queue` lists them."""

    @classmethod
    async def open(cls, path: Path, *, shared: bool = False, config: str = "") -> Self:
        """Open or create the file, for this program alone. Raises: StoreInUse where another has it, StoreError.

        `shared`: beside whoever has it. Each operation still is a transaction of its own; but nobody may take messages
        in or bring answers out who is not alone with them. `config`: the bots.yaml of this program, to be named to
        others.
        """
        database = cls(path, shared=shared, config=config)
        try:
            await database._run(database._connect)
        except BaseException:
            await database.aclose()
            raise
        return database

    async def aclose(self) -> None:
        """Wait for what is under way, then close the file and let others have it."""

        def close() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._lock.release()

        await self._thread.run(close)
        self._thread.shutdown()

    async def transaction(self, work: Callable[[sqlite3.Connection], T], *, checked: bool = True) -> T:
        """Run `work` on the store's thread, all of it or nothing. Raises StoreError.

        `checked`: False where `work` itself sees to it that nothing points at what it deletes; SQLite would look for
        that in whole tables. Such a one is committed alone.
        """
        if checked:
            return await self._thread.transaction(work)
        ((result, _),) = await self._run(lambda: self._commit([work], checked=False))
        return cast("T", result)

    async def look_through(self) -> int:
        """Look for rows of any table that can't be read, and put them aside. Returns how many are there by now.

        In a large store it takes a while, and everybody else waits.
        """

        def work(db: sqlite3.Connection) -> int:
            audit = Audit(nodes=True)
            while audit.step(db):
                pass
            return damaged.count(db)

        return await self.transaction(work)

    async def look_on(self) -> bool:
        """Look over some of the rows that were not looked over when the store was opened; False where all were."""
        return not self._audit.done and await self.transaction(self._audit.step)

    async def give_back(self, spare: int = packing.SPARE_PAGES) -> int:
        """Give some free pages of the file back to the file system, but for `spare` ones; how many they were."""
        return await self.transaction(lambda db: packing.give_back(db, spare))

    async def shrink_journal(self) -> bool:
        """Empty the write-ahead log beside the file, so that nothing is left there of what was deleted.

        False while another program reads it.
        """
        return await self._run(lambda: packing.shrink_journal(self._open()))

    async def write_anew(self) -> None:
        """Leave nothing in a file of an earlier version but what is in its tables. Raises: StoreError."""
        await self._run(
            lambda: None if packing.gives_back(self._open()) else packing.write_anew(self._open(), self._file)
        )

    async def execute(self, statement: str, *values: object) -> int:
        """One statement as a transaction; how many rows it changed. Raises StoreError."""
        return await self.transaction(lambda db: db.execute(statement, values).rowcount)

    def _transaction(self, works: Sequence[Work]) -> list[Outcome]:
        """Run all of them as one transaction. Raises what one alone raises, and StoreError where nothing is written."""
        return self._guarded(lambda: self._commit(works))()

    def _open(self) -> damaged.Connection:
        if self._connection is None:
            raise StoreError(f"{self._file} is closed already")
        return self._connection

    def _commit(self, works: Sequence[Work], *, checked: bool = True) -> list[Outcome]:
        db = self._open()
        db.noticed.clear()
        if not checked:
            db.execute("PRAGMA foreign_keys = OFF")
        db.execute("BEGIN IMMEDIATE")
        try:
            outcomes: list[Outcome] = [(works[0](db), None)] if len(works) == 1 else self._beside(db, works)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk, for one, has ended it already
                db.execute("ROLLBACK")
            raise
        finally:
            if not checked:
                db.execute("PRAGMA foreign_keys = ON")
        for told in db.noticed:
            log.error("%s: %s", self._file, told)
        self.damaged_rows += len(db.noticed)
        return outcomes

    def _beside(self, db: damaged.Connection, works: Sequence[Work]) -> list[Outcome]:
        """Each by itself within the transaction: what one of them did is undone where it fails, and nothing else."""
        outcomes: list[Outcome] = []
        for work in works:
            noticed = len(db.noticed)
            db.execute("SAVEPOINT work")
            try:
                outcomes.append((self._guarded(partial(work, db))(), None))
            except Exception as error:
                if not db.in_transaction:
                    raise
                db.execute("ROLLBACK TO work")
                del db.noticed[noticed:]
                outcomes.append((None, error))
            db.execute("RELEASE work")
        return outcomes

    def _connect(self) -> None:
        if not self._file.parent.is_dir():
            raise StoreError(f"{self._file}: there is no folder {self._file.parent}; make it, or change `store:`")
        refuse_newer(self._file)
        if not self._shared:
            self._lock.acquire()
        make_private(self._file)  # SQLite gives the files beside it the same rights
        for beside in ("-wal", "-shm"):
            keep_private(self._file.with_name(self._file.name + beside))
        db = self._connection = damaged.connect(str(self._file), BUSY_SECONDS)
        packing.prepare(db)
        if self._shared and outdated(db, str(self._file)):
            self._lock.acquire()  # to bring it up to date nobody else may be there
        if outdated(db, str(self._file)) or not self._shared:
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        migrate(db, str(self._file))
        if self._shared:
            self._lock.release()
        else:
            if not packing.gives_back(db):
                self._write_anew(db)
            self._commit([self._look_over])
        self.damaged_rows = damaged.count(db)

    def _write_anew(self, db: damaged.Connection) -> None:
        try:
            packing.write_anew(db, self._file)
        except sqlite3.Error as error:
            log.warning(
                "%s: it can't give free space back yet, which the next start tries again: %s", self._file, error
            )

    def _look_over(self, db: sqlite3.Connection) -> None:
        end = time.monotonic() + AUDIT_SECONDS
        while self._audit.step(db) and time.monotonic() < end:
            pass

    async def _run(self, work: Callable[[], T]) -> T:
        """Run something on the store's thread that is no transaction."""
        return await self._thread.run(self._guarded(work))

    def _guarded(self, work: Callable[[], T]) -> Callable[[], T]:
        """The same, with what SQLite and the system raise as a StoreError in words."""

        def guarded() -> T:
            try:
                return work()
            except sqlite3.Error as error:
                kind = StoreFull if _name(error).startswith("SQLITE_FULL") else StoreError
                raise kind(f"{self._file}: {_in_words(error)}") from error
            except OSError as error:
                kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
                words = _WORDS["SQLITE_FULL" if kind is StoreFull else _OS_ERRORS.get(error.errno or 0, "")]
                raise kind(f"{error.filename or self._file}: {words} ({error.strerror})") from error

        return guarded


def storable(text: str) -> str:
    """SQLite takes no lone surrogates, which some clients send."""
    return text.encode("utf-8", "replace").decode("utf-8")


_WORDS = {
    "SQLITE_BUSY": "another program is writing to it and does not let go; end that one, or name another file",
    "SQLITE_CANTOPEN": "it can't be opened; look at the folder's and the file's permissions",
    "SQLITE_READONLY": "it can't be written to; look at its permissions, and whether the disk is mounted read-only",
    "SQLITE_NOTADB": "this is no SQLite database; name another file under `store:`",
    "SQLITE_CORRUPT": "the database is damaged; move it away and start anew, or restore a backup",
    "SQLITE_FULL": "the disk is full; once there is room, everything goes on by itself",
    "SQLITE_IOERR": "the disk reports an error; look at the system's log",
    "": "it can't be used",
}
_OS_ERRORS = {
    errno.EACCES: "SQLITE_CANTOPEN",
    errno.EPERM: "SQLITE_CANTOPEN",
    errno.EISDIR: "SQLITE_CANTOPEN",
    errno.EROFS: "SQLITE_READONLY",
    errno.EIO: "SQLITE_IOERR",
}


def _name(error: sqlite3.Error) -> str:
    """SQLite's own name for an error. A disk without room for a file of SQLite's own is full as well."""
    name = str(getattr(error, "sqlite_errorname", ""))
    return "SQLITE_FULL" if name in _FULL else name


_FULL = ("SQLITE_IOERR_SHMSIZE",)


def _in_words(error: sqlite3.Error) -> str:
    name = _name(error)
    for code, words in _WORDS.items():
        if code and name.startswith(code):
            return f"{words} ({error})"
    return str(error)


def short_key(created: float, id: int) -> str:
    """A short name for a row, at most 20 characters; another than a row of the same id had in an earlier database."""
    return f"{int(created * 1000):x}-{id:x}"
