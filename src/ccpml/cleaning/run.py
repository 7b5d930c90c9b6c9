"""Clean some data with a trained run: read and embed the pictures, find problems, write the results."""

import csv
import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.cleaned import Cleaned, Drop, clean, cleaned_csv, find_excluded, relative_path
from ccpml.cleaning.pictures import Collection, Facts, PictureComparison, read_facts
from ccpml.cleaning.problems import KINDS, Problems, find_problems
from ccpml.data import BadImage, ImageTable, load_source
from ccpml.data.sources.source import Source, count_ignored
from ccpml.data_name import DataName
from ccpml.files import errors_name, write_bytes, write_text
from ccpml.method import lipschitz_normalize
from ccpml.progress import announce, progress_bar
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import cached_side
from ccpml.runs.inference import Run, embed_table, load_run

__all__ = ["CleanedData", "TargetExistsError", "clean_run", "default_output"]

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


@dataclass(frozen=True, eq=False)
class CleanedData:
    """What was found in some data, and what is left of them.

    Attributes:
        run: The run.
        data: Name of the data.
        pictures: The pictures of the data that can be read, then those of the pool.
        count: Number of the former, N.
        class_names: Names of the labels.
        labels: Labels of all pictures, −1 for none: int64.
        splits: Split of each of the N pictures: that of the data, or else of the run; empty for none.
        run_splits: The run's split of the class of each picture, by its name; empty for none.
        roles: Roles of the N pictures.
        unreadable: Pictures that cannot be read.
        problems: What was found.
        cleaned: Which pictures stay.
        seen: Names of the classes of the data that the run was trained on.
    """

    run: Run
    data: str
    pictures: Collection
    count: int
    class_names: Sequence[str]
    labels: NDArray[np.int64]
    splits: Sequence[str]
    run_splits: Sequence[str]
    roles: Sequence[str]
    unreadable: Sequence[BadImage]
    problems: Problems
    cleaned: Cleaned
    seen: Sequence[str]

    def label_of(self, row: int) -> str:
        """Return the name of the label of a picture; empty for none."""
        return self.name_of(int(self.labels[row]))

    def name_of(self, label: int) -> str:
        """Return the name of a label; empty for −1."""
        return self.class_names[label] if label >= 0 else ""

    def path_of(self, row: int, output: Path) -> str:
        """Return the path of a picture from the folder of the results, or its name if it is in no file of its own."""
        path = self.pictures.path(row)
        return self.pictures.name(row) if path is None else relative_path(path, output)

    def fate(self, row: int) -> str:
        """Return what becomes of a picture in ``cleaned.csv``."""
        if row >= self.count:
            return ""
        if reason := self.cleaned.reasons[row]:
            return f"left out: {reason}"
        changed = int(self.cleaned.labels[row])
        return "kept" if changed == self.labels[row] else f"label changed to {self.name_of(changed)}"

    def groups(self) -> dict[str, int]:
        """Return the number of groups, or else pictures, of each kind."""
        found = {(finding.kind, finding.group) for finding in self.problems.findings}
        counts = Counter(kind for kind, _ in found)
        return {kind: counts[kind] for kind in KINDS}


def default_output(run: Path, data: str) -> Path:
    """Return the folder of the results, named after the run and the data.

    Example:
        >>> default_output(Path("runs/ccp"), "folder:my/photos").name
        'ccp-photos-cleaned'
    """
    return Path(f"{run.resolve().name}-{DataName.parse(data).label}-cleaned")


