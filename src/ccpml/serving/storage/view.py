"""What a search sees of an index: one committed state of database and rows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccpml.serving.errors import DamagedIndexError
from ccpml.serving.storage.rows import check_size, map_rows
from ccpml.serving.storage.snapshot import Snapshot
from ccpml.serving.storage.store import Store

__all__ = ["View", "Views", "rows_file"]


def rows_file(folder: Path, generation: int) -> Path:
    """Return the file of rows of an index."""
    return folder / f"rows.{generation}.f32"


@dataclass(frozen=True)
class View:
    """One committed state of an index. Rows with numbers below ``snapshot.num_rows`` never change in a generation.

    Attributes:
        snapshot: The database.
        rows: Embeddings, memory-mapped, those of removed items included: float32, (N, d).
        removed: Rows of removed items, ascending: int64, (R,).
    """

    snapshot: Snapshot
    rows: NDArray[np.float32]
    removed: NDArray[np.int64]


class Views:
    """The states of an index, one after the other; what did not change is not read again."""

    def __init__(self, folder: Path, store: Store, dim: int) -> None:
        self._folder, self._store, self._dim = folder, store, dim
        self._lock = threading.Lock()
        self._generation = 0
        self._rows = np.empty((0, dim), np.float32)
        self._version = 0
        self._removed = np.empty((0, 2), np.int64)  # rows and the versions that removed them, by row

    def check(self) -> None:
        """Check that the rows are there.

        Raises:
            DamagedIndexError: If they are not.
        """
        for attempt in (1, 2, 3):
            with self._store.snapshot() as snapshot:
                try:
                    check_size(rows_file(self._folder, snapshot.generation), snapshot.num_rows, self._dim)
                    return
                except DamagedIndexError:
                    if attempt == 3 or self._is_current(snapshot.generation):
                        raise

    @contextmanager
    def now(self) -> Iterator[View]:
        """Open the present state for the time of the block.

        Raises:
            DamagedIndexError: If a file is missing or damaged.
        """
        for attempt in (1, 2, 3):
            with self._store.snapshot() as snapshot:
                try:
                    view = self._view(snapshot)
                except DamagedIndexError:
                    if attempt == 3 or self._is_current(snapshot.generation):
                        raise
                    continue  # compacted just now: the rows of the snapshot are gone
                yield view
                return

    def _is_current(self, generation: int) -> bool:
        with self._store.snapshot() as snapshot:
            return snapshot.generation == generation

    def _view(self, snapshot: Snapshot) -> View:
        with self._lock:
            if snapshot.generation < self._generation:  # begun before a compaction that another thread has seen
                rows = map_rows(rows_file(self._folder, snapshot.generation), snapshot.num_rows, self._dim)
                return View(snapshot, rows, np.sort(snapshot.removed_since(0)[:, 0]))
            if snapshot.generation > self._generation or snapshot.num_rows > len(self._rows):
                self._rows = map_rows(rows_file(self._folder, snapshot.generation), snapshot.num_rows, self._dim)
            if snapshot.generation > self._generation:
                self._generation, self._version, self._removed = snapshot.generation, 0, np.empty((0, 2), np.int64)
            if snapshot.version > self._version:
                more = snapshot.removed_since(self._version)
                if len(more):
                    both = np.concatenate([self._removed, more])
                    self._removed = both[np.argsort(both[:, 0])]
                self._version = snapshot.version
            removed = self._removed
            if snapshot.version < self._version:
                removed = removed[removed[:, 1] <= snapshot.version]
            return View(snapshot, self._rows[: snapshot.num_rows], np.ascontiguousarray(removed[:, 0]))
