"""Removal of what tombstones hold: rows and database are written again."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.files import require_space
from ccpml.serving.storage.rows import map_rows, write_rows
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
    """
    with writer.store.transaction() as change:
        kept, old = change.kept_rows(), rows_file(writer.folder, change.generation)
        dropped = change.num_rows - len(kept)
        if dropped:
            require_space(writer.folder, len(kept) * dim * 4, "the compaction")
            rows = map_rows(old, change.num_rows, dim)
            change.renumber(kept)
            write_rows(rows_file(writer.folder, change.generation), _parts(rows, kept))
    if dropped:
        with suppress(OSError):  # the next writer removes it
            old.unlink()
    writer.store.shrink()
    return Compacted(len(kept), dropped)


def _parts(rows: NDArray[np.float32], kept: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(kept), _CHUNK):
        yield rows[kept[start : start + _CHUNK]]