def clean_run(
    path: Path,
    data: str,
    output: Path,
    *,
    pool: str | None = None,
    drop: Drop = "exact",
    relabel: bool = False,
    min_score: float = 0.9,
    data_root: str | None = None,
    allow_partial: bool = False,
) -> CleanedData:
    """Find problems of some data with the embeddings of a run, and write a page and two tables.

    ``output`` becomes a folder with ``index.html``, ``findings.csv`` and ``cleaned.csv``; of data that are in no files
    of their own, ``images/`` too. It is written whole or not at all, and nothing else is changed.

    Args:
        path: The directory of a run with weights.
        data: Data as in `Settings`; images need no labels.
        output: Folder of the results, which may not exist.
        pool: Further data, whose labels do not count, from which pictures are suggested for badly covered classes.
        drop: Which copies ``cleaned.csv`` leaves out: those with the same bytes, or of the same picture.
        relabel: Whether ``cleaned.csv`` has the suggested labels in place of probable errors.
        min_score: Score above which a label is a probable error.
        data_root: Folder of the benchmarks; None is the run's own, or $CCPML_DATA.
        allow_partial: Whether a benchmark may be incomplete.

    Raises:
        TargetExistsError: If ``output`` exists.
        UnfinishedRunError: If the run has no weights.
        ValueError: If the data cannot be used, no image can be read, or embeddings are not finite.
        WriteError: If the results cannot be written.
    """
    require_free(output)
    run = load_run(path)
    record = RunDirectory(path).record()
    _ = run.model  # that there are weights, before the images are read
    root = data_root or run.settings.data_root or None
    sources = [
        load_source(name, root, allow_partial, cached_side(run.settings), labeled=False)
        for name in (data, pool)
        if name is not None
    ]
    tables, facts, bad = _read(sources, [name for name in (data, pool) if name is not None])
    embeddings = np.concatenate([_embed(run, table) for table in tables])
    main, count = tables[0], len(tables[0])
    names, labels = _labels(main, len(embeddings))
    own = sources[0].split_of_class
    run_splits = [record.split_of_class.get(name, "") if name else "" for name in _names_of(names, labels[:count])]
    splits = run_splits if own is None else [own.get(name, "") for name in _names_of(names, labels[:count])]
    rest = [""] * (len(embeddings) - count)
    whose = {"the run": [*run_splits, *rest]}
    whose = whose if own is None else {"the data": [*splits, *rest], **whose}
    pictures = Collection(tables)
    announce("looking for problems")
    with progress_bar(0, "image", "searching", delay=2.0) as bar:
        problems = find_problems(
            embeddings,
            labels,
            class_names=names,
            content_hashes=facts.content_hashes,
            perceptual_hashes=facts.perceptual_hashes,
            ranks=_ranks(pictures, facts),
            same_picture=PictureComparison(pictures, facts),
            splits=whose,
            centers=run.settings.proxies_per_class,
            min_score=min_score,
            progress=bar.update,
        )
    data_alone = [one for one in problems.findings if one.kind != "outlier" or one.row < count]
    problems = replace(problems, findings=data_alone)
    roles = [""] * count if main.roles is None else main.roles.tolist()
    excluded = find_excluded([pictures.path(row) for row in range(count)], labels[:count], names)
    found = CleanedData(
        run=run,
        data=data,
        pictures=pictures,
        count=count,
        class_names=names,
        labels=labels,
        splits=splits,
        run_splits=run_splits,
        roles=roles,
        unreadable=bad,
        problems=problems,
        cleaned=clean(problems, labels[:count], splits, roles, drop, relabel, excluded),
        seen=[name for name in names if record.split_of_class.get(name) == "train"],
    )
    from ccpml.cleaning.page import page_of

    announce("writing the results")
    with _new_folder(output) as folder:
        _write_cleaned(found, folder, output)
        write_text(folder / "findings.csv", findings_csv(found, output))
        write_text(folder / "index.html", page_of(found))
    return found


def require_free(output: Path) -> None:
    """Check that a folder can be created.

    Raises:
        TargetExistsError: If something exists there.
    """
    if output.exists() or output.is_symlink():
        raise TargetExistsError(f"{output}: already exists; choose another folder, or remove it")


def _read(sources: Sequence[Source], names: Sequence[str]) -> tuple[list[ImageTable], Facts, list[BadImage]]:
    """Read all pictures once; name on standard error what is ignored, and those that cannot be read."""
    tables, facts, bad = list[ImageTable](), list[Facts](), list[BadImage]()
    for source, name in zip(sources, names, strict=True):
        if source.ignored:
            print(f"{name}: ignored {', '.join(count_ignored(source.ignored))}", file=sys.stderr)
        table, own, unreadable = read_facts(source.table)
        tables.append(table)
        facts.append(own)
        bad += unreadable
    joined = Facts(
        [key for one in facts for key in one.content_hashes],
        np.concatenate([one.perceptual_hashes for one in facts]),
        np.concatenate([one.sizes for one in facts]),
        np.concatenate([one.tiny for one in facts]),
    )
    return tables, joined, bad


def _ranks(pictures: Collection, facts: Facts) -> NDArray[np.int64]:
    """Return the rank of each picture: of copies, the largest is kept, then a file before a link, then a short name."""
    pixels = facts.sizes.prod(axis=1).tolist()

    def key(row: int) -> tuple[int, bool, int, int]:
        path = pictures.path(row)
        return -pixels[row], path is not None and path.is_symlink(), len(pictures.name(row)), row

    ranks = np.empty(len(pictures), np.int64)
    ranks[sorted(range(len(pictures)), key=key)] = np.arange(len(pictures))
    return ranks


def _embed(run: Run, table: ImageTable) -> NDArray[np.float32]:
    """Return φ-normalized embeddings, (N, d)."""
    embeddings: NDArray[np.float32] = lipschitz_normalize(embed_table(run, table).cpu()).numpy()
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{run.path}: expected finite embeddings, got NaN or infinity for {len(broken):,} of {len(table):,} "
            f"images, such as {table.name_of(int(broken[0]))}; the weights have diverged or are damaged"
        )
    return embeddings


def _labels(table: ImageTable, total: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the labels, without the empty one, and the labels of the table, then −1: (total,)."""
    names = [name for name in table.class_names if name]
    new = np.array([names.index(name) if name else -1 for name in table.class_names])
    labels = np.full(total, -1)
    labels[: len(table)] = new[table.labels]
    return names, labels


def _names_of(names: Sequence[str], labels: NDArray[np.int64]) -> list[str]:
    return [names[label] if label >= 0 else "" for label in labels.tolist()]


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``output``, which takes its name when it is complete."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
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
    text = cleaned_csv(paths, labels, _split_of_label(found), [found.roles[row] for row in kept])
    write_text(folder / "cleaned.csv", text)


def _split_of_label(found: CleanedData) -> Mapping[str, str]:
    return {found.label_of(row): split for row, split in enumerate(found.splits)}


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
