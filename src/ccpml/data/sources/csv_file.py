"""A CSV file that lists images, their classes and, optionally, their splits and roles."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, get_args

from ccpml.artifacts import expand_home, not_found, path_kind
from ccpml.data.sources.csv_rows import check_header, path_of, read_rows
from ccpml.data.sources.source import Source, SplitName, check_distinct, check_one_split, read_label, spellings
from ccpml.data.table import ImageTable
from ccpml.numbers import check_flags
from ccpml.system_errors import advice

__all__ = ["load_csv", "misspelt_columns", "read_other_columns"]

_COLUMNS: Final = ("path", "label", "split", "role")
_SPLITS: Final[Mapping[str, SplitName]] = {"val": "validation", **{name: name for name in get_args(SplitName)}}


class _Row(NamedTuple):
    """A row of a CSV file; ``where`` names file and line for errors, ``written`` is the label as it is there.

    ``found`` is whether the image is there.
    """

    where: str
    path: Path
    label: str
    written: str
    split: SplitName | None
    role: str
    found: bool


def load_csv(file: Path | str, labeled: bool = True) -> Source:
    """Load a CSV file with the columns ``path`` and ``label`` and, optionally, ``split`` and ``role``.

    Paths are relative to the folder of the file, unless they begin with ``/`` or ``~``; folders may be separated by
    backslashes, as on Windows. ``split`` is train, validation
    (or val) or test; a class belongs to exactly one, since the test classes must not be seen in training. ``role`` is
    query or gallery, for all images of a split or for none, and never in train. Other columns are ignored, but not one
    that is spelled almost like a missing one of these. Labels are compared in Unicode's form NFC. Classes and images
    keep the order of the file. The encoding is UTF-8, with or without a byte order mark. Images that are not found are
    listed like others that cannot be read, unless none is found.

    Args:
        file: CSV file.
        labeled: Whether a missing label is an error; if not, the name of its class is empty.

    Raises:
        ValueError: If the file is invalid; the message names the line and what to change.
    """
    check_flags(labeled=labeled)
    file = expand_home(file, "file")
    rows, notes = _read_csv(file, labeled)
    if not any(row.found for row in rows):
        where = f"{rows[0].where}: image {rows[0].path}"
        raise ValueError(f"{where} not found, nor any other; paths are relative to the folder of the CSV file")
    splits = ((row.label, repr(row.label), row.split, row.where) for row in rows if row.label)
    check_one_split(splits, "put each class in one split only")
    real = _real_paths([row.path for row in rows])  # other spellings and links are the same image
    paths = ((path, row.path, row.where) for path, row in zip(real, rows, strict=True))
    check_distinct(paths, "remove one of the lines")
    _check_roles(rows)
    split_of_class = {row.label: row.split for row in rows if row.label and row.split is not None}
    images, classes, roles = zip(*((row.path, row.label, row.role) for row in rows), strict=True)
    table = ImageTable.from_classes(images, classes, roles, file.stem)
    return Source(
        table, split_of_class or None, file.parent, spellings=spellings(row.written for row in rows), notes=notes
    )


def read_other_columns(file: Path) -> tuple[list[str], dict[Path, list[str]]]:
    """Return the names of the columns that `load_csv` ignores, and the cells of each image, by its absolute path.

    A column without a name, as of the index that pandas writes, is left out.

    Raises:
        ValueError: If the file cannot be read.
    """
    lines = read_rows(file)
    header = next(lines)[1]
    places = [place for place, name in enumerate(header) if name and name.lower() not in _COLUMNS]
    where = [name.lower() for name in header].index("path")
    cells = {path_of(file.absolute().parent, fields[where]): [fields[place] for place in places] for _, fields in lines}
    return [header[place] for place in places], cells


def _real_paths(paths: Sequence[Path]) -> list[Path]:
    """Return the paths without links; each folder is looked at once."""
    folders = {folder: Path(os.path.realpath(folder)) for folder in {path.parent for path in paths}}  # also of loops
    return [Path(os.path.realpath(path)) if path.is_symlink() else folders[path.parent] / path.name for path in paths]


def _read_csv(file: Path, labeled: bool) -> tuple[list[_Row], list[str]]:
    """Return the rows, and a phrase for each unused column that seems to hold the splits."""
    lines = read_rows(file)
    header = _header(next(lines)[1], file, labeled)
    others = {} if "split" in header else {at: set[str]() for at, name in enumerate(header) if name not in _COLUMNS}
    rows = []
    for line, fields in lines:
        for at in [at for at in others if fields[at].lower() not in _SPLITS]:
            del others[at]
        for at, values in others.items():
            values.add(fields[at].lower())
        rows.append(_row(fields, header, f"{file}, line {line}", file.parent, labeled))
    unused = "is not used, although it names splits; call it split to train and test by it"
    return rows, [f"column {header[at]}: {unused}" for at, values in others.items() if len(values) > 1]


def _header(fields: list[str], file: Path, labeled: bool) -> list[str]:
    header = [field.lower() for field in fields]
    check_header(header, _required(labeled), "path,label[,split[,role]]", file)
    if twice := [name for name in _COLUMNS if header.count(name) > 1]:
        raise ValueError(f"{file}, line 1: column {twice[0]} appears twice; remove one")
    for name, meant in misspelt_columns(header, _COLUMNS):
        raise ValueError(
            f"{file}, line 1: column {name}: expected {meant}; correct it, or choose another name if it is your own"
        )
    return header


def misspelt_columns(header: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Return the columns that are spelled almost like a known one which is missing, and which that is.

    Example:
        >>> misspelt_columns(["path", "label", "splits", "price"], ["path", "label", "split", "role"])
        [('splits', 'split')]
    """
    missing = [name for name in known if name not in header]
    close = {name: difflib.get_close_matches(name.lower(), missing, n=1, cutoff=0.8) for name in header}
    return [(name, close[name][0]) for name in header if name not in known and close[name]]


