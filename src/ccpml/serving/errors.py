"""Errors of an index, and those of SQLite as sentences."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ccpml.files import WriteError

__all__ = [
    "DamagedIndexError",
    "IndexBusyError",
    "NotAnIndexError",
    "OtherModelError",
    "QdrantError",
    "name_sqlite_errors",
]

_FULL: Final = 2**20  # bytes of free space

RESTORE: Final = "restore the index from a copy, or build it again"


class NotAnIndexError(ValueError):
    """A path is not the directory of an index, or of one that this version reads."""


class DamagedIndexError(NotAnIndexError):
    """A file of an index is missing, cut off or damaged."""


class OtherModelError(ValueError):
    """An index was made with other weights or another preprocessing than those of the model."""


class IndexBusyError(ValueError):
    """Another process or thread is writing to an index."""


class QdrantError(RuntimeError):
    """A qdrant server does not do what is asked of it; the message says why."""


@contextmanager
def name_sqlite_errors(file: Path) -> Iterator[None]:
    """Raise errors of SQLite within the block as errors that name the file.

    Raises:
        WriteError: If the disk is full or broken, or the file is read-only; nothing that was acknowledged is lost.
        DamagedIndexError: If the file is not what an index has.
        IndexBusyError: If it is locked.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, file) from error


def _named(error: sqlite3.Error, file: Path) -> Exception:
    kind = str(getattr(error, "sqlite_errorname", ""))
    if kind.startswith("SQLITE_IOERR") and shutil.disk_usage(file.parent).free < _FULL:
        kind = "SQLITE_FULL"  # SQLite tells only writes that found no space from other errors
    for beginning, number in (
        ("SQLITE_FULL", errno.ENOSPC),
        ("SQLITE_READONLY", errno.EROFS),
        ("SQLITE_CANTOPEN", errno.EACCES),
        ("SQLITE_IOERR", errno.EIO),
    ):
        if kind.startswith(beginning):
            return WriteError(number, os.strerror(number), str(file))
    if kind.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return IndexBusyError(f"{file}: locked by another process; wait for it or stop it")
    return DamagedIndexError(f"{file}: damaged or not of an index ({error}); {RESTORE}")
