"""What the index files of a benchmark list, read line by line as they were published."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ccpml.data.sources.own import SplitName

__all__ = ["Line", "Listed", "Listing", "read_lines", "relative_path", "whole_number"]


class Listed(NamedTuple):
    """An image that a benchmark lists.

    Attributes:
        path: Its file, relative to the listing's image folder.
        class_id: Its class: a number, or a name where the benchmark numbers none.
        class_name: The name of that class.
        split: Where its class belongs.
        role: ``"query"``, ``"gallery"``, or ``""``.
        where: Index file and line, for errors.
    """

    path: PurePosixPath
    class_id: int | str
    class_name: str
    split: SplitName
    role: str
    where: str


@dataclass(frozen=True)
class Listing:
    """All that the index files of a benchmark say.

    Attributes:
        images: The images, in the order of their lines.
        base: Folder that their paths are relative to.
        folders: Folders that should hold these images and no others.
        index_files: The files that say so.
        gaps: Of what the index lacks though its own numbering calls for it, in words.
    """

    images: list[Listed]
    base: Path
    folders: list[Path]
    index_files: list[Path]
    gaps: list[str]


class Line(NamedTuple):
    """A line of an index file; ``where`` names both."""

    where: str
    text: str


def read_lines(file: Path) -> Iterator[Line]:
    """Give the lines of an index file that are not empty: UTF-8 with or without a mark, any line ends.

    Raises:
        ValueError: If it is not there, cannot be read, is not UTF-8, or has no lines.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{file}: this file of the benchmark is missing; unpack its archive anew") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: not UTF-8, so not as published; unpack its archive anew") from error
    if not text.strip():
        raise ValueError(f"{file}: empty; unpack the archive anew")
    for number, content in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if content.strip():
            yield Line(f"{file}, line {number}", content.strip())


def relative_path(text: str, where: str) -> PurePosixPath:
    """Check that a path stays in its folder.

    Raises:
        ValueError: If it is absolute, leads out of the folder, or is none.
    """
    path = PurePosixPath(text)
    if not path.name or Path(text).anchor or {"", ".."} & set(re.split(r"[\\/]", text)) or "\0" in text:
        raise ValueError(f"{where}: {text!r} is not a path inside the benchmark's folder; unpack its archive anew")
    return path


def whole_number(text: str, what: str, where: str) -> int:
    """Read a number of 1 or more.

    Raises:
        ValueError: If it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{where}: expected {what}, a number of 1 or more, got {text!r}")
    return int(text)
