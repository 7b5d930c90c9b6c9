"""Table of the images of a set and their classes, with selection of classes and rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.data.arrays import plain_array
from ccpml.data.images.archived import ArchivedImage
from ccpml.data.images.packed import PackedImage
from ccpml.numbers import as_tuple, check_flags

__all__ = ["ImageTable", "StoredImage", "check_table"]

#: An image that is not in memory.
StoredImage: TypeAlias = Path | PackedImage | ArchivedImage

_ROLES = ("", "query", "gallery")
_PATHS = "paths, or one array of all images, uint8 (N, H, W) or (N, H, W, 3)"


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The images of a set and the class of each. N images, C classes; every class has an image.

    Attributes:
        images: Paths, packed or archived images, or decoded images in memory: uint8, (N, H, W) gray or (N, H, W, 3)
            color.
        labels: Class of each image, 0..C-1: int64, (N,).
        class_names: Distinct names of the C classes, in the order of the labels.
        roles: Role of each image in retrieval, ``"query"``, ``"gallery"`` or ``""`` for neither, (N,). None: every
            image is both.
        name: Name of the set, used to name images in memory.
        numbers: Numbers of images in memory in the set from which they were selected: int64, (N,). By default 0..N-1;
            None for stored images.
        rotate: Whether images are rotated as their EXIF data say; not for the benchmarks, which are read as published.

    Raises:
        ValueError: If the parts do not fit together; the message says which.

    Example:
        >>> table = ImageTable(np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 1, 2]), ("a", "b", "c"))
        >>> len(table), table.num_classes, table.class_sizes().tolist()
        (4, 3, [2, 1, 1])
        >>> part = table.subset([2, 1])
        >>> part.class_names, part.labels.tolist(), part.name_of(0)
        (('c', 'b'), [1, 0], 'images[2]')
    """

    images: tuple[StoredImage, ...] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    roles: NDArray[np.str_] | None = None
    name: str = "images"
    numbers: NDArray[np.int64] | None = None
    rotate: bool = True

    def __post_init__(self) -> None:
        check_flags(rotate=self.rotate)
        if isinstance(self.images, np.ndarray):
            _check_pixels(self.images)
            numbers = np.arange(len(self.images)) if self.numbers is None else self.numbers
            object.__setattr__(self, "numbers", _int64("numbers", numbers, len(self.images)))
        else:
            images = as_tuple("images", self.images, _PATHS)
            object.__setattr__(self, "images", tuple(map(_stored, range(len(images)), images)))
            object.__setattr__(self, "numbers", None)
        if not len(self.images):
            raise ValueError("images: expected at least one, got 0")
        object.__setattr__(self, "class_names", _texts("class_names", self.class_names))
        object.__setattr__(self, "labels", _int64("labels", self.labels, len(self.images)))
        _check_classes(self.labels, self.class_names)
        if self.roles is not None:
            object.__setattr__(self, "roles", _checked_roles(self.roles, len(self.images)))

    @classmethod
    def from_classes(
        cls, images: Sequence[Path], classes: Sequence[str], roles: Sequence[str] = (), name: str = "images"
    ) -> Self:
        """Return the table of images with the given class names, which are ordered by first appearance.

        Args:
            images: Paths, (N,).
            classes: Name of the class of each image, (N,).
            roles: Role of each image, (N,), or nothing.
            name: Name of the set.
        """
        classes, roles = _texts("classes", classes), _texts("roles", roles)
        label_of = {class_name: label for label, class_name in enumerate(dict.fromkeys(classes))}
        labels = np.array([label_of[class_name] for class_name in classes], dtype=np.int64)
        paths = as_tuple("images", images, _PATHS)
        return cls(paths, labels, tuple(label_of), np.array(roles) if any(roles) else None, name)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def packed(self) -> bool:
        """Whether all images come from a packed file."""
        return not isinstance(self.images, np.ndarray) and all(isinstance(x, PackedImage) for x in self.images)

    def absolute(self) -> Self:
        """Return the table with absolute paths, whose images can be read in any working directory."""
        if isinstance(self.images, np.ndarray) or all(map(_is_absolute, self.images)):
            return self
        return replace(self, images=tuple(map(_absolute, self.images)))

    def class_sizes(self) -> NDArray[np.int64]:
        """Return the number of images of each class: int64, (C,)."""
        return np.bincount(self.labels, minlength=self.num_classes).astype(np.int64)

    def name_of(self, row: int) -> str:
        """Return the name of an image: its path, or the set and its number or name in it, as in ``glyphs[123]``."""
        if self.numbers is not None:
            return f"{self.name}[{self.numbers[row]}]"
        image = self.images[row]
        if isinstance(image, ArchivedImage):
            return f"{self.name}/{image.name}"
        return str(image.path if isinstance(image, PackedImage) else image)

    def subset(self, class_ids: Sequence[int] | NDArray[np.int64]) -> "ImageTable":
        """Return the images of some classes, in the order of the table; labels follow the order of ``class_ids``.

        Args:
            class_ids: Distinct labels of this table.

        Raises:
            ValueError: If ``class_ids`` is empty, or a class is repeated or unknown.
        """
        ids = plain_array("class_ids", class_ids, "integers")
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise ValueError(f"class_ids: expected integers, got {ids.dtype} of shape {ids.shape}")
        ids = ids.astype(np.int64)
        if ids.size == 0 or np.unique(ids).size != ids.size:
            raise ValueError(f"class_ids: expected one or more distinct classes, got {ids.tolist()}")
        if ids.min() < 0 or ids.max() >= self.num_classes:
            raise ValueError(f"class_ids: expected 0..{self.num_classes - 1}, got {ids.min()}..{ids.max()}")
        new_label = np.full(self.num_classes, -1, dtype=np.int64)
        new_label[ids] = np.arange(ids.size)
        rows = np.flatnonzero(new_label[self.labels] >= 0)
        return self._cut(rows, new_label[self.labels[rows]], ids)

    def select(self, rows: Sequence[int] | NDArray[np.int64] | NDArray[np.bool_]) -> "ImageTable":
        """Return some images in the given order; classes that lose all their images are dropped.

        Args:
            rows: Row numbers, or a mask of N booleans.

        Raises:
            ValueError: If no row is selected, or a row or the length of the mask is invalid.
        """
        chosen = plain_array("rows", rows, "row numbers, or a mask")
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise ValueError(f"rows: expected a mask of {len(self)} booleans, got shape {chosen.shape}")
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            raise ValueError("rows: expected at least one, got 0")
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise ValueError(f"rows: expected row numbers, or a mask, got {chosen.dtype} of shape {chosen.shape}")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(f"rows: expected 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        ids, labels = np.unique(self.labels[chosen], return_inverse=True)
        return self._cut(chosen, labels, ids)

    def _cut(self, rows: NDArray[np.int64], labels: NDArray[np.int64], ids: NDArray[np.int64]) -> "ImageTable":
        images = self.images
        return ImageTable(
            images=images[rows] if isinstance(images, np.ndarray) else tuple(images[row] for row in rows),
            labels=labels,
            class_names=tuple(self.class_names[class_id] for class_id in ids),
            roles=None if self.roles is None else self.roles[rows],
            name=self.name,
            numbers=None if self.numbers is None else self.numbers[rows],
            rotate=self.rotate,
        )


def _stored(row: int, image: Any) -> StoredImage:
    """Return an image that is not in memory; a text is a path."""
    if isinstance(image, str):
        return Path(image)
    if not isinstance(image, Path | PackedImage | ArchivedImage):
        raise ValueError(f"images: expected {_PATHS}; got {type(image).__name__} at {row}")
    return image


def _texts(what: str, names: Any) -> tuple[str, ...]:
    """Return several names; a number, or the NaN that pandas has in place of a missing text, is none."""
    found = as_tuple(what, names, "several texts")
    for place, name in enumerate(found):
        if not isinstance(name, str):
            raise ValueError(f"{what}: expected texts, got {name!r} at {place}; leave it out, or make it a text")
    return found


def check_table(name: str, table: object) -> None:
    """Check that an argument is a table.

    Raises:
        ValueError: If it is another thing, such as the `Source` that has one.
    """
    if not isinstance(table, ImageTable):
        has_one = isinstance(getattr(table, "table", None), ImageTable)
        way_out = "; pass its table" if has_one else ""
        raise ValueError(f"{name}: expected an ImageTable, got {type(table).__name__}{way_out}")


def _is_absolute(image: StoredImage) -> bool:
    if isinstance(image, ArchivedImage):
        return True  # of an archive that is installed with ccpml
    return image.pack.is_absolute() if isinstance(image, PackedImage) else image.is_absolute()


def _absolute(image: StoredImage) -> StoredImage:
    if isinstance(image, PackedImage):
        return image._replace(path=image.path.absolute(), pack=image.pack.absolute())
    return image.absolute() if isinstance(image, Path) else image


def _check_pixels(images: NDArray[np.uint8]) -> None:
    color = images.ndim == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (images.ndim == 3 or color):
        raise ValueError(
            f"images: expected uint8 of shape (N, H, W) or (N, H, W, 3), got {images.dtype} {images.shape}"
        )
    if 0 in images.shape[1:]:
        raise ValueError(f"images: expected at least one pixel each, got shape {images.shape}")


def _int64(what: str, values: ArrayLike, length: int) -> NDArray[np.int64]:
    array = plain_array(what, values, f"{length} integers")
    if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what}: expected {length} integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _check_classes(labels: NDArray[np.int64], class_names: tuple[str, ...]) -> None:
    if len(set(class_names)) != len(class_names):
        raise ValueError("class_names: expected distinct names, got duplicates")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"labels: expected 0..{len(class_names) - 1} ({len(class_names)} class names), "
            f"got {labels.min()}..{labels.max()}"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if empty.size:
        raise ValueError(
            f"labels: expected images of every class, got none of {class_names[empty[0]]!r} and {empty.size - 1} others"
        )


def _checked_roles(roles: NDArray[np.str_], length: int) -> NDArray[np.str_]:
    array = plain_array("roles", roles, f"{length} texts").astype(np.str_)
    if array.shape != (length,):
        raise ValueError(f"roles: expected {length}, one for each image, got shape {array.shape}")
    unknown = set(np.unique(array).tolist()) - set(_ROLES)
    if unknown:
        raise ValueError(f"roles: expected 'query', 'gallery' or '', got {sorted(unknown)[0]!r}")
    return array
