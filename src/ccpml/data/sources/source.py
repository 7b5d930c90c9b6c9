"""A set of images with the split that it came with."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from ccpml.data.table import ImageTable

__all__ = ["IMAGE_SUFFIXES", "Source", "SplitName", "check_distinct", "check_one_split"]

SplitName = Literal["train", "validation", "test"]

#: Suffixes of image files, in lower case.
IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


@dataclass(frozen=True, eq=False)
class Source:
    """A set of images, and its own split if it has one.

    Attributes:
        table: All images.
        split_of_class: Split of each class by name, or None if the set has no split. Names that are not in ``table``
            are ignored, so that ``table`` can be replaced by a smaller one.
        folder: Folder of the image files; None if they come with ccpml.

    Raises:
        ValueError: If a class of the table has no split.
    """

    table: ImageTable
    split_of_class: Mapping[str, SplitName] | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.split_of_class is not None:
            for name in self.table.class_names:
                if self.split_of_class.get(name) not in get_args(SplitName):
                    raise ValueError(f"class {name!r}: expected a split (train, validation or test), got none")


def check_distinct(images: Iterable[tuple[Hashable, object, str]], advice: str) -> None:
    """Check that no image is listed twice, as it would be its own nearest neighbor.

    Args:
        images: Key, name, and file and line of each image.
        advice: What to do about duplicates.
    """
    first: dict[Hashable, str] = {}
    for key, name, where in images:
        other = first.setdefault(key, where)
        if other != where:
            raise ValueError(f"{where}: {name} is listed before ({other}); {advice}")


def check_one_split(images: Iterable[tuple[Hashable, object, SplitName | None, str]], advice: str) -> None:
    """Check that no class is in two splits, as test classes must not be seen in training.

    Args:
        images: Class, its name, its split, and file and line of each image.
        advice: What to do about classes in two splits.
    """
    first: dict[Hashable, tuple[SplitName | None, str]] = {}
    for class_id, name, split, where in images:
        other, place = first.setdefault(class_id, (split, where))
        if other != split:
            raise ValueError(f"{where}: class {name} is in {split}, but in {other} before ({place}); {advice}")
