"""The database of an index, in SQLite: a writer, and readers that see what was committed."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from ccpml.serving.errors import RESTORE, DamagedIndexError, NotAnIndexError, name_sqlite_errors
from ccpml.serving.storage.schema import BUILD, FIELDS, SCHEMA
from ccpml.serving.storage.snapshot import Snapshot
from ccpml.serving.storage.transaction import Transaction
from ccpml.system_errors import raise_shortage, unreadable

__all__ = ["Store"]


class Store:
    """The database of an index; for many threads. What a transaction has committed is on the disk.

    Readers have connections of their own, which are kept for the next reader. In a folder that cannot be written, and
    in which no writer has left anything behind, the file is read as one that never changes.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._closed = False
        self._opened: tuple[int, int] | None = None  # device and number of the file
        self._state: tuple[int, int] | None = None  # its time and size when the idle readers were opened
        self._build: str | None = None  # that of the index

    @classmethod
    def create(cls, file: Path, meta: dict[str, str]) -> None:
        """Create the database, which must not exist, and close it."""
        with name_sqlite_errors(file):
            db = sqlite3.connect(file, isolation_level=None)
            try:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.executescript(f"BEGIN; {SCHEMA} {FIELDS}")
                db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                db.execute("COMMIT")
            finally:
                db.close()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read within the block what is committed now, whatever a writer does meanwhile.

        Raises:
            NotAnIndexError: If the file is not the database of an index.
        """
        db, state = self._reader()
        try:
            with self._named_errors():
                db.execute("BEGIN")
                yield Snapshot(db, self.file.parent.absolute())
        finally:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            with self._lock:
                keep = not self._closed and state == self._state
                if keep:
                    self._idle.append(db)
            if not keep:
                db.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit what is written within the block, or nothing of it.

        Raises:
            WriteError: If it cannot be written.
            DamagedIndexError: If another index took the place of this one; it is not touched.
        """
        self.check()
        with self._named_errors():
            db = self._opened_writer()
            db.execute("BEGIN IMMEDIATE")
            try:
                change = Transaction(db, self.file.parent.absolute())
                yield change
                change.finish()
                db.execute("COMMIT")
            except BaseException:
                self._close_writer()  # rolls back; whatever state it was in, the next one starts afresh
                raise

    def add_fields(self) -> None:
        """Add the table of fields to an index that has none.

        Raises:
            WriteError: If it cannot be written.
        """
        with self.snapshot() as snapshot:
            if snapshot.has_fields():
                return
        with self._named_errors():
            db = self._opened_writer()
            try:
                db.executescript(f"BEGIN IMMEDIATE; {FIELDS} COMMIT")
            except BaseException:
                self._close_writer()  # rolls back
                raise

    def shrink(self) -> None:
        """Return unused pages of the file to the system."""
        with self._named_errors():
            db = self._opened_writer()
            db.executescript("PRAGMA incremental_vacuum")  # one transaction; execute would stop after one page
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the database; readers at work finish."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()
        self._close_writer()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        with name_sqlite_errors(self.file):
            try:
                yield
            except sqlite3.OperationalError as error:
                if "no such table" in str(error) or "no such column" in str(error):
                    raise NotAnIndexError(f"{self.file}: not the database of an index ({error}); {RESTORE}") from error
                raise

    def check(self) -> None:
        """Check that the file that was opened is still there.

        Raises:
            DamagedIndexError: If it is not, so that what others write is not seen here.
        """
        try:
            stat = self.file.stat()
        except OSError as error:
            raise_shortage(error)
            raise DamagedIndexError(unreadable(self.file, error, RESTORE)) from error
        if self._opened is not None and self._opened != (stat.st_dev, stat.st_ino):
            raise self._replaced()

    def _replaced(self) -> DamagedIndexError:
        return DamagedIndexError(f"{self.file}: another file took its place since it was opened; open it again")

    def _reader(self) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        """Return a connection, and the state of the file for which it is good.

        What a writer has committed moves into the file now and then. So does an index that is copied over this one,
        which a connection would mix with the pages that it has read before.
        """
        try:
            stat = self.file.stat()
        except OSError:
            stat = None  # a snapshot that was begun before can still be read
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.file}: the index is closed")
            state = self._state if stat is None else (stat.st_mtime_ns, stat.st_size)
            if state == self._state and self._idle:
                return self._idle.pop(), state
            stale, self._idle, self._state = self._idle, [], state
        for db in stale:
            db.close()
        with self._named_errors():
            if not self.file.is_file():
                raise DamagedIndexError(f"{self.file}: not found; {RESTORE}")
            self.check()  # a further connection reads what the others read
            db = self._connect()
            try:
                self._check_build(db)
            except BaseException:
                db.close()
                raise
            return db, state

    def _check_build(self, db: sqlite3.Connection) -> None:
        """Check that a new connection reads the index that the others have read."""
        found = db.execute("SELECT value FROM meta WHERE key = ?", (BUILD,)).fetchone()
        build = "" if found is None else str(found[0])
        if self._build not in {None, build}:
            raise self._replaced()
        self._build = build

    def _connect(self) -> sqlite3.Connection:
        """Return a connection that only reads."""
        log = self.file.with_name(f"{self.file.name}-wal")
        fixed = not os.access(self.file.parent, os.W_OK)
        if fixed and log.is_file() and log.stat().st_size:
            raise NotAnIndexError(
                f"{log}: left by an interrupted writer in a folder that cannot be written; copy the index to one that "
                "can"
            )
        if self._opened is None:
            stat = self.file.stat()
            self._opened = stat.st_dev, stat.st_ino
        address = f"file:{quote(os.fsencode(self.file.absolute()))}?mode=ro{'&immutable=1' if fixed else ''}"
        return sqlite3.connect(address, uri=True, isolation_level=None, timeout=5, check_same_thread=False)

    def _opened_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            address = f"file:{quote(os.fsencode(self.file.absolute()))}?mode=rw"
            db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=5, check_same_thread=False)
            db.execute("PRAGMA synchronous=FULL")
            self._writer = db
        return self._writer

    def _close_writer(self) -> None:
        db, self._writer = self._writer, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()
