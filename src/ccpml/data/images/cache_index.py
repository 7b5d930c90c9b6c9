"""The index of a cache of packed images: which image lies where, and the state of the file that it was made from."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ccpml.data.images.packed import PackedImage

__all__ = [
    "VERSION",
    "Entry",
    "Index",
    "entry_from",
    "file_state",
    "index_key",
    "load_index",
    "read_index",
    "write_index",
]

#: Raised when the format of index or pack, or the way from file to pixels, changes.
VERSION: Final = 1

_NAME = "index.json"


class Entry(NamedTuple):
    """An image of a cache.

    Attributes:
        key: Its file, relative to the cache's source folder.
        size: Bytes of the file.
        mtime_ns: When the file was last changed.
        offset: First byte of its pixels in the pack.
        height: H.
        width: W.
        channels: C: 1 for grey, 3 for RGB.
        crc32: Checksum of its pixels; -1 while they are not packed.
    """

    key: str
    size: int
    mtime_ns: int
    offset: int
    height: int
    width: int
    channels: int
    crc32: int = -1

    def packed(self, path: Path, pack: Path) -> PackedImage:
        """Give the image as a table holds it."""
        return PackedImage(path, pack, self.offset, self.height, self.width, self.channels)

    @property
    def length(self) -> int:
        """Bytes of its pixels."""
        return self.height * self.width * self.channels

    @property
    def plan(self) -> "Entry":
        """The entry without its checksum: what is known before the pixels."""
        return self._replace(crc32=-1)


class Index(NamedTuple):
    """A cache's images, in the order of their pixels.

    Attributes:
        side: Length of the shorter side of images that were larger.
        entries: The images.
    """

    side: int
    entries: Sequence[Entry]

    @property
    def size(self) -> int:
        """Bytes of the pack."""
        return sum(entry.length for entry in self.entries)

    @property
    def pack_name(self) -> str:
        """Name of the packed file: other images, or the same elsewhere in it, make another name."""
        text = json.dumps([VERSION, self.side, [entry[:-1] for entry in self.entries]])
        return f"pixels-{hashlib.sha256(text.encode()).hexdigest()[:16]}.bin"


def index_key(path: Path, folder: Path) -> str:
    """Name a file in an index: relative to the source folder where it is written so, else absolute.

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
    """Give size and time of change of a file; None if it is gone."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- a third faster, for hundreds of thousands of files
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def write_index(folder: Path, index: Index) -> None:
    """Write the index of the cache in a folder, whole."""
    head = json.dumps({"version": VERSION, "side": index.side, "pack": index.pack_name, "bytes": index.size})
    lines = ",\n".join(json.dumps(entry) for entry in index.entries)
    temporary = folder / f"{_NAME}.tmp"
    with temporary.open("w", encoding="ascii") as file:
        file.write(f'{head[:-1]}, "images": [\n{lines}\n]}}\n')
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _NAME)


def load_index(folder: Path) -> Index:
    """Read the index of the cache in a folder.

    Raises:
        ValueError: If it is not sound; the message names the file.
    """
    file = folder / _NAME
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']!r} and not {VERSION}")
        index = Index(content["side"], _entries(content["images"]))
        if content["pack"] != index.pack_name:
            raise ValueError("its parts do not fit together")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{file}: not a sound index ({error})") from error
    return index


def read_index(folder: Path) -> Index:
    """Read the index of the cache in a folder, and check that the packed file is as long as it says.

    Raises:
        ValueError: If either is damaged; the message names the file.
    """
    index = load_index(folder)
    pack = folder / index.pack_name
    size = pack.stat().st_size if pack.is_file() else None
    if size != index.size:
        why = "is missing" if size is None else f"has {size:,} bytes and not {index.size:,}"
        raise ValueError(f"{pack}: {why}")
    return index


def _entries(rows: Iterable[Any]) -> list[Entry]:
    entries, end = list[Entry](), 0
    for row in rows:
        entry = entry_from(row)
        if entry is None or entry.offset != end:
            raise ValueError(f"image {len(entries)} is not well described")
        entries.append(entry)
        end += entry.length
    return entries


def entry_from(row: Any) -> Entry | None:
    """Make an entry of what a line held; None if it is none."""
    well = (
        isinstance(row, list)
        and len(row) == len(Entry._fields)
        and isinstance(row[0], str)
        and all(type(number) is int and number >= 0 for number in (row[1], *row[3:]))
        and type(row[2]) is int
        and row[4] > 0 < row[5]
        and row[6] in {1, 3}
    )
    return Entry(*row) if well else None
