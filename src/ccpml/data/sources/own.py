"""Images that their owner keeps in a folder, or lists in a CSV file."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from ccpml.data.table import ImageTable

__all__ = ["SUFFIXES", "Source", "SplitName", "load_csv", "load_folder"]

SplitName = Literal["train", "validation", "test"]

#: Suffixes by which an image file is known, in any case.
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})

_SPLITS: Final[Mapping[str, SplitName]] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}


@dataclass(frozen=True, eq=False)
class Source:
    """A set of images as its owner gave it, and the split that it came with, if any.

    Attributes:
        table: All images.
        split_of_class: Split of each class by its name (other names are ignored, so that ``table`` may be
            replaced by a smaller one); None if the set has no split of its own.
        folder: Folder that holds its files; None where images are in memory.

    Raises:
        ValueError: If a class of the table is in no split.
    """

    table: ImageTable
    split_of_class: Mapping[str, SplitName] | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.split_of_class is not None:
            for name in self.table.class_names:
                if self.split_of_class.get(name) not in _SPLITS.values():
                    raise ValueError(f"class {name!r} is in none of the splits train, validation and test")


def load_folder(path: Path | str) -> Source:
    """Load a folder in which each folder that holds images is a class, named by its path below the root.

    Classes come in the order of their paths, images in the order of their names. Hidden files and folders, and
    files without a known suffix, are ignored. Links to folders are followed; each real folder is read once.

    Raises:
        ValueError: If there is no such folder, it holds no images, or images lie in the root itself.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder")
    found = dict(_folders_with_images(root))
    if not found:
        known = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{root}: no images in this folder or below (known suffixes: {known})")
    if root in found:
        raise ValueError(
            f"{root}: images lie in the folder itself (such as {found[root][0].name}); "
            "move each into a sub-folder named for its class"
        )
    folders = sorted(found, key=lambda folder: folder.relative_to(root).parts)
    images = tuple(image for folder in folders for image in found[folder])
    labels = np.repeat(np.arange(len(folders)), [len(found[folder]) for folder in folders])
    names = tuple(folder.relative_to(root).as_posix() for folder in folders)
    return Source(ImageTable(images, labels, names, name=root.name), folder=root)


def _folders_with_images(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder that holds images, with them. Real folders first, so that a link never renames one."""
    folders, links, seen = [root], list[Path](), set[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        for entry in entries:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
        images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        if images:
            yield folder, images


class _Row(NamedTuple):
    """A row of a CSV file; ``where`` names file and line for errors."""

    where: str
    path: Path
    label: str
    split: SplitName | None
    role: str


def load_csv(file: Path | str) -> Source:
    """Load a CSV file with the columns ``path`` and ``label`` and, if wanted, ``split`` and ``role``.

    Paths are relative to the file's folder. ``split`` is train, validation (or val) or test, and a class is in
    one of them alone: what is tested are classes never seen in training. ``role`` is query or gallery, for all
    images of validation or test or for none. Other columns are ignored. Classes and images come in the order of
    the file. UTF-8, with or without a byte order mark.

    Raises:
        ValueError: If the file cannot be used; the message names the line and says what to do.
    """
    file = Path(file).expanduser()
    rows = _read_csv(file)
    split_of_class = _split_of_class(rows)
    _check_unique_paths(rows)
    _check_roles(rows)
    label_of: dict[str, int] = {}
    for row in rows:
        label_of.setdefault(row.label, len(label_of))
    table = ImageTable(
        images=tuple(row.path for row in rows),
        labels=np.array([label_of[row.label] for row in rows]),
        class_names=tuple(label_of),
        roles=np.array([row.role for row in rows]) if any(row.role for row in rows) else None,
        name=file.stem,
    )
    return Source(table, split_of_class, file.parent)


def _read_csv(file: Path) -> list[_Row]:
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    rows: list[_Row] = []
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        line = 1
        try:
            header = _header(next(reader, []), file)
            line = reader.line_num + 1
            for fields in reader:
                if any(field.strip() for field in fields):
                    rows.append(_row(fields, header, f"{file}, line {line}", file.parent))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{file}, line {line}: not valid CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}, line {line} or later: not UTF-8; save the file as UTF-8") from error
    if not rows:
        raise ValueError(f"{file}: no images below the header; give one line for each")
    return rows


def _header(fields: list[str], file: Path) -> list[str]:
    header = [field.strip().lower() for field in fields]
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        raise ValueError(
            f"{file}, line 1: no column {' and '.join(missing)} in {','.join(header) or 'an empty line'}; "
            "the first line names the columns, separated by commas: path,label[,split[,role]]"
        )
    twice = [name for name in ("path", "label", "split", "role") if header.count(name) > 1]
    if twice:
        raise ValueError(f"{file}, line 1: the column {twice[0]} is there twice; keep one of them")
    return header


def _row(fields: list[str], header: list[str], where: str, folder: Path) -> _Row:
    if len(fields) != len(header):
        raise ValueError(
            f"{where}: {len(fields)} values for {len(header)} columns; put values that contain a comma in quotes"
        )
    cell = {name: field.strip() for name, field in zip(header, fields, strict=True)}
    for name in ("path", "label"):
        if not cell[name]:
            raise ValueError(f"{where}: the {name} is empty; fill it in or remove the line")
    split: SplitName | None = None
    if "split" in cell:
        if cell["split"].lower() not in _SPLITS:
            got = repr(cell["split"]) if cell["split"] else "nothing"
            raise ValueError(f"{where}: split must be train, validation (or val) or test, got {got}")
        split = _SPLITS[cell["split"].lower()]
    role = cell.get("role", "").lower()
    if role not in {"", "query", "gallery"}:
        raise ValueError(f"{where}: role must be query, gallery or empty, got {cell['role']!r}")
    path = folder / cell["path"]
    if not path.is_file():
        raise ValueError(f"{where}: there is no image {path}; paths are relative to the folder of the CSV file")
    return _Row(where, path, cell["label"], split, role)


def _split_of_class(rows: list[_Row]) -> dict[str, SplitName] | None:
    """Say for each class its split, and check that there is but one."""
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(row.label, row)
        if other.split != row.split:
            raise ValueError(
                f"{row.where}: class {row.label!r} is in {row.split} here and in {other.split} before "
                f"({other.where}); each class must be in one split only, as tests are on classes never trained on"
            )
    return {row.label: row.split for row in first.values() if row.split is not None} or None


def _check_unique_paths(rows: list[_Row]) -> None:
    first: dict[Path, _Row] = {}
    for row in rows:
        other = first.setdefault(row.path.resolve(), row)  # however it is spelt, and whatever links lead to it
        if other is not row:
            raise ValueError(
                f"{row.where}: {row.path} is listed before ({other.where}), and an image would find itself; "
                "remove one of the lines"
            )


def _check_roles(rows: list[_Row]) -> None:
    """Check that within a split all images have a role or none has, and that train has none."""
    first: dict[SplitName | None, _Row] = {}
    for row in rows:
        if row.split == "train" and row.role:
            raise ValueError(f"{row.where}: a training image has no role; leave it empty")
        other = first.setdefault(row.split, row)
        if bool(other.role) != bool(row.role):
            has, lacks = (row, other) if row.role else (other, row)
            raise ValueError(
                f"{lacks.where}: role is empty, and given elsewhere ({has.where}); "
                "give a role to all images of a split or to none"
            )
