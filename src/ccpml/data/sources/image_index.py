"""The index files of a benchmark: the images that they list, and how their lines are read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ccpml.data.sources.source import SplitName
from ccpml.system_errors import advice

__all__ = ["ImageIndex", "IndexedImage", "Line", "positive_int", "read_lines", "relative_path"]


class IndexedImage(NamedTuple):
    """An image listed in an index file.

    ``class_id`` is the name of the class if classes are not numbered; ``where`` names index file and line, for errors.
    """

    path: PurePosixPath
    class_id: int | str
    class_name: str
    split: SplitName
    role: str
    where: str


@dataclass(frozen=True)
class ImageIndex:
    """The contents of the index files of a benchmark.

    Attributes:
        images: Images in the order of their lines.
        base: Folder to which their paths are relative.
        folders: Folders that should hold exactly these images.
        index_files: Files that were read.
        gaps: Descriptions of entries that the numbering requires but the index lacks.
    """

    images: list[IndexedImage]
    base: Path
    folders: list[Path]
    index_files: list[Path]
    gaps: list[str]


class Line(NamedTuple):
    """A line of an index file; ``where`` names file and line."""

    where: str
    text: str


def read_lines(file: Path) -> Iterator[Line]:
    """Yield the non-empty lines of an index file: UTF-8 with or without a byte order mark, any line ending."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{file}: index file not found; unpack the archive again") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error}){advice(error)}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: expected UTF-8; unpack the archive again") from error
    if not text.strip():
        raise ValueError(f"{file}: file is empty; unpack the archive again")
    for number, content in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if content.strip():
            yield Line(f"{file}, line {number}", content.strip())


def relative_path(text: str, where: str) -> PurePosixPath:
    """Return a path after checking that it is neither empty nor absolute, and does not lead out of its folder."""
    path = PurePosixPath(text)
    if not path.name or Path(text).anchor or {"", ".."} & set(re.split(r"[\\/]", text)) or "\0" in text:
        raise ValueError(f"{where}: expected a path inside the benchmark, got {text!r}; unpack the archive again")
    return path


def positive_int(text: str, what: str, where: str) -> int:
    """Parse a positive integer; ``what`` and ``where`` name it in the error."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{where}: {what}: expected a positive integer, got {text!r}")
    return int(text)
