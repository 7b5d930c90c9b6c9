"""Rows of a CSV file as text, with the number of the line of each."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ccpml.artifacts import artifact_kind, expand_home, not_found
from ccpml.data.sources.source import SourceNotFoundError
from ccpml.files import check_readable
from ccpml.progress import PATIENCE, printable, progress_bar
from ccpml.system_errors import advice

__all__ = ["check_header", "path_of", "read_rows"]

_MAX_SHOWN: Final = 120
"""Characters of a header that a message shows: a file that is no CSV may have one line of any length."""


def read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    r"""Yield the line number and the values of the header, then of each row that is not empty, without outer spaces.

    Values are separated by commas; rows have as many as the header, which is an empty list if the file is empty. The
    encoding is UTF-8, with or without a byte order mark.

    Raises:
        ValueError: If the file is invalid or cannot be read; the message names the line and what to change.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "images.csv")
        >>> _ = file.write_text("path,label\n\n a.jpg , mug\n")
        >>> list(read_rows(file))
        [(1, ['path', 'label']), (3, ['a.jpg', 'mug'])]
    """
    if not file.is_file():
        raise SourceNotFoundError(f"{file}: {not_found(file)}", "restore it, or choose another path")
    check_readable(file, "restore it, or choose another path")
    line, rows = 1, 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            yield line, [field.strip() for field in header]
            line = reader.line_num + 1
            for fields in progress_bar(None, "row", f"reading {printable(file.name)}", over=reader, delay=PATIENCE):
                if any(field.strip() for field in fields):
                    _check_row(fields, len(header), f"{file}, line {line}")
                    yield line, [field.strip() for field in fields]
                    rows += 1
                line = reader.line_num + 1
    except csv.Error as error:
        way_out = "correct this line, and separate values by commas"
        raise ValueError(f"{file}, line {line}: not valid CSV ({error}); {way_out}") from error
    except UnicodeDecodeError as error:
        if (kind := artifact_kind(file)) not in {"a CSV file", "another file"}:
            raise ValueError(f"{file}: expected a CSV file, got {kind}; choose another file") from error
        raise ValueError(f"{file}, line {line} or later: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error}){advice(error)}") from error
    if not rows:
        raise ValueError(f"{file}: expected one line for each image below the header, got none; add them")


def path_of(folder: Path, cell: str) -> Path:
    r"""Return the path that a cell names, relative to a folder unless it begins with ``/`` or ``~``.

    Where nothing has the name as it is written, backslashes separate folders, as they do in files that were written on
    Windows.

    Example:
        >>> path_of(Path("/"), r"dev\null"), path_of(Path("/"), r"no\such")
        (PosixPath('/dev/null'), PosixPath('/no\\such'))
    """
    written, other = (folder / expand_home(each) for each in (cell, cell.replace("\\", "/")))
    is_other = other != written and os.path.exists(other) and not os.path.exists(written)  # noqa: PTH110  # no error
    return other if is_other else written


def check_header(header: list[str], required: tuple[str, ...], expected: str, file: Path) -> None:
    """Check that a header has the required columns.

    Args:
        header: Names of the columns.
        required: Columns without which the file is invalid.
        expected: The columns as messages show them, ``path[,label]``.
        file: The CSV file.

    Raises:
        ValueError: If one is missing.
    """
    if missing := [name for name in required if name not in header]:
        got = ",".join(header) or "an empty line"
        got = got if len(got) <= _MAX_SHOWN else f"{got[: _MAX_SHOWN - 1]}…"
        raise ValueError(
            f"{file}, line 1: expected column names {expected} separated by commas, got {got} without "
            f"{' and '.join(missing)}; correct the first line"
        )


def _check_row(fields: list[str], expected: int, where: str) -> None:
    if len(fields) != expected:
        more = "put values that contain a comma in quotes" if len(fields) > expected else "add the missing ones"
        raise ValueError(f"{where}: expected {expected} values, got {len(fields)}; {more}")
    if any("\0" in field for field in fields):
        raise ValueError(f"{where}: not valid CSV (null character); correct this line")
