"""Errors of an index, and those of SQLite as sentences."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from ccpml.files import WriteError
from ccpml.system_errors import is_shortage

__all__ = [
    "DamagedIndexError",
    "IndexBusyError",
    "NotAnIndexError",
    "OtherModelError",
    "QdrantError",
    "SourceConflictError",
    "name_sqlite_errors",
]

_FREE: Final = 2**20
"""Bytes that can be written if a disk is not full."""

_FILES: Final = 4
"""Files that SQLite has open for one database."""

_REFUSALS: Final = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EROFS,
    "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_IOERR_SHMMAP": errno.ENOMEM,
    "SQLITE_IOERR": errno.EIO,
}
"""What the system has probably refused, by the beginning of the name of SQLite's error; the first that fits."""

RESTORE: Final = "restore all of the index from a copy, or build it again"


class NotAnIndexError(ValueError):
    """A path is not the directory of an index, or of one that this version reads."""


class DamagedIndexError(NotAnIndexError):
    """A file of an index is missing, cut off or damaged."""


class OtherModelError(ValueError):
    """An index was made with other weights or another preprocessing than those of the model."""


class IndexBusyError(ValueError):
    """Another process or thread is writing to an index."""


class SourceConflictError(ValueError):
    """Labels or metadata that one source of pictures has given would be lost to another that lacks them."""


class QdrantError(RuntimeError):
    """A qdrant server does not do what is asked of it; the message says why."""


@contextmanager
def name_sqlite_errors(file: Path) -> Iterator[None]:
    """Raise errors of SQLite within the block as errors that name the file.

    Raises:
        WriteError: If the disk is full or broken, or the file is read-only; nothing that was acknowledged is lost.
        OSError: If too many files are open, or there is too little memory.
        NotAnIndexError: If the file cannot be read.
        DamagedIndexError: If the file is not what an index has.
        IndexBusyError: If it is locked.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, file) from error


def _named(error: sqlite3.Error, file: Path) -> Exception:
    kind = str(getattr(error, "sqlite_errorname", ""))
    for beginning, number in _REFUSALS.items():
        if kind.startswith(beginning):
            return _refusal(file, number)
    if kind.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return IndexBusyError(f"{file}: locked by another process; wait for it or stop it")
    return DamagedIndexError(f"{file}: damaged or not of an index ({error}); {RESTORE}")


def _refusal(file: Path, number: int) -> Exception:
    """Return the error of the system below one of SQLite, which keeps it: found by trying; otherwise ``number``."""
    try:
        with ExitStack() as opened:
            for _ in range(_FILES):
                opened.enter_context(file.open("rb"))
    except FileNotFoundError:
        pass
    except OSError as error:
        if is_shortage(error):
            return error
        return NotAnIndexError(f"{file}: cannot be read ({error.strerror}); change its permissions")
    try:
        with TemporaryFile(dir=file.parent) as probe:
            probe.write(bytes(_FREE))
    except OSError as error:
        number = error.errno or number
    return WriteError(number, os.strerror(number), str(file))
