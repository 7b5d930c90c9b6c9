"""What readers see of the database of an index: one state, from beginning to end."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import as_int
from ccpml.serving.items import Item
from ccpml.serving.storage.schema import FIELDS_OF_METADATA, ITEM, item_of, text_to_store

__all__ = ["Snapshot"]


class Snapshot:
    """One state of the database of an index in a folder.

    Attributes:
        generation: Number of the file of rows.
        version: Number of the last transaction.
        num_rows: Rows in use, those of removed items included.
        num_items: Number of items.
    """

    def __init__(self, db: sqlite3.Connection, folder: Path) -> None:
        self._db, self._folder = db, folder
        query = "SELECT generation, version, num_rows, num_items FROM state"
        self.generation, self.version, self.num_rows, self.num_items = map(int, db.execute(query).fetchone())

    def meta(self) -> dict[str, str]:
        """Return the facts about the index."""
        return dict(self._db.execute("SELECT key, value FROM meta"))

    def removed_since(self, version: int) -> NDArray[np.int64]:
        """Return rows of items removed after a version, and the version that removed each: int64, (R, 2)."""
        found = self._db.execute("SELECT row, removed FROM items WHERE removed > ?", (version,)).fetchall()
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def rows_where(self, condition: str, parameters: Sequence[Any]) -> NDArray[np.int64]:
        """Return the rows of items that meet a condition of SQL on the columns of items, ascending: int64, (M,).

        Args:
            condition: An expression with ``?`` for each value, perhaps on the table of fields; never text of a user.
            parameters: The values.
        """
        fields = "" if self.has_fields() else f"WITH fields AS ({FIELDS_OF_METADATA}) "
        query = f"{fields}SELECT row FROM items WHERE NOT removed AND ({condition}) ORDER BY row"
        found = self._db.execute(query, tuple(parameters)).fetchall()
        return np.fromiter((row for (row,) in found), dtype=np.int64, count=len(found))

    def has_fields(self) -> bool:
        """Whether there is a table of fields of metadata."""
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'fields'"
        return self._db.execute(query).fetchone() is not None

    def items_of_rows(self, rows: Iterable[int]) -> dict[int, Item]:
        """Return the items of some rows."""
        wanted = json.dumps([int(row) for row in rows])
        query = f"SELECT row, {ITEM} FROM items WHERE row IN (SELECT value FROM json_each(?))"
        return {row: item_of(rest, self._folder) for row, *rest in self._db.execute(query, (wanted,))}

    def items(self, after: int = 0, limit: int = -1) -> list[Item]:
        """Return up to ``limit`` items with ids above ``after``, by id; all if it is negative."""
        query = f"SELECT {ITEM} FROM items WHERE NOT removed AND id > ? ORDER BY id LIMIT ?"
        bounds = as_int("after", after), as_int("limit", limit)
        return [item_of(values, self._folder) for values in self._db.execute(query, bounds)]

    def find(self, key: int) -> tuple[int, Item] | None:
        """Return the row and the item of an id; None if it is absent or removed."""
        if not -(2**63) <= (key := as_int("id", key)) < 2**63:  # one of NumPy is no integer to SQLite
            return None
        found = self._db.execute(f"SELECT row, {ITEM} FROM items WHERE id = ? AND NOT removed", (key,)).fetchone()
        return None if found is None else (found[0], item_of(found[1:], self._folder))

    def at(self, path: str) -> Item | None:
        """Return the item of a file; None if there is none."""
        query = f"SELECT {ITEM} FROM items WHERE path = ? AND NOT removed"
        found = self._db.execute(query, (text_to_store(path),)).fetchone()
        return None if found is None else item_of(found, self._folder)

    def thumbnail(self, key: int) -> bytes | None:
        """Return the thumbnail of an id, a JPEG; None if it is absent or removed."""
        if not -(2**63) <= (key := as_int("id", key)) < 2**63:
            return None
        found = self._db.execute("SELECT jpeg FROM thumbnails WHERE id = ?", (key,)).fetchone()
        return None if found is None else bytes(found[0])

    def num_labels(self) -> int:
        """Return the number of distinct labels, without the empty one."""
        query = "SELECT count(DISTINCT label) FROM items WHERE NOT removed AND label <> ''"
        return int(self._db.execute(query).fetchone()[0])

    def columns(self) -> list[str]:
        """Return the names of the columns of metadata, sorted."""
        return [name for (name,) in self._db.execute("SELECT name FROM columns ORDER BY name")]

    def some_ids(self, count: int) -> list[int]:
        """Return up to ``count`` ids, spread over the index."""
        first, last = self._db.execute("SELECT min(id), max(id) FROM items WHERE NOT removed").fetchone()
        if first is None:
            return []
        query, ids = "SELECT min(id) FROM items WHERE NOT removed AND id >= ?", set[int]()
        for wanted in np.linspace(first, last, max(count, 1)).astype(int).tolist():
            ids.add(int(self._db.execute(query, (wanted,)).fetchone()[0]))
        return sorted(ids)[:count]

    def select(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query."""
        yield from self._db.execute(query, tuple(parameters))
