"""Names of sets of images, such as ``glyphs``, ``cub`` or ``folder:photos``. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["BENCHMARKS", "DataName"]

#: The paper's benchmarks, by the names that they have everywhere in ccpml.
BENCHMARKS: Final = ("cub", "cars196", "sop", "inshop")

_WITH_PATH: Final = ("folder", "csv")


@dataclass(frozen=True)
class DataName:
    """The name of a set of images, split into its parts.

    Attributes:
        kind: ``glyphs``, a benchmark, ``folder`` or ``csv``.
        path: The folder or file; empty for the other kinds.

    Raises:
        ValueError: If there is no such kind, or the path is missing or superfluous.

    Example:
        >>> DataName.parse("folder:photos/birds")
        DataName(kind='folder', path='photos/birds')
        >>> str(DataName("csv", "photos.csv")), DataName("csv", "photos.csv").label, DataName("cub").label
        ('csv:photos.csv', 'photos', 'cub')
    """

    kind: str
    path: str = ""

    def __post_init__(self) -> None:
        known = self.path if self.kind in _WITH_PATH else not self.path and self.kind in {"glyphs", *BENCHMARKS}
        if not known:
            raise ValueError(
                f"unknown data {str(self)!r}: expected glyphs, {', '.join(BENCHMARKS)}, folder:<path> or csv:<file>"
            )

    @classmethod
    def parse(cls, text: str) -> "DataName":
        """Split a name at its first colon.

        Raises:
            ValueError: If it is not the name of a set of images.
        """
        kind, colon, path = text.partition(":")
        return cls(kind, path) if path or not colon else cls(text)

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" if self.path else self.kind

    @property
    def is_benchmark(self) -> bool:
        """Whether the set is one of the paper's benchmarks."""
        return self.kind in BENCHMARKS

    @property
    def label(self) -> str:
        """Short name for a run on these images: the kind, or the last part of the path without its suffix."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(self.resolved().path).stem) if self.path else self.kind

    @property
    def file_stem(self) -> str:
        """Name for files kept beside the images; differs for each CSV file of a folder."""
        return f"csv-{Path(self.path).name}" if self.kind == "csv" else self.kind

    def resolved(self) -> "DataName":
        """Return the name with an absolute path."""
        return DataName(self.kind, str(Path(self.path).expanduser().resolve())) if self.path else self
