"""Facts by which copies of pictures are recognized: digests of their files, perceptual hashes, small pictures."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.artifacts import read_file
from ccpml.cleaning.pixels import likeness
from ccpml.data import BadImage, ImageTable, PackedImage, read_image
from ccpml.data.images.archived import ArchivedImage, read_archived
from ccpml.data.images.read import BadImageError, read_header
from ccpml.data.threads import in_threads
from ccpml.progress import progress_bar
from ccpml.serving.pictures import content_hash, perceptual_hash
from ccpml.system_errors import raise_shortage

__all__ = ["Collection", "Facts", "PictureComparison", "read_facts"]

_SIDE: Final = 128
"""Longer side of the pictures that are compared."""

_SMALL: Final = 16
"""Side of the pictures that are kept of all."""

_CACHED: Final = 1024
"""Pictures that a comparison keeps."""


@dataclass(frozen=True)
class Collection:
    """Pictures of one or two tables, numbered in order: the data, and perhaps a pool of others.

    Attributes:
        tables: The tables.
    """

    tables: Sequence[ImageTable]

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def _find(self, row: int) -> tuple[ImageTable, int]:
        for table in self.tables:
            if row < len(table):
                return table, row
            row -= len(table)
        raise IndexError("row: expected the number of a picture")

    def name(self, row: int) -> str:
        """Return the name of a picture: its path, or the set and its number or name in it."""
        table, own = self._find(row)
        return table.name_of(own)

    def content(self, row: int) -> bytes | NDArray[np.uint8]:
        """Return the contents of the file of a picture; its pixels, if it is in no file.

        Raises:
            BadImageError: If the file cannot be opened, or is empty.
        """
        table, own = self._find(row)
        image = table.images[own]
        if isinstance(image, np.ndarray):
            return image
        path = image.path if isinstance(image, PackedImage) else image
        try:
            data = read_archived(path) if isinstance(path, ArchivedImage) else read_file(path)
        except OSError as error:
            raise_shortage(error)
            raise BadImageError(f"cannot be opened ({error.strerror or error})", self.name(row)) from error
        except ValueError as error:
            raise BadImageError(str(error), self.name(row)) from error
        if not data:
            raise BadImageError("the file is empty", self.name(row))
        return data

    def path(self, row: int) -> Path | None:
        """Return the path of a picture; None if it is in no file of its own."""
        table, own = self._find(row)
        image = table.images[own]
        found = image.path if isinstance(image, PackedImage) else image
        return found if isinstance(found, Path) else None

    def small(self, row: int, side: int = _SIDE) -> Image.Image:
        """Return a picture in color, reduced to a longer side.

        Raises:
            BadImageError: If it cannot be read.
        """
        return self._reduced(row, self.content(row), side)

    def _reduced(self, row: int, content: bytes | NDArray[np.uint8], side: int) -> Image.Image:
        try:
            pixels = read_image(content, 3, min_size=2 * side, rotate=self._find(row)[0].rotate)
        except BadImageError as error:
            raise BadImageError(error.reason, self.name(row)) from error
        image = Image.fromarray(pixels)
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return image

    def facts(self, row: int) -> "_Fact":
        """Read a picture, and return what copies are recognized by.

        Raises:
            BadImageError: If it cannot be read.
        """
        content = self.content(row)
        image = self._reduced(row, content, _SIDE)
        if isinstance(content, bytes):
            header = read_header(content, self._find(row)[0].rotate)
            key, size = content_hash(content), (header.height, header.width)
        else:
            shape = content.shape
            key, size = hashlib.sha256(f"{shape}".encode() + content.tobytes()).hexdigest(), (shape[0], shape[1])
        number = int(perceptual_hash(np.asarray(image)), 16)
        tiny = np.asarray(image.resize((_SMALL, _SMALL), Image.Resampling.BOX))
        return _Fact(key, number, size, tiny)


@dataclass(frozen=True)
class _Fact:
    key: str
    perceptual_hash: int
    size: tuple[int, int]
    tiny: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Facts:
    """What copies of N pictures are recognized by.

    Attributes:
        content_hashes: SHA-256 of each file, in hexadecimal.
        perceptual_hashes: 64 bits of each picture, nearly equal for copies: uint64, (N,).
        sizes: Height and width, upright: int64, (N, 2).
        tiny: The pictures in 16 × 16 pixels: uint8, (N, 16, 16, 3).
    """

    content_hashes: Sequence[str]
    perceptual_hashes: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    tiny: NDArray[np.uint8]


def read_facts(table: ImageTable) -> tuple[ImageTable, Facts, list[BadImage]]:
    """Read each picture of a table once, in threads, with a progress bar.

    Returns:
        The table without pictures that cannot be read, facts about those that can, and those that cannot.

    Raises:
        ValueError: If none can be read.
    """
    collection = Collection([table])

    def read(row: int) -> _Fact | BadImageError:
        try:
            return collection.facts(row)
        except BadImageError as error:
            return error

    found, bad = list[_Fact](), list[BadImage]()
    for row, fact in progress_bar(len(table), "image", "reading", over=in_threads(read, range(len(table)))):
        if isinstance(fact, BadImageError):
            bad.append(BadImage(row, table.name_of(row), fact.reason))
        else:
            found.append(fact)
    if not found:
        raise ValueError(
            f"{bad[0].name}: {bad[0].reason}; expected at least one image that can be read, got none of {len(table):,}"
        )
    facts = Facts(
        [fact.key for fact in found],
        np.array([fact.perceptual_hash for fact in found], dtype=np.uint64),
        np.array([fact.size for fact in found], dtype=np.int64),
        np.stack([fact.tiny for fact in found]),
    )
    if bad:
        unreadable = {image.row for image in bad}
        table = table.select(np.array([row not in unreadable for row in range(len(table))]))
    return table, facts, bad


class PictureComparison:
    """Whether two pictures of a collection are the same by their pixels; see `likeness`.

    Pairs that differ in 16 × 16 pixels are not read. Of those read, the last 1,024 are kept.
    """

    def __init__(self, collection: Collection, facts: Facts) -> None:
        self.collection, self.facts = collection, facts
        self._read = OrderedDict[int, Image.Image]()

    def __call__(self, first: int, second: int) -> float:
        """Return how alike two pictures are, 0 unless they are the same."""
        sizes = self.facts.sizes
        one, other = (Image.fromarray(self.facts.tiny[row]) for row in (first, second))
        if not likeness(one, other, limit=0.3):
            return 0.0
        shapes = (tuple(sizes[first].tolist()), tuple(sizes[second].tolist()))
        return likeness(self._small(first), self._small(second), shapes=shapes)

    def _small(self, row: int) -> Image.Image:
        if row in self._read:
            self._read.move_to_end(row)
        else:
            self._read[row] = self.collection.small(row)
            if len(self._read) > _CACHED:
                self._read.popitem(last=False)
        return self._read[row]
