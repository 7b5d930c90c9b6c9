"""Changes of the database of an index."""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.serving.pictures import Digest, NewItem
from ccpml.serving.storage.schema import FIELDS_OF_METADATA, checksum_of_facts, metadata_text, text_to_store
from ccpml.serving.storage.snapshot import Snapshot

__all__ = ["Facts", "Transaction"]

_FACTS = "path, label, metadata, content_hash, perceptual_hash, width, height, size, mtime_ns, source"


class Facts(NamedTuple):
    """What may change of an item that keeps its contents: its file, its state, label, metadata and source."""

    path: str
    size: int
    mtime_ns: int
    label: str
    metadata: str  # JSON
    source: str


class Transaction(Snapshot):
    """A transaction under way, in which the state is what it began with until `finish` is called."""

    def insert(self, items: Sequence[NewItem], source: str) -> list[int]:
        """Insert items behind the rows in use, in place of items with the same path; return their ids."""
        ids = []
        for item in items:
            facts = Facts(item.path, item.size, item.mtime_ns, item.label, metadata_text(item.metadata), source)
            stored = _stored(facts, item.digest)
            self._remove("path = ?", (stored[0],))
            cursor = self._db.execute(
                f"INSERT INTO items (row, checksum, {_FACTS}, facts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self.num_rows, zlib.crc32(item.vector.tobytes()), *stored, checksum_of_facts(stored)),
            )
            key, thumbnail = int(cursor.lastrowid or 0), item.digest.thumbnail
            self._db.execute("INSERT INTO thumbnails VALUES (?, ?, ?)", (key, zlib.crc32(thumbnail), thumbnail))
            self._add_columns(facts)
            ids.append(key)
            self.num_rows += 1
            self.num_items += 1
        return ids

    def update(self, changes: Iterable[tuple[int, Facts]]) -> None:
        """Change the facts of items, by id."""
        for key, facts in changes:
            query = "SELECT content_hash, perceptual_hash, width, height FROM items WHERE id = ?"
            content_hash, perceptual_hash, width, height = self._db.execute(query, (key,)).fetchone()
            digest = Digest(content_hash, perceptual_hash, width, height, b"")
            stored = _stored(facts, digest)
            self._remove("path = ? AND id <> ?", (stored[0], key))
            self._add_columns(facts)
            columns = ", ".join(f"{name} = ?" for name in _FACTS.split(", "))
            values = (*stored, checksum_of_facts(stored), key)
            self._db.execute(f"UPDATE items SET {columns}, facts = ? WHERE id = ?", values)

    def remove(self, ids: Iterable[int]) -> int:
        """Mark items as removed; return how many were present."""
        return sum(self._remove("id = ?", (key,)) for key in ids if -(2**63) <= key < 2**63)

    def _add_columns(self, facts: Facts) -> None:
        if facts.metadata != "{}":
            self._db.execute("INSERT OR IGNORE INTO columns SELECT key FROM json_each(?)", (facts.metadata,))

    def _remove(self, condition: str, values: tuple[Any, ...]) -> int:
        found = self._db.execute(f"SELECT id FROM items WHERE NOT removed AND {condition}", values).fetchall()
        for identity in found:
            self._db.execute("UPDATE items SET removed = ? WHERE id = ?", (self.version + 1, *identity))
            self._db.execute("DELETE FROM thumbnails WHERE id = ?", identity)
        self.num_items -= len(found)
        return len(found)

    def kept_rows(self) -> NDArray[np.int64]:
        """Return the rows of all items, ascending: int64, (num_items,)."""
        return self.rows_where("true", ())

    def renumber(self, kept: NDArray[np.int64]) -> None:
        """Delete what was removed, and give the kept rows, ascending, the numbers 0, 1, ... in a new generation."""
        self._db.execute("DELETE FROM items WHERE removed")
        self._db.execute("DELETE FROM columns")
        self._db.execute("INSERT INTO columns SELECT DISTINCT key FROM items, json_each(items.metadata)")
        new = ((number, row) for number, row in enumerate(kept.tolist()) if number != row)
        self._db.executemany("UPDATE items SET row = ? WHERE row = ?", new)  # ascending: each number is free by then
        self.num_rows = len(kept)
        self.generation += 1

    def write_fields(self) -> None:
        """Write the table of fields again."""
        self._db.execute("DELETE FROM fields")
        self._db.execute(f"INSERT INTO fields {FIELDS_OF_METADATA}")

    def finish(self) -> None:
        """Write the state."""
        self.version += 1
        self._db.execute(
            "UPDATE state SET generation = ?, version = ?, num_rows = ?, num_items = ?",
            (self.generation, self.version, self.num_rows, self.num_items),
        )


def _stored(facts: Facts, digest: Digest) -> tuple[str | bytes | int, ...]:
    """Return the values of the columns path, ..., source."""
    return (
        text_to_store(facts.path),
        text_to_store(facts.label),
        facts.metadata,
        digest.content_hash,
        digest.perceptual_hash,
        digest.width,
        digest.height,
        facts.size,
        facts.mtime_ns,
        text_to_store(facts.source),
    )
