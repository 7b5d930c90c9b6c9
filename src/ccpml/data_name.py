"""Names of sets of images, such as ``groceries``, ``cub`` or ``folder:photos``. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ccpml.artifacts import artifact_kind, expand_home

__all__ = ["BENCHMARKS", "DATA_KINDS", "DataKind", "DataName", "known_names"]


class DataKind(NamedTuple):
    """A kind of data.

    The loader is a function that returns a `ccpml.data.sources.source.Source`. It is called with the path, if there is
    one; the loader of a benchmark with its name, the data root, and whether it may be incomplete; a loader that
    ``takes_unlabeled`` images with ``labeled=False`` where labels are not needed.
    """

    loader: str  # import path
    path: str = ""  # what follows the colon: ``path`` (of a folder), ``file``, or nothing
    is_benchmark: bool = False
    takes_unlabeled: bool = False


_BENCHMARK = DataKind("ccpml.data.sources.benchmarks.load_benchmark", is_benchmark=True)

#: All kinds of data, by name.
DATA_KINDS: Final = {
    "groceries": DataKind("ccpml.data.sources.groceries.load_groceries"),
    "glyphs": DataKind("ccpml.data.sources.glyphs.load_glyphs"),
    "cub": _BENCHMARK,
    "cars196": _BENCHMARK,
    "sop": _BENCHMARK,
    "inshop": _BENCHMARK,
    "folder": DataKind("ccpml.data.sources.folder.load_folder", path="path", takes_unlabeled=True),
    "csv": DataKind("ccpml.data.sources.csv_file.load_csv", path="file", takes_unlabeled=True),
}

#: The paper's benchmarks, by the names that they have everywhere in ccpml.
BENCHMARKS: Final = tuple(name for name, kind in DATA_KINDS.items() if kind.is_benchmark)


def known_names() -> str:
    """Return the forms of all names, for messages.

    Example:
        >>> known_names()
        'groceries, glyphs, cub, cars196, sop, inshop, folder:<path> or csv:<file>'
    """
    forms = [f"{name}:<{kind.path}>" if kind.path else name for name, kind in DATA_KINDS.items()]
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


@dataclass(frozen=True)
class DataName:
    """The name of a set of images, split into its parts.

    Attributes:
        kind: One of `DATA_KINDS`.
        path: The folder or file; empty for the kinds that have none.

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
        known = DATA_KINDS.get(self.kind)
        if known is None or bool(known.path) != bool(self.path):
            raise ValueError(f"unknown data {str(self)!r}: expected {known_names()}{self._suggestion()}")

    @classmethod
    def parse(cls, text: str) -> "DataName":
        """Split a name at its first colon.

        Raises:
            ValueError: If it is not the name of a set of images.
        """
        if not isinstance(text, str):
            raise ValueError(f"data: expected a name, such as folder:<path>, got {type(text).__name__}")
        kind, colon, path = text.partition(":")
        return cls(kind, path) if path or not colon else cls(text)

    @classmethod
    def is_valid(cls, text: str) -> bool:
        """Whether a text is the name of a set of images."""
        try:
            cls.parse(text)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" if self.path else self.kind

    def _suggestion(self) -> str:
        """Return what may have been meant by a bare path, or what is there, as the end of a sentence."""
        path = expand_home(self.kind)
        if self.path or not path.exists():
            return ""
        kind = artifact_kind(path)
        is_folder = kind == "a folder" or kind.startswith("a folder of runs")
        form = "folder" if is_folder else "csv" if kind in {"another file", "a CSV file"} else ""
        return f"; did you mean {form}:{self.kind}?" if form else f"; {self.kind} is {kind}"

    @property
    def is_benchmark(self) -> bool:
        """Whether the set is one of the paper's benchmarks."""
        return DATA_KINDS[self.kind].is_benchmark

    @property
    def is_built_in(self) -> bool:
        """Whether the set comes with ccpml."""
        return not (self.path or self.is_benchmark)

    @property
    def label(self) -> str:
        """Short name for a run on these images: the kind, or the last part of the path without its suffix."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(self.resolved().path).stem) if self.path else self.kind

    @property
    def file_stem(self) -> str:
        """Name for files kept beside the images; differs for each file of a folder."""
        return f"{self.kind}-{Path(self.path).name}" if DATA_KINDS[self.kind].path == "file" else self.kind

    def resolved(self) -> "DataName":
        """Return the name with an absolute path."""
        return DataName(self.kind, str(expand_home(self.path).resolve())) if self.path else self
