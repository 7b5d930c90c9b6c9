"""Removal of what tombstones hold: rows and database are written again."""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.files import require_space
from ccpml.serving.errors import RESTORE, DamagedIndexError
from ccpml.serving.storage.rows import map_rows, write_rows
from ccpml.serving.storage.schema import text_of
from ccpml.serving.storage.transaction import Transaction
from ccpml.serving.storage.view import rows_file
from ccpml.serving.writer import Writer

__all__ = ["Compacted", "compact"]

_CHUNK: Final = 16384  # rows copied at a time


class Compacted(NamedTuple):
    """Number of rows that were kept, and of those of removed items."""

    kept: int
    dropped: int


def compact(writer: Writer, dim: int) -> Compacted:
    """Write the kept rows to a file of a new generation, which the commit of a transaction makes the present one.

    A process that dies before leaves the old rows, one that dies after leaves the new ones; the next writer removes the
    other file. Readers continue with the state that they have.

    Raises:
        DamagedIndexError: If a row that is kept differs from its checksum; nothing is changed.
    """
    with writer.store.transaction() as change:
        kept, old = change.kept_rows(), rows_file(writer.folder, change.generation)
        dropped = change.num_rows - len(kept)
        if dropped:
            require_space(writer.folder, len(kept) * dim * 4, "the compaction")
        rows = map_rows(old, change.num_rows, dim)
        _check(change, rows, old)
        change.write_fields()
        if dropped:
            change.renumber(kept)
            write_rows(rows_file(writer.folder, change.generation), _parts(rows, kept))
    if dropped:
        with suppress(OSError):  # the next writer removes it
            old.unlink()
    writer.store.shrink()
    return Compacted(len(kept), dropped)


def _check(change: Transaction, rows: NDArray[np.float32], file: Path) -> None:
    """Compare the rows that are kept with their checksums, so that damage is not written again.

    Raises:
        DamagedIndexError: If one differs.
    """
    for key, path, row, expected in change.select("SELECT id, path, row, checksum FROM items WHERE NOT removed"):
        got = zlib.crc32(rows[row].tobytes()) if 0 <= row < len(rows) else 0
        if got != expected:
            raise DamagedIndexError(
                f"{file}: row {row} of item {key} ({text_of(path)}): expected the checksum {expected:08x}, got "
                f"{got:08x}; nothing was changed; {RESTORE}"
            )


def _parts(rows: NDArray[np.float32], kept: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(kept), _CHUNK):
        yield rows[kept[start : start + _CHUNK]]
