"""Verification of every file of an index."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from ccpml.serving.embedder import MAX_LENGTH
from ccpml.serving.storage.schema import FIELDS_OF_METADATA, checksum_of_facts, text_of
from ccpml.serving.storage.view import View, Views, rows_file

__all__ = ["Verified", "damaged_items", "verify"]

_LISTED: Final = 100  # problems of one kind at most
_FACTS: Final = "path, label, metadata, content_hash, perceptual_hash, width, height, size, mtime_ns, source"


class Verified(NamedTuple):
    """The result of a verification.

    Attributes:
        items: Number of items.
        problems: A sentence for each thing that is wrong.
        leftovers: A sentence for each thing that an interrupted writer has left, and that the next one removes; one at
            work may have written it, too.
        damaged: Ids of items that differ from their checksums, which the next `Index.sync` embeds again.
    """

    items: int
    problems: list[str]
    leftovers: list[str]
    damaged: set[int]


def verify(folder: Path, views: Views, progress: Callable[[int], Any] | None = None) -> Verified:
    """Compare rows, facts and thumbnails with their checksums and counts; see `Index.verify`."""
    with views.now() as view:
        problems = [
            *_database(view),
            *_items(view, progress or (lambda _: None)),
            *_fields(view),
            *_thumbnails(view),
        ]
        damaged = damaged_items(view) if problems else set()
        count = view.snapshot.num_items
    with views.now() as view:  # another process may have changed the index meanwhile
        return Verified(count, problems, list(_leftovers(folder, view)), damaged)


def damaged_items(view: View) -> set[int]:
    """Return the ids of items whose rows, facts or thumbnails differ from their checksums."""
    query = f"SELECT id, row, checksum, facts, {_FACTS} FROM items WHERE NOT removed"
    found = {
        key
        for key, row, checksum, facts, *values in view.snapshot.select(query)
        if not _is_row(view, row, checksum) or checksum_of_facts(values) != facts
    }
    return found.union(_damaged_thumbnails(view))


def _is_row(view: View, row: int, checksum: int) -> bool:
    """Whether a row is what was written."""
    return 0 <= row < len(view.rows) and zlib.crc32(view.rows[row]) == checksum


def _database(view: View) -> Iterator[str]:
    for (text,) in view.snapshot.select(f"PRAGMA integrity_check({_LISTED})"):
        if text != "ok":
            yield f"index.sqlite: {text}"


def _items(view: View, progress: Callable[[int], Any]) -> Iterator[str]:
    """Yield what is wrong with rows and facts; every row in use belongs to an item, or to one that was removed.

    What a removed item has left may be damaged: nothing reads it.
    """
    expected = count = listed = 0
    query = f"SELECT id, row, checksum, removed, facts, {_FACTS} FROM items ORDER BY row"
    for key, row, checksum, removed, facts, *values in view.snapshot.select(query):
        name = f"item {key} ({text_of(values[0])})"
        found = list[str]()
        if row != expected:
            found.append(f"{name}: expected row {expected}, got {row}")
        if not 0 <= row < len(view.rows):
            found.append(f"{name}: row {row} is outside the file of rows")
        elif removed:
            pass
        elif not _is_row(view, row, checksum):
            found.append(f"{name}: row {row} differs from its checksum")
        elif not float(np.linalg.norm(view.rows[row])) <= MAX_LENGTH:  # NaN too
            found.append(f"{name}: row {row} is not an embedding of length 1 or less")
        if not removed and checksum_of_facts(values) != facts:
            found.append(f"{name}: path, label or another column differs from its checksum")
        expected, count = row + 1, count + (not removed)
        listed += len(found)
        if listed <= _LISTED:
            yield from found
        progress(1)
    if listed > _LISTED:
        yield f"{listed - _LISTED:,} more rows and items are damaged"
    if expected != len(view.rows):
        yield f"expected {len(view.rows):,} rows of items, got {expected:,}"
    if count != view.snapshot.num_items:
        yield f"expected {view.snapshot.num_items:,} items, got {count:,}"


def _fields(view: View) -> Iterator[str]:
    """Yield whether the table by which metadata is filtered is that of the metadata."""
    if not view.snapshot.has_fields():
        return
    kept = "SELECT key, type, value, id FROM fields WHERE id IN (SELECT id FROM items WHERE NOT removed)"
    for one, other in ((FIELDS_OF_METADATA, kept), (kept, FIELDS_OF_METADATA)):
        if next(view.snapshot.select(f"SELECT 1 FROM ({one} EXCEPT {other})"), None):
            yield "index.sqlite: the fields for filters differ from the metadata; a compaction writes them again"
            return


def _thumbnails(view: View) -> Iterator[str]:
    damaged = _damaged_thumbnails(view)
    yield from (f"item {key}: its thumbnail is missing or differs from its checksum" for key in damaged[:_LISTED])
    if len(damaged) > _LISTED:
        yield f"{len(damaged) - _LISTED:,} more thumbnails are damaged"


def _damaged_thumbnails(view: View) -> list[int]:
    """Return the ids of items whose thumbnails are missing, or differ from their checksums."""
    query = (
        "SELECT items.id, thumbnails.checksum, jpeg FROM items LEFT JOIN thumbnails ON items.id = thumbnails.id "
        "WHERE NOT removed"
    )
    return [key for key, checksum, jpeg in view.snapshot.select(query) if jpeg is None or zlib.crc32(jpeg) != checksum]


def _leftovers(folder: Path, view: View) -> Iterator[str]:
    current = rows_file(folder, view.snapshot.generation)
    for file in sorted(folder.glob("rows.*.f32")):
        if file != current:
            yield f"{file.name}: being written now, or left by an interrupted compaction for the next change to remove"
    size, used = view.rows.nbytes, view.rows.nbytes
    with suppress(FileNotFoundError):  # compacted just now
        size = current.stat().st_size
    if size > used:
        yield (
            f"{current.name}: {size - used:,} bytes are being written now, or were left by an interrupted writer, in "
            "which case the next change removes them"
        )
