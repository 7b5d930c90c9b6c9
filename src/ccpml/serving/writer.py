"""The writer of an index: one at a time, whose death leaves what it had acknowledged."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock, Timeout

from ccpml.files import WriteError
from ccpml.serving.embedder import Embedder
from ccpml.serving.errors import IndexBusyError
from ccpml.serving.index_writer import CHUNK, IndexWriter, Known, in_chunks
from ccpml.serving.pictures import NewItem
from ccpml.serving.storage.rows import append_rows
from ccpml.serving.storage.schema import text_of
from ccpml.serving.storage.store import Store
from ccpml.serving.storage.transaction import Facts
from ccpml.serving.storage.verify import damaged_items
from ccpml.serving.storage.view import Views, rows_file

__all__ = ["Writer"]

_PATIENCE: Final = 2.0  # seconds to wait for another writer


class Writer(IndexWriter):
    """What writes to an index in a directory."""

    def __init__(self, folder: Path, name: str, store: Store, views: Views, embedder: Embedder | None) -> None:
        super().__init__(name, embedder)
        self.folder, self.store, self._views = folder, store, views
        self._thread = threading.Lock()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the index, which the system releases if the process dies.

        Raises:
            IndexBusyError: If another thread or process holds it.
            WriteError: If the folder cannot be written.
            DamagedIndexError: If the index that was opened is no longer there.
        """
        self.store.check()
        busy = f"{self._name}: another process is writing to this index; wait for it or stop it"
        if not self._thread.acquire(timeout=_PATIENCE):
            raise IndexBusyError(busy.replace("another process", "another thread"))
        try:
            file = self.folder / "write.lock"
            try:
                held = FileLock(file, timeout=_PATIENCE).acquire(poll_interval=0.02)
            except Timeout:
                raise IndexBusyError(busy) from None
            except OSError as error:
                raise WriteError(error.errno, error.strerror, str(file)) from error
            with held:
                self._remove_leftovers()
                self.store.add_fields()
                yield
        finally:
            self._thread.release()

    def append(self, new: list[NewItem], source: str) -> list[int]:
        """Add items; return their ids once they are on the disk."""
        if not new:
            return []
        with self.store.transaction() as change:
            rows = np.stack([item.vector for item in new])  # (B, d)
            append_rows(rows_file(self.folder, change.generation), change.num_rows, rows)
            return change.insert(new, source)

    def known(self) -> Iterator[Known]:
        """Yield what is known about all items."""
        query = "SELECT id, content_hash, path, size, mtime_ns, label, metadata, source FROM items WHERE NOT removed"
        with self.store.snapshot() as snapshot:
            for key, found, path, size, mtime_ns, label, metadata, source in snapshot.select(query):
                facts = Facts(text_of(path), size, mtime_ns, text_of(label), metadata, text_of(source))
                yield Known(key, found, facts)

    def damaged(self) -> set[int]:
        """Return the ids of items whose rows, facts or thumbnails differ from their checksums."""
        with self._views.now() as view:
            return damaged_items(view)

    def update(self, changes: Sequence[tuple[int, Facts]]) -> None:
        """Change the facts of items, by id."""
        for chunk in in_chunks(changes, CHUNK):
            with self.store.transaction() as change:
                change.update(chunk)

    def remove(self, ids: Iterable[int]) -> int:
        """Remove items; return how many were present."""
        count = 0
        for chunk in in_chunks(ids, CHUNK):
            with self.store.transaction() as change:
                count += change.remove(chunk)
        return count

    def _remove_leftovers(self) -> None:
        """Remove files of rows that a compaction has left when it was interrupted."""
        files = list(self.folder.glob("rows.*.f32"))
        if len(files) > 1:
            with self.store.snapshot() as snapshot:
                current = rows_file(self.folder, snapshot.generation)
            for file in files:
                if file != current:
                    file.unlink(missing_ok=True)
