"""The tables of an index, in SQLite: what is acknowledged is on the disk."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.serving.items import Item
from ccpml.serving.pictures import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NewItem", "Store"]

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL UNIQUE,          -- of the file of rows
    checksum INTEGER NOT NULL,            -- CRC-32 of the row
    removed INTEGER NOT NULL DEFAULT 0,   -- a tombstone: the row stays until the index is compacted
    path TEXT NOT NULL,
    label TEXT NOT NULL,
    metadata TEXT NOT NULL,               -- a JSON object
    content_hash TEXT NOT NULL,
    perceptual_hash TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    size INTEGER NOT NULL,                -- of the file in bytes
    mtime_ns INTEGER NOT NULL,            -- when the file was changed
    thumbnail BLOB NOT NULL               -- a JPEG
);
CREATE INDEX items_path ON items (path) WHERE NOT removed;
CREATE INDEX items_removed ON items (row) WHERE removed;
"""
_ITEM: Final = "id, path, label, metadata, content_hash, perceptual_hash, width, height"


class NewItem(NamedTuple):
    """An item to insert: its file, size and time of change, label, metadata, digest and embedding, float32 (d,)."""

    path: str
    size: int
    mtime_ns: int
    label: str
    metadata: dict[str, Any]
    digest: Digest
    vector: NDArray[np.float32]


class Store:
    """The database of an index. One connection, for one thread at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._db = sqlite3.connect(file, isolation_level=None, timeout=30, check_same_thread=False)
        self._db.execute("PRAGMA synchronous=FULL")

    @classmethod
    def create(cls, file: Path, meta: dict[str, str]) -> "Store":
        """Create the database, which must not exist."""
        store = cls(file)
        store._db.execute("PRAGMA journal_mode=WAL")
        with store.transaction():
            for statement in _SCHEMA.split(";\n"):
                store._db.execute(statement)
            store._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        return store

    @contextmanager
    def transaction(self) -> "Iterator[None]":
        """Commit what is done within, or nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self) -> dict[str, str]:
        """Return the facts about the index."""
        return dict(self._db.execute("SELECT key, value FROM meta"))

    def num_rows(self) -> int:
        """Return the number of rows in use, tombstones included."""
        return int(self._db.execute("SELECT coalesce(max(row) + 1, 0) FROM items").fetchone()[0])

    def num_items(self) -> int:
        """Return the number of items."""
        return int(self._db.execute("SELECT count(*) FROM items WHERE NOT removed").fetchone()[0])

    def labels(self) -> int:
        """Return the number of distinct labels, without the empty one."""
        query = "SELECT count(DISTINCT label) FROM items WHERE NOT removed AND label != ''"
        return int(self._db.execute(query).fetchone()[0])

    def columns(self) -> list[str]:
        """Return the names of the columns of metadata, sorted."""
        query = "SELECT DISTINCT key FROM items, json_each(items.metadata) WHERE NOT removed ORDER BY key"
        return [key for (key,) in self._db.execute(query)]

    def some_ids(self, count: int) -> list[int]:
        """Return up to ``count`` ids, spread over the index."""
        step = max(1, self.num_items() // max(count, 1))
        query = (
            "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM items WHERE NOT removed) "
            "WHERE number % ? = 0 LIMIT ?"
        )
        return [key for (key,) in self._db.execute(query, (step, count))]

    def insert(self, start: int, items: Sequence[NewItem]) -> list[int]:
        """Insert items whose rows begin at ``start``; return their ids."""
        ids = []
        for row, item in enumerate(items, start):
            cursor = self._db.execute(
                "INSERT INTO items (row, checksum, path, label, metadata, content_hash, perceptual_hash, width, height,"
                " size, mtime_ns, thumbnail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row,
                    zlib.crc32(item.vector.tobytes()),
                    item.path,
                    item.label,
                    json.dumps(item.metadata, ensure_ascii=False),
                    item.digest.content_hash,
                    item.digest.perceptual_hash,
                    item.digest.width,
                    item.digest.height,
                    item.size,
                    item.mtime_ns,
                    item.digest.thumbnail,
                ),
            )
            ids.append(int(cursor.lastrowid or 0))
        return ids

    def remove(self, ids: Iterable[int]) -> int:
        """Mark items as removed; return how many were present."""
        cursor = self._db.executemany(
            "UPDATE items SET removed = 1, thumbnail = x'' WHERE id = ? AND NOT removed", ((key,) for key in ids)
        )
        return cursor.rowcount

    def removed_rows(self) -> NDArray[np.int64]:
        """Return the rows of tombstones, ascending: int64, (R,)."""
        found = self._db.execute("SELECT row FROM items WHERE removed ORDER BY row").fetchall()
        return np.array([row for (row,) in found], dtype=np.int64)

    def items_of_rows(self, rows: Iterable[int]) -> dict[int, Item]:
        """Return the items of some rows."""
        wanted = json.dumps([int(row) for row in rows])
        query = f"SELECT row, {_ITEM} FROM items WHERE row IN (SELECT value FROM json_each(?))"
        return {row: _item(rest) for row, *rest in self._db.execute(query, (wanted,))}

    def find(self, key: int) -> tuple[int, Item] | None:
        """Return the row and the item of an id; None if it is absent or removed."""
        found = self._db.execute(f"SELECT row, {_ITEM} FROM items WHERE id = ? AND NOT removed", (key,)).fetchone()
        return None if found is None else (found[0], _item(found[1:]))

    def thumbnail(self, key: int) -> bytes | None:
        """Return the thumbnail of an id, a JPEG; None if it is absent or removed."""
        found = self._db.execute("SELECT thumbnail FROM items WHERE id = ? AND NOT removed", (key,)).fetchone()
        return None if found is None else bytes(found[0])

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _item(values: Sequence[Any]) -> Item:
    key, path, label, metadata, *rest = values
    return Item(key, path, label, json.loads(metadata), *rest)
