"""A file of raw float32 rows, memory-mapped."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccpml.files import WriteError

__all__ = ["append_rows", "map_rows"]


def append_rows(file: Path, start: int, rows: NDArray[np.float32]) -> None:
    """Write rows behind the first ``start`` rows of a file and sync it; what was behind them is cut off.

    Args:
        file: The file; created if necessary.
        start: Number of rows to keep.
        rows: float32, (N, d).

    Raises:
        WriteError: If they cannot be written; the first rows are unchanged.
    """
    data = memoryview(np.ascontiguousarray(rows, dtype=np.float32).tobytes())
    offset = start * rows.shape[1] * 4
    try:
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(number, offset)
            while data:
                written = os.pwrite(number, data, offset)
                offset, data = offset + written, data[written:]
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(file)) from error


def map_rows(file: Path, count: int, dim: int) -> NDArray[np.float32]:
    """Return the first ``count`` rows of a file, read-only, (count, dim).

    Raises:
        ValueError: If the file is missing or shorter.
    """
    if count == 0:
        return np.empty((0, dim), np.float32)
    size = file.stat().st_size if file.is_file() else 0
    if size < count * dim * 4:
        raise ValueError(
            f"{file}: damaged: expected {count:,} rows of {dim} float32 numbers, got {size:,} bytes; restore the index "
            "from a copy, or build it again"
        )
    return np.memmap(file, np.float32, "r", shape=(count, dim))
