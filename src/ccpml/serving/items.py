"""What an index holds and returns."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ccpml.artifacts import plain_path
from ccpml.data.images.archived import ArchivedImage
from ccpml.data.images.read import check_pixels
from ccpml.numbers import plain_number

__all__ = ["UNKEPT", "Hit", "Item", "Metadata", "Picture", "Summary", "own_picture"]

_OWN: Final = "pictures"

UNKEPT: Final = re.compile("[\0\ud800-\udfff]")
"""Characters that JSON can write, and names in a database cannot have: NUL, and halves of characters (surrogates)."""

#: Further columns of a picture, such as its price.
Metadata: TypeAlias = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Picture:
    """A picture to be added to an index.

    Attributes:
        path: The image file. With ``image``, a name for it.
        label: Name of its class; empty if unknown.
        metadata: Further columns.
        image: The image, if it is not in the file: contents of a file, an archived image, or pixels, uint8 (H, W),
            (H, W, 1) or (H, W, 3).
        where: File and line that list it, for errors; empty if none does.
        file: The path, absolute and without ``..`` when the picture is made, as its file may be read in another working
            directory.

    Raises:
        ValueError: If an attribute is of another type, or JSON has no such metadata, as NaN.
    """

    path: Path
    label: str = ""
    metadata: Metadata = field(default_factory=dict)
    image: bytes | ArchivedImage | NDArray[np.uint8] | None = None
    where: str = ""
    file: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise ValueError(f"path: expected a path, got {self.path!r}")
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "file", plain_path(self.path))
        if not isinstance(self.label, str):
            raise ValueError(f"label: expected a text, got {self.label!r}")
        if "\0" in self.label:
            raise ValueError(f"label: expected a text without NUL, got {self.label!r}")
        if not isinstance(self.image, bytes | ArchivedImage | np.ndarray | None):
            raise ValueError(f"image: expected the contents of a file or an array, got {type(self.image).__name__}")
        if isinstance(self.image, np.ndarray):
            check_pixels(self.image)
        if not isinstance(self.metadata, Mapping):
            raise ValueError(f"metadata: expected names and values, got {self.metadata!r}")
        if self.metadata:
            values = {name: plain_number(value) for name, value in self.metadata.items()}
            for name, value in values.items():
                if not (isinstance(name, str) and name):
                    raise ValueError(f"metadata: expected texts as names, not empty, got {name!r}")
                if UNKEPT.search(name):
                    raise ValueError(f"metadata: expected names that UTF-8 can write, got {name!r}")
                if isinstance(value, str) and "\0" in value:
                    raise ValueError(f"metadata: expected texts without NUL, got {value!r} for {name}")
                plain = value is None or isinstance(value, str | bool | int | float)
                if not plain or (isinstance(value, float) and not math.isfinite(value)):
                    expected = "expected texts, finite numbers, True, False or None"
                    raise ValueError(f"metadata: {expected}, got {value!r} for {name}")
            object.__setattr__(self, "metadata", values)

    @property
    def name(self) -> str:
        """The path, with what lists it, for errors."""
        return f"{self.path} ({self.where})" if self.where else str(self.path)


@dataclass(frozen=True)
class Item:
    """A picture in an index.

    Attributes:
        id: Number in the index, from 1; never used again after removal.
        path: The image file when it was added, absolute; the name of an image that was in none.
        label: Name of its class; empty if unknown.
        metadata: Further columns.
        content_hash: SHA-256 of the file.
        perceptual_hash: 64 bits that are nearly equal for pictures that look the same, in hexadecimal.
        width: Width of the picture in pixels, upright.
        height: Height in pixels.
    """

    id: int
    path: str
    label: str
    metadata: Metadata
    content_hash: str
    perceptual_hash: str
    width: int
    height: int


class Hit(NamedTuple):
    """An answer of a search: the item, its Euclidean distance to the query, its rank from 1."""

    item: Item
    distance: float
    rank: int


class Summary(NamedTuple):
    """Facts about an index: number of items and of labels, names of the columns of metadata, ids of some items."""

    items: int
    labels: int
    columns: list[str]
    examples: list[int]


def own_picture(index: Path, path: str, content_hash: str) -> str:
    """Return where an image file is: one that clients have added is in the index, which may have been moved since.

    Args:
        index: The directory of the index, absolute.
        path: Where the file was when it was added.
        content_hash: SHA-256 of its contents, by which such a file is named.
    """
    if content_hash not in path:  # as of nearly all
        return path
    before, now = Path(path), index / _OWN / Path(path).name
    return str(now) if (before.stem, before.parent.name) == (content_hash, _OWN) and now.is_file() else path
