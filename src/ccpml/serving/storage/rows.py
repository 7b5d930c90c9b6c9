"""A file of raw float32 rows, memory-mapped."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccpml.files import WriteError
from ccpml.serving.errors import RESTORE, DamagedIndexError
from ccpml.system_errors import raise_shortage, unreadable

__all__ = ["append_rows", "check_size", "map_rows", "sync_folder", "write_rows"]


def append_rows(file: Path, start: int, rows: NDArray[np.float32]) -> None:
    """Write rows behind the first ``start`` rows of a file and sync it; what was behind them is cut off.

    Args:
        file: The file.
        start: Number of rows to keep.
        rows: float32, (N, d).

    Raises:
        DamagedIndexError: If the file has fewer rows.
        WriteError: If they cannot be written; the first rows are unchanged.
    """
    offset = start * rows.shape[1] * 4
    check_size(file, start, rows.shape[1])
    try:
        number = os.open(file, os.O_RDWR)
        try:
            os.ftruncate(number, offset)  # cut off what an interrupted writer left
            _write(number, offset, rows)
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(file)) from error


def write_rows(file: Path, parts: Iterable[NDArray[np.float32]]) -> None:
    """Write a new file of rows, float32, (N, d) each, and sync it and its folder.

    Raises:
        WriteError: If it cannot be written; nothing is left of it.
    """
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            offset = 0
            for rows in parts:
                offset += _write(number, offset, rows)
            os.fsync(number)
        finally:
            os.close(number)
        sync_folder(file.parent)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise WriteError(error.errno, error.strerror, str(file)) from error
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Write the names of the files in a folder to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def check_size(file: Path, count: int, dim: int) -> None:
    """Check that a file exists and has the rows that it should.

    Raises:
        DamagedIndexError: If it has not.
    """
    if not file.is_file():
        raise DamagedIndexError(f"{file}: not found; {RESTORE}")
    size = file.stat().st_size
    if size < count * dim * 4:
        raise DamagedIndexError(
            f"{file}: cut off: expected {count:,} rows of {dim} float32 numbers ({count * dim * 4:,} bytes), got "
            f"{size:,} bytes; {RESTORE}"
        )


def map_rows(file: Path, count: int, dim: int) -> NDArray[np.float32]:
    """Return the first ``count`` rows of a file, read-only, (count, dim).

    Raises:
        DamagedIndexError: If the file is missing or shorter.
    """
    check_size(file, count, dim)
    if count == 0:
        return np.empty((0, dim), np.float32)
    try:
        return np.memmap(file, np.float32, "r", shape=(count, dim))
    except OSError as error:
        raise_shortage(error)
        raise DamagedIndexError(unreadable(file, error, RESTORE)) from error


def _write(number: int, offset: int, rows: NDArray[np.float32]) -> int:
    """Write rows to an open file; return the number of bytes."""
    data = memoryview(np.ascontiguousarray(rows, dtype="<f4").tobytes())
    left = data
    while left:
        left = left[os.pwrite(number, left, offset + len(data) - len(left)) :]
    return len(data)