def _required(labeled: bool) -> tuple[str, ...]:
    return ("path", "label") if labeled else ("path",)


def _row(fields: list[str], header: list[str], where: str, folder: Path, labeled: bool) -> _Row:
    cell = dict(zip(header, fields, strict=True))
    for name in _required(labeled):
        if not cell[name]:
            raise ValueError(f"{where}: {name} is empty; fill it in or remove the line")
    split = _SPLITS.get(cell.get("split", "").lower())
    if split is None and "split" in cell:
        got = repr(cell["split"]) if cell["split"] else "nothing"
        raise ValueError(f"{where}: split: expected train, validation (or val) or test, got {got}")
    role = cell.get("role", "").lower()
    if role not in {"", "query", "gallery"}:
        raise ValueError(f"{where}: role: expected query, gallery or nothing, got {cell['role']!r}")
    path = folder / cell["path"]
    try:
        path = path_of(folder, cell["path"])
        found = path_kind(path)
    except OSError as error:  # the name is too long, or a folder is closed
        raise ValueError(f"{where}: image {path}: cannot be opened ({error.strerror}){advice(error)}") from error
    if found not in {"a file", ""}:
        raise ValueError(f"{where}: image {path}: {not_found(path)}; restore it, or remove the row")
    label = cell.get("label", "")
    return _Row(where, path, read_label(label), label, split, role, bool(found))


def _check_roles(rows: list[_Row]) -> None:
    """Check that all images of a split have a role or none has, and that train has none."""
    first: dict[SplitName | None, _Row] = {}
    for row in rows:
        if row.split == "train" and row.role:
            raise ValueError(f"{row.where}: role of a training image: expected nothing, got {row.role}")
        other = first.setdefault(row.split, row)
        if bool(other.role) != bool(row.role):
            has, lacks = (row, other) if row.role else (other, row)
            raise ValueError(
                f"{lacks.where}: role is empty, but set in {has.where}; set it for all images of a split or for none"
            )
