"""A CSV file of pictures, with metadata in its further columns."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from ccpml.data.sources.csv_file import misspelt_columns
from ccpml.data.sources.csv_rows import check_header, path_of, read_rows
from ccpml.data.sources.source import read_label
from ccpml.serving.items import Picture

__all__ = ["read_csv_pictures"]

_Value: TypeAlias = str | int | float | bool | None

_KNOWN: Final = ("path", "label")
_INTEGER: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")  # fits into 64 bits
_DECIMAL: Final = re.compile(  # 12E4 is a name, unlike 1.2E5, 1e+20 and 1e-05
    r"[+-]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[0-9]+([eE][+-][0-9]+)?)"
)
_PADDED: Final = re.compile(r"[+-]?0[0-9]")  # 007 is a name
_BOOLEAN: Final = {"true": True, "false": False}


def read_csv_pictures(file: Path) -> tuple[list[Picture], list[str]]:
    r"""Read the pictures of a CSV file with a column ``path``, perhaps ``label``, and metadata in all others.

    Paths are relative to the folder of the file. A column whose cells are all numbers, or all true and false, has
    values of that type, and one with other cells has text; an empty cell is None. The encoding is UTF-8.

    Returns:
        The pictures in the order of the file, and a sentence for each column in which numbers and text are mixed, whose
        name is almost ``label``, or which has no name and is left out, as the index that pandas writes.

    Raises:
        ValueError: If the file is invalid; the message names the line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "shop.csv")
        >>> _ = file.write_text("path,label,price,size\na.jpg,mug,7.5,3\nb.jpg,cup,9,XL\n")
        >>> pictures, notes = read_csv_pictures(file)
        >>> pictures[1].label, pictures[1].metadata
        ('cup', {'price': 9.0, 'size': 'XL'})
        >>> notes[0].removeprefix(f"{file}: ")
        'column size: expected numbers only or text only, got 3 (line 2) and XL (line 3); all are kept as text'
    """
    header, rows = _read(file)
    names = [name for name in header if name not in {*_KNOWN, ""}]
    columns = dict[str, list[_Value]]()
    notes = [
        f"{file}, line 1: column {name}: is metadata; call it {meant} if it is the {meant}"
        for name, meant in misspelt_columns(header, _KNOWN)
    ]
    if "" in header:
        notes.append(f"{file}, line 1: column {header.index('') + 1}: has no name; left out")
    for name in names:
        columns[name], mixed = _typed([(line, row[name]) for line, row in rows])
        if mixed:
            notes.append(f"{file}: column {name}: {mixed}")
    pictures = []
    for number, (line, row) in enumerate(rows):
        if not row["path"]:
            raise ValueError(f"{file}, line {line}: path is empty; fill it in or remove the line")
        metadata = {name: columns[name][number] for name in names}
        path = path_of(file.parent, row["path"])
        label = read_label(row.get("label", ""))
        pictures.append(Picture(path, label, metadata, where=f"{file}, line {line}"))
    _check_distinct(file, [(line, str(picture.file)) for (line, _), picture in zip(rows, pictures, strict=True)])
    return pictures, notes


def _read(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the names of the columns, and number and cells of each line."""
    lines = read_rows(file)
    header = _header(next(lines)[1], file)
    return header, [(line, dict(zip(header, fields, strict=True))) for line, fields in lines]


def _header(fields: Sequence[str], file: Path) -> list[str]:
    header = [name.lower() if name.lower() in _KNOWN else name for name in fields]
    check_header(header, ("path",), "path[,label][,more]", file)
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"{file}, line 1: column {name} appears twice; remove one")
    return header


def _typed(cells: Sequence[tuple[int, str]]) -> tuple[list[_Value], str]:
    """Return the values of a column of lines and cells, of one type, and what is mixed in it, if anything."""
    filled = [(line, text) for line, text in cells if text]
    parsers: list[tuple[Callable[[str], bool], Callable[[str], _Value]]] = [
        (_is_integer, int),
        (_is_number, float),
        (_is_boolean, lambda text: _BOOLEAN[text.lower()]),
    ]
    for fits, parse in parsers:
        if filled and all(fits(text) for _, text in filled):
            return [parse(text) if text else None for _, text in cells], ""
    number = _first(filled, _is_number)
    other = _first(filled, lambda text: not _DECIMAL.fullmatch(text)) or _first(filled, _is_beyond)
    mixed = ""
    if number and other:
        (line, text), (place, name) = number, other
        kinds = "numbers of 64 bits only" if _is_beyond(name) else "numbers only"
        got = f"got {text} (line {line}) and {name[:40]} (line {place})"
        mixed = f"expected {kinds} or text only, {got}; all are kept as text"
    return [text or None for _, text in cells], mixed


def _first(cells: Iterable[tuple[int, str]], fits: Callable[[str], bool]) -> tuple[int, str] | None:
    return next(((line, text) for line, text in cells if fits(text)), None)


def _is_integer(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text))


def _is_number(text: str) -> bool:
    if not _DECIMAL.fullmatch(text) or _PADDED.match(text):
        return False
    return math.isfinite(float(text)) and (not text.lstrip("+-").isdigit() or _is_integer(text))


def _is_beyond(text: str) -> bool:
    """Whether a number is too large or has too many digits."""
    return bool(_DECIMAL.fullmatch(text)) and not _is_number(text) and not _PADDED.match(text)


def _is_boolean(text: str) -> bool:
    return text.lower() in _BOOLEAN


def _check_distinct(file: Path, paths: Iterable[tuple[int, str]]) -> None:
    first = dict[str, int]()
    for line, path in paths:
        other = first.setdefault(path, line)
        if other != line:
            raise ValueError(f"{file}, line {line}: {path} is listed before (line {other}); remove one of the lines")
