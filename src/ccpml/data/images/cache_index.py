"""Index of a cache of packed images: the position of each image, and the state of the file it was made from."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from ccpml.files import load_json, write_text
from ccpml.system_errors import raise_shortage, unreadable

__all__ = [
    "VERSION",
    "CacheError",
    "Entry",
    "Index",
    "entry_from",
    "file_state",
    "index_key",
    "load_index",
    "read_index",
    "write_index",
]

#: Version of the format; increase it when the index, the pack or the pixels change.
VERSION: Final = 3

_NAME: Final = "index.json"


_WAY_OUT: Final = "build it again, or remove it"


class CacheError(ValueError):
    """A cache that is missing, damaged or out of date."""

    @classmethod
    def of(cls, folder: Path, reason: str) -> Self:
        """Return the error of the cache in a folder."""
        return cls(f"{folder}: cache cannot be used: {reason}; {_WAY_OUT}")


class Entry(NamedTuple):
    """An image of a cache: the state of its file, and the position of its pixels in the pack.

    ``key`` is the file, relative to the folder of the images. ``crc32`` and ``sum64`` are checksums of the pixels, -1
    before they are packed: the first is compared when a cache is built or verified, the second, which takes a tenth of
    the time, when an image is read.
    """

    key: str
    size: int
    mtime_ns: int
    offset: int
    height: int
    width: int
    channels: int
    crc32: int = -1
    sum64: int = -1

    @property
    def length(self) -> int:
        """Number of bytes of its pixels."""
        return self.height * self.width * self.channels

    @property
    def padded(self) -> int:
        """Number of bytes that they take in the pack, where each image begins at a multiple of eight."""
        return -(-self.length // 8) * 8

    @property
    def plan(self) -> "Entry":
        """Entry without its checksums: what is known before the pixels are read."""
        return self._replace(crc32=-1, sum64=-1)


class Index(NamedTuple):
    """The images of a cache, in the order of their pixels; larger images were reduced to the shorter side ``side``."""

    side: int
    entries: Sequence[Entry]

    @property
    def size(self) -> int:
        """Number of bytes of the pack."""
        return sum(entry.padded for entry in self.entries)

    @property
    def pack_name(self) -> str:
        """Name of the packed file; it depends on the images and their positions."""
        text = json.dumps([VERSION, self.side, [entry[:-2] for entry in self.entries]])
        return f"pixels-{hashlib.sha256(text.encode()).hexdigest()[:16]}.bin"


def index_key(path: Path, folder: Path) -> str:
    """Return the name of a file in an index: relative to the folder if its path begins with it, else absolute.

    Example:
        >>> index_key(Path("birds/images/1.jpg"), Path("birds"))
        'images/1.jpg'
    """
    text, base = os.fspath(path), os.fspath(folder)
    prefix = "" if base == os.curdir else base.removesuffix(os.sep) + os.sep
    if text.startswith(prefix) and not (prefix == "" and path.is_absolute()):
        return text[len(prefix) :].replace(os.sep, "/")
    return path.absolute().as_posix()


def file_state(path: Path) -> tuple[int, int] | None:
    """Return size and time of last change of a file; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- a third faster, for hundreds of thousands of files
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def write_index(folder: Path, index: Index) -> None:
    """Write the index of the cache in a folder."""
    head = json.dumps({"version": VERSION, "side": index.side, "pack": index.pack_name, "bytes": index.size})
    lines = ",\n".join(json.dumps(entry) for entry in index.entries)
    write_text(folder / _NAME, f'{head[:-1]}, "images": [\n{lines}\n]}}\n', sync=True)


def load_index(folder: Path) -> Index:
    """Read the index of the cache in a folder; raise a ``CacheError`` if it is missing or invalid."""
    file = folder / _NAME
    try:
        content = load_json(file)
        if content["version"] != VERSION:
            raise ValueError(f"version: expected {VERSION}, got {content['version']!r}")
        index = Index(content["side"], [entry_from(row) for row in content["images"]])
        if content["pack"] != index.pack_name:
            raise ValueError("images and name of the packed file do not match")
    except OSError as error:
        raise_shortage(error)
        raise CacheError(f"{folder}: cache cannot be used: {unreadable(file, error, _WAY_OUT)}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CacheError.of(folder, f"{file.name} is invalid ({error})") from error
    return index


def read_index(folder: Path) -> Index:
    """Read the index like ``load_index``, and check that the packed file can be read, and its size."""
    index = load_index(folder)
    pack = folder / index.pack_name
    size = pack.stat().st_size if pack.is_file() else None
    try:
        if size is not None:
            pack.open("rb").close()
    except OSError as error:
        raise_shortage(error)
        raise CacheError(f"{folder}: cache cannot be used: {unreadable(pack, error, _WAY_OUT)}") from error
    if size != index.size:
        got = "not found" if size is None else f"expected {index.size:,} bytes, got {size:,}"
        raise CacheError.of(folder, f"{pack.name}: {got}")
    return index


def entry_from(row: Any) -> Entry:
    """Return the entry that a parsed line describes; raise a ``ValueError`` if it describes none."""
    valid = (
        isinstance(row, list)
        and len(row) == len(Entry._fields)
        and isinstance(row[0], str)
        and all(type(number) is int and number >= 0 for number in (row[1], *row[3:]))
        and type(row[2]) is int
        and row[4] > 0 < row[5]
        and row[6] in {1, 3}
    )
    if not valid:
        raise ValueError(f"expected the entry of an image, got {row!r:.80}")
    return Entry(*row)
