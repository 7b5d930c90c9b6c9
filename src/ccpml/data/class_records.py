"""The images of each class, in short: to notice when data have changed, and in which classes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ccpml.data.images.cache_index import index_key
from ccpml.data.images.packed import PackedImage
from ccpml.data.sources.source import Source, SplitName, listed_names
from ccpml.data.splits import Splits
from ccpml.data.table import ImageTable
from ccpml.numbers import counted

__all__ = [
    "ClassRecord",
    "DataChangedError",
    "DataChanges",
    "MixedDataError",
    "class_records",
    "find_changes",
    "listed_classes",
    "split_of_class",
]

_SHOWN = 8


class DataChangedError(ValueError):
    """The data are not those that a run was started with."""


class MixedDataError(ValueError):
    """The data are not those of other runs, with which a run is compared."""


class ClassRecord(NamedTuple):
    """The split of a class, the number of its images, and a digest of their names and roles."""

    split: SplitName
    images: int
    digest: str


@dataclass(frozen=True)
class DataChanges:
    """Classes in which data differ from earlier ones: missing, new, and with other images."""

    missing: list[str]
    new: list[str]
    other_images: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.new or self.other_images)

    def __str__(self) -> str:
        named = [
            (self.missing, "missing"),
            (self.new, "new"),
            (self.other_images, "with other images, or the same in another order"),
        ]
        return ", ".join(f"{listed_classes(names)} {what}" for names, what in named if names)


def class_records(source: Source, split_of_class: Mapping[str, SplitName]) -> dict[str, ClassRecord]:
    """Return the record of each class of a source by name, given their splits; new classes count as for testing."""
    table = source.table
    digests = [hashlib.sha256() for _ in table.class_names]
    roles = [""] * len(table) if table.roles is None else table.roles.tolist()
    for row, (label, role) in enumerate(zip(table.labels.tolist(), roles, strict=True)):
        digests[label].update(f"{_name_of(table, source.folder, row)}\t{role}\n".encode("utf-8", "surrogateescape"))
    found = zip(table.class_names, table.class_sizes().tolist(), digests, strict=True)
    return {
        name: ClassRecord(split_of_class.get(name, "test"), count, digest.hexdigest()[:16])
        for name, count, digest in found
    }


def find_changes(before: Mapping[str, ClassRecord], now: Mapping[str, ClassRecord]) -> DataChanges:
    """Return in which classes data differ from earlier ones."""
    common = [name for name in before if name in now]
    return DataChanges(
        missing=[name for name in before if name not in now],
        new=[name for name in now if name not in before],
        other_images=[name for name in common if before[name][1:] != now[name][1:]],
    )


def split_of_class(splits: Splits) -> dict[str, SplitName]:
    """Return the split of each class by name."""
    tables: dict[SplitName, ImageTable] = {
        "train": splits.train,
        "validation": splits.validation,
        "test": splits.test,
    }
    return {name: split for split, table in tables.items() for name in table.class_names}


def _name_of(table: ImageTable, folder: Path | None, row: int) -> str:
    """Return the name of an image, for a file relative to the folder of the data, which may be moved."""
    if folder is None or table.numbers is not None:
        return table.name_of(row)
    image = table.images[row]
    path = image.path if isinstance(image, PackedImage) else image
    return index_key(path, folder) if isinstance(path, Path) else table.name_of(row)


def listed_classes(names: list[str]) -> str:
    """Return a number of classes with the first names."""
    return f"{counted(len(names), 'class')} ({listed_names(names, _SHOWN)})"
