"""Clean some data with a trained run: read and embed the pictures, find problems, write the results."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccpml.artifacts import expand_home
from ccpml.cleaning.cleaned import Drop, check_drop, clean, find_excluded
from ccpml.cleaning.found import CleanedData
from ccpml.cleaning.pictures import Collection, Facts, PictureComparison, read_facts
from ccpml.cleaning.problems import Problems, find_problems
from ccpml.cleaning.results import require_free, write_results
from ccpml.data import BadImage, ImageTable
from ccpml.data.loading import read_source
from ccpml.data.sources.source import Source, count_ignored
from ccpml.data_name import DataName
from ccpml.numbers import check_flags
from ccpml.progress import announce, progress_bar
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import cached_side
from ccpml.runs.inference import Run, embed_normalized, open_weights
from ccpml.runs.inference.unseen import splits_by_files

__all__ = ["clean_run", "default_output"]


def default_output(run: Path, data: str) -> Path:
    """Return the folder of the results, named after the run and the data.

    Example:
        >>> default_output(Path("runs/ccp"), "folder:my/photos").name
        'ccp-photos-cleaned'
    """
    return Path(f"{run.resolve().name}-{DataName.parse(data).label}-cleaned")


def clean_run(
    path: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
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
    check_drop(drop)
    check_flags(relabel=relabel, allow_partial=allow_partial)
    output = expand_home(output)
    require_free(output)
    run, record = open_weights(path), RunDirectory(path).record()
    _ = run.model  # that there are weights, before the images are read
    names = [name for name in (data, pool) if name is not None]
    root, side = data_root or run.settings.data_root or None, cached_side(run.settings)
    sources = [read_source(name, root, allow_partial, side, labeled=False) for name in names]
    tables, facts, bad = _read(sources, names)
    pictures, count = Collection(tables), len(tables[0])
    class_names, labels = _labels(tables[0], len(pictures))
    of_run = {**record.split_of_class, **splits_by_files(tables[0], run, record)}
    splits, run_splits, whose = _splits(of_run, sources[0], [class_names[y] if y >= 0 else "" for y in labels[:count]])
    problems = _search(run, pictures, facts, labels, class_names, whose, min_score)
    roles = [""] * count if tables[0].roles is None else tables[0].roles.tolist()
    excluded = find_excluded([pictures.path(row) for row in range(count)], labels[:count], class_names)
    found = CleanedData(
        run=run,
        data=data,
        pictures=pictures,
        count=count,
        class_names=class_names,
        labels=labels,
        splits=splits,
        run_splits=run_splits,
        roles=roles,
        unreadable=bad,
        problems=problems,
        cleaned=clean(problems, labels[:count], splits, roles, drop, relabel, excluded),
        seen=[name for name in class_names if of_run.get(name) == "train"],
    )
    announce("writing the results")
    write_results(found, output)
    return found


def _splits(
    split_of_class: Mapping[str, str], source: Source, names: Sequence[str]
) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Return the splits of the N pictures of the data, (N,), by the names of their labels, empty for none.

    Returns:
        The splits of the data, or else of the run; those of the run; and those in which leaks are looked for, by whose
        they are.
    """
    of_run = [split_of_class.get(name, "") if name else "" for name in names]
    own = source.split_of_class
    if own is None:
        return of_run, of_run, {"the run": of_run}
    of_data = [own.get(name, "") for name in names]
    return of_data, of_run, {"the data": of_data, "the run": of_run}


def _search(
    run: Run,
    pictures: Collection,
    facts: Facts,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[str]],
    min_score: float,
) -> Problems:
    """Embed all pictures and find their problems; those of the pool are no outliers, and in no split."""
    embeddings = np.concatenate([embed_normalized(run, table) for table in pictures.tables])
    count = len(pictures.tables[0])
    rest = [""] * (len(pictures) - count)
    announce("looking for problems")
    with progress_bar(0, "image", "searching", delay=2.0) as bar:
        problems = find_problems(
            embeddings,
            labels,
            class_names=class_names,
            content_hashes=facts.content_hashes,
            perceptual_hashes=facts.perceptual_hashes,
            ranks=_ranks(pictures, facts),
            same_picture=PictureComparison(pictures, facts),
            splits={whose: [*own, *rest] for whose, own in splits.items()},
            centers=run.settings.proxies_per_class,
            min_score=min_score,
            progress=bar.update,
        )
    of_data = [one for one in problems.findings if one.kind != "outlier" or one.row < count]
    return replace(problems, findings=of_data)


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


def _labels(table: ImageTable, total: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the labels, without the empty one, and the labels of the table, then −1: (total,)."""
    names = [name for name in table.class_names if name]
    new = np.array([names.index(name) if name else -1 for name in table.class_names])
    labels = np.full(total, -1)
    labels[: len(table)] = new[table.labels]
    return names, labels
