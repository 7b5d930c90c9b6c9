"""The folder of results: the page, the table of findings, and the cleaned data."""

import csv
import io
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ccpml.artifacts import expand_home
from ccpml.cleaning.cleaned import cleaned_csv, relative_path
from ccpml.cleaning.found import CleanedData
from ccpml.cleaning.page import page_of
from ccpml.data.sources.csv_file import read_other_columns
from ccpml.data_name import DataName
from ccpml.files import errors_name, remove_leftovers, temporary_path, write_bytes, write_text

__all__ = ["COLUMNS", "TargetExistsError", "findings_csv", "require_free", "write_results"]

COLUMNS: Final = (
    "kind",
    "group",
    "path",
    "label",
    "suggested_label",
    "score",
    "split",
    "other_path",
    "cleaned",
    "note",
)
"""Columns of ``findings.csv``."""


class TargetExistsError(FileExistsError):
    """Something exists where results would be written."""


def require_free(output: Path) -> None:
    """Check that a folder can be created.

    Raises:
        TargetExistsError: If something exists there.
    """
    if output.exists() or output.is_symlink():
        raise TargetExistsError(f"{output}: already exists; choose another folder, or remove it")


def write_results(found: CleanedData, output: Path) -> None:
    """Write the folder of results, whole or not at all.

    Raises:
        TargetExistsError: If ``output`` exists.
        WriteError: If it cannot be written.
    """
    with _new_folder(output) as folder:
        _write_cleaned(found, folder, output)
        write_text(folder / "findings.csv", findings_csv(found, output))
        write_text(folder / "index.html", page_of(found))


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``output``, which takes its name when it is complete."""
    temporary = temporary_path(output)
    remove_leftovers(output)
    new = [parent for parent in output.absolute().parents if not parent.exists()]  # the innermost first
    try:
        with errors_name(output, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            require_free(output)
            temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # they hold the results, or something else
            for parent in new:
                parent.rmdir()


def findings_csv(found: CleanedData, output: Path) -> str:
    """Return the table of all findings, one in each row; paths are relative to the folder of the results."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in found.problems.findings:
        row, other = finding.row, finding.other
        split = found.splits[row] if row < found.count else "pool"
        cells = (
            found.path_of(row, output),
            found.label_of(row),
            found.name_of(finding.suggested),
            f"{finding.score:.4f}",
            split,
            found.path_of(other, output) if other >= 0 else "",
            found.fate(row),
        )
        writer.writerow((finding.kind, finding.group, *cells, finding.note))
    for number, image in enumerate(found.unreadable, 1):
        path = Path(image.name)
        name = relative_path(path, output) if path.is_file() else image.name
        writer.writerow(("unreadable", number, name, "", "", "", "", "", "left out: unreadable", image.reason))
    return text.getvalue()


def _write_cleaned(found: CleanedData, folder: Path, output: Path) -> None:
    """Write the pictures that stay, as a CSV file; those in no files of their own are written beside it."""
    kept = [row for row in range(found.count) if not found.fate(row).startswith("left out")]
    paths = list[str]()
    for row in kept:
        path = found.pictures.path(row)
        paths.append(_write_picture(found, row, folder) if path is None else relative_path(path, output))
    labels = [found.name_of(int(found.cleaned.labels[row])) for row in kept]
    splits = {found.label_of(row): split for row, split in enumerate(found.splits)}
    text = cleaned_csv(paths, labels, splits, [found.roles[row] for row in kept], _other_columns(found, kept))
    write_text(folder / "cleaned.csv", text)


def _other_columns(found: CleanedData, rows: Sequence[int]) -> dict[str, list[str]]:
    """Return the columns of the data's own CSV file that training ignores, such as metadata, of some pictures."""
    name = DataName.parse(found.data)
    if name.kind != "csv":
        return {}
    header, cells = read_other_columns(expand_home(name.path))
    none = [""] * len(header)
    own = [cells.get((found.pictures.path(row) or Path()).absolute(), none) for row in rows]
    return {column: [each[place] for each in own] for place, column in enumerate(header)}


def _write_picture(found: CleanedData, row: int, folder: Path) -> str:
    """Write a picture that is in no file of its own; return its path in the folder of the results."""
    content = found.pictures.content(row)
    if isinstance(content, bytes):
        name = Path("images", *Path(found.pictures.name(row)).parts[1:])
        write_bytes(folder / name, content, sync=False)
    else:
        from PIL import Image

        name, buffer = Path("images", f"{row:06d}.png"), io.BytesIO()
        Image.fromarray(content).save(buffer, "PNG")
        write_bytes(folder / name, buffer.getvalue(), sync=False)
    return name.as_posix()
