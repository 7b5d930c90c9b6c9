"""The tables of an index, and how items are written into and read from their rows."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ccpml.serving.items import Item, own_picture

__all__ = [
    "BUILD",
    "FIELDS",
    "FIELDS_OF_METADATA",
    "ITEM",
    "SCHEMA",
    "VERSION",
    "checksum_of_facts",
    "item_of",
    "metadata_text",
    "text_of",
    "text_to_store",
]

VERSION: Final = "1"

BUILD: Final = "build"
"""Key of the text, drawn when an index is created, that tells it from others; those of earlier versions have none."""

SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE state (                      -- one row, changed by every transaction
    generation INTEGER NOT NULL,          -- of the file of rows; each compaction begins another one
    version INTEGER NOT NULL,             -- number of transactions
    num_rows INTEGER NOT NULL,            -- rows in use, those of removed items included
    num_items INTEGER NOT NULL
);
INSERT INTO state VALUES (1, 1, 0, 0);
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL UNIQUE,          -- of the file of rows
    checksum INTEGER NOT NULL,            -- CRC-32 of the row
    removed INTEGER NOT NULL DEFAULT 0,   -- 0, or the version that removed it: the row stays until a compaction
    path TEXT NOT NULL,                   -- a BLOB if it is not UTF-8
    label TEXT NOT NULL,                  -- likewise
    metadata TEXT NOT NULL,               -- a JSON object
    content_hash TEXT NOT NULL,
    perceptual_hash TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    size INTEGER NOT NULL,                -- of the file in bytes
    mtime_ns INTEGER NOT NULL,            -- when the file was changed
    source TEXT NOT NULL,                 -- the data that the item was found in
    facts INTEGER NOT NULL                -- CRC-32 of path to source
);
CREATE UNIQUE INDEX items_path ON items (path) WHERE NOT removed;
CREATE INDEX items_label ON items (label) WHERE NOT removed;
CREATE INDEX items_removed ON items (removed, row) WHERE removed;
CREATE TABLE columns (name TEXT PRIMARY KEY) WITHOUT ROWID;  -- of metadata, those of removed items until a compaction
CREATE TABLE thumbnails (id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, jpeg BLOB NOT NULL);
"""

FIELDS_OF_METADATA: Final = """
SELECT key, type, atom AS value, items.id AS id
FROM items, json_each(CASE WHEN json_valid(metadata) THEN metadata ELSE '{}' END)
WHERE atom IS NOT NULL AND NOT removed
"""
"""What the table of fields holds."""

FIELDS: Final = f"""
CREATE TABLE fields (                     -- of metadata, without nulls, for filters; removed items until a compaction
    key TEXT NOT NULL,
    type TEXT NOT NULL,                   -- of json_each
    value NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (key, type, value, id)
) WITHOUT ROWID;
CREATE TRIGGER items_added AFTER INSERT ON items BEGIN
    INSERT INTO fields SELECT key, type, atom, new.id FROM json_each(new.metadata) WHERE atom IS NOT NULL;
END;
CREATE TRIGGER items_changed AFTER UPDATE OF metadata ON items WHEN new.metadata <> old.metadata BEGIN
    DELETE FROM fields WHERE (key, type, value, id) IN (
        SELECT key, type, atom, old.id FROM json_each(old.metadata) WHERE atom IS NOT NULL
    );
    INSERT INTO fields SELECT key, type, atom, new.id FROM json_each(new.metadata) WHERE atom IS NOT NULL;
END;
INSERT INTO fields {FIELDS_OF_METADATA};
"""
"""The table of fields, kept by triggers; indexes of before it get it from the first writer."""

ITEM: Final = "id, path, label, metadata, content_hash, perceptual_hash, width, height"
"""Columns from which `item_of` makes an item."""


def text_to_store(text: str) -> str | bytes:
    """Return text as it is stored: as it is, or the bytes of a file name that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def text_of(stored: str | bytes) -> str:
    """Return stored text."""
    return stored if isinstance(stored, str) else os.fsdecode(stored)


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return metadata as JSON."""
    return json.dumps(dict(metadata), allow_nan=False)


def checksum_of_facts(facts: Sequence[str | bytes | int]) -> int:
    """Return the CRC-32 of the stored values of the columns path, ..., source."""
    parts = [value if isinstance(value, bytes) else str(value).encode() for value in facts]
    return zlib.crc32(b"\0".join(parts))


def item_of(values: Sequence[Any], folder: Path) -> Item:
    """Return the item of the columns `ITEM` of an index in a folder."""
    key, path, label, metadata, content_hash, *rest = values
    place = own_picture(folder, text_of(path), content_hash)
    return Item(key, place, text_of(label), json.loads(metadata), content_hash, *rest)
