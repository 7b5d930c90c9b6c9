"""The images on which runs are compared: those of classes that none of them was trained on or chosen by.

Shapes: N images, d dimensions of a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ccpml.comparison.by_files import match_by_files
from ccpml.data.class_records import listed_classes
from ccpml.report.embedded import Embedded, read_embedded
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.inference import Run, SeenClassesError, embed_normalized, leave_out_seen, unseen_images
from ccpml.runs.inference.rankings import table_for

__all__ = ["NoCommonClassesError", "UnseenImages", "find_unseen"]


_MATCHED: Final = (
    "classes were matched by the files of their images, as the data of the runs name classes or images differently"
)


class NoCommonClassesError(ValueError):
    """No class is unseen by all of the runs."""


@dataclass(frozen=True, eq=False)
class UnseenImages:
    """The same images, in the same order, by each run.

    Attributes:
        data: Where the images are from, in words.
        source: The data that have the pictures, as in `Settings.data`.
        embedded: Embeddings by each run; labels, class names, paths and roles are equal.
        notes: What was left out, and why.
        complete: Whether these are all test classes of each run.
    """

    data: str
    source: str
    embedded: Sequence[Embedded]
    notes: Sequence[str]
    complete: bool


def find_unseen(runs: Sequence[Run], data: str | None = None, **options: Any) -> UnseenImages:
    """Find the images of classes that none of the runs has seen, and their embeddings by each run.

    Without ``data``, they are the test classes that all runs have in common, with the embeddings that each run has
    kept; no image is read. Otherwise each run embeds them.

    Args:
        runs: Two or more runs.
        data: As in `evaluate_run`; None for the test classes of the runs.
        **options: Further options of `evaluate_run` about the images.

    Raises:
        NoCommonClassesError: If there is no such class.
        UnfinishedRunError: Without ``data``, if a run is not finished.
        ValueError: If a file of a run is missing or damaged, the data cannot be used, or options are given without.
    """
    if data is None and options:
        raise ValueError(f"{', '.join(options)}: expected together with data, got none")
    return _kept(runs) if data is None else _embed(runs, data, options)


def _embed(runs: Sequence[Run], data: str, options: dict[str, Any]) -> UnseenImages:
    try:
        table = unseen_images(runs[0], data, **options)
        for run in runs[1:]:
            table = leave_out_seen(table, run, f"{data}, {run.path}", False)
    except SeenClassesError as error:
        raise NoCommonClassesError(str(error)) from error
    names = tuple(table.name_of(row) for row in range(len(table)))
    roles = np.array([""] * len(table)) if table.roles is None else table.roles
    embedded = [
        Embedded(embed_normalized(run, table_for(run, runs[0], table)), table.labels, table.class_names, names, roles)
        for run in runs
    ]
    return UnseenImages(data, data, embedded, (), complete=False)


def _kept(runs: Sequence[Run]) -> UnseenImages:
    directories = [RunDirectory.open(run.path) for run in runs]
    for directory in directories:
        directory.scores()  # the run is finished, and its embeddings can be checked
    records = [directory.record() for directory in directories]
    tests = [[name for name, entry in record.classes.items() if entry.split == "test"] for record in records]
    embedded = [read_embedded(directory, "test") for directory in directories]
    try:
        common, notes = _common_classes([run.path for run in runs], records, tests)
        rows, left_out = _common_rows(embedded, records, common)
        if left_out:
            notes.append(f"{left_out:,} images that not all runs have were left out")
    except NoCommonClassesError:
        rows = match_by_files(embedded, records)
        if not rows[0].size:
            raise
        notes = [_MATCHED, *_left_out([run.path for run in runs], embedded, rows)]
    if not rows[0].size:
        raise NoCommonClassesError(
            f"{', '.join(str(run.path) for run in runs)}: expected test images that all runs have, got none"
        )
    return UnseenImages(
        data=runs[0].settings.data,
        source=runs[0].settings.data,
        embedded=_in_common_order(embedded, rows),
        notes=notes,
        complete=all(len(own) == len(each.labels) for own, each in zip(rows, embedded, strict=True)),
    )


def _common_classes(
    paths: Sequence[Path], records: Sequence[RunRecord], tests: Sequence[list[str]]
) -> tuple[list[str], list[str]]:
    """Return the test classes of all runs that have the same images, and a note on each reason to leave others out."""
    union, notes, common = list(dict.fromkeys(name for names in tests for name in names)), list[str](), list[str]()
    reasons: dict[str, list[str]] = {}
    for name in union:
        entries = [record.classes.get(name) for record in records]
        trained = [path for path, each in zip(paths, entries, strict=True) if each and each.split != "test"]
        absent = [path for path, each in zip(paths, entries, strict=True) if each is None]
        other = len({each[1:] for each in entries if each}) > 1
        if trained:
            reasons.setdefault(f"that {_listed(trained)} was trained on or chosen by", []).append(name)
        elif absent:
            reasons.setdefault(f"of which the data of {_listed(absent)} have none of that name", []).append(name)
        elif other:
            reasons.setdefault("whose images differ between the runs in number, name or role", []).append(name)
        else:
            common.append(name)
    for reason, names in reasons.items():
        notes.append(f"left out {listed_classes(names)} {reason}")
    if not common:
        raise NoCommonClassesError(
            f"{_listed(paths)}: expected a test class that none of the runs has seen, with the same images, got none: "
            f"{'; '.join(notes)}"
        )
    return common, notes


def _left_out(paths: Sequence[Path], embedded: Sequence[Embedded], rows: Sequence[NDArray[np.int64]]) -> list[str]:
    """Return a note on the classes of each run without rows; one for runs that lack classes of the same names."""
    runs_of = dict[tuple[str, ...], list[Path]]()
    for path, each, own in zip(paths, embedded, rows, strict=True):
        labels = np.setdiff1d(each.labels, each.labels[own])
        runs_of.setdefault(tuple(each.class_names[label] for label in labels), []).append(path)
    reason = "as not all runs have exactly their files in a class that none has seen"
    return [
        f"left out {listed_classes(list(names))} of {_listed(own)}, {reason}" for names, own in runs_of.items() if names
    ]


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _common_rows(
    embedded: Sequence[Embedded], records: Sequence[RunRecord], common: Sequence[str]
) -> tuple[list[NDArray[np.int64]], int]:
    """Return the rows of each run that hold the same images in the same order, and how many others there are.

    The record of a class has a digest of its images in order, so that complete classes correspond row by row, also if
    the data were elsewhere. If unreadable images were left out, the names of the others decide.
    """
    found: list[list[NDArray[np.int64]]] = [[] for _ in embedded]
    left_out = 0
    for name in common:
        rows = [
            np.flatnonzero(each.labels == each.class_names.index(name)) if name in each.class_names else np.arange(0)
            for each in embedded
        ]
        whole = all(len(own) == record.classes[name].images for own, record in zip(rows, records, strict=True))
        if not whole:
            names = [{each.paths[row]: row for row in own} for each, own in zip(embedded, rows, strict=True)]
            shared = [path for path in names[0] if all(path in others for others in names)]
            left_out += max(map(len, rows)) - len(shared)
            rows = [np.array([each[path] for path in shared], dtype=np.int64) for each in names]
        for own, part in zip(rows, found, strict=True):
            part.append(own)
    return [np.concatenate(part) for part in found], left_out


def _in_common_order(embedded: Sequence[Embedded], rows: Sequence[NDArray[np.int64]]) -> list[Embedded]:
    """Return rows of each run, with the labels, names and roles of the first one."""
    first, own = embedded[0], rows[0]
    kept, labels = np.unique(first.labels[own], return_inverse=True)
    names = tuple(first.class_names[label] for label in kept)
    paths, roles = tuple(first.paths[row] for row in own), first.roles[own]
    return [
        Embedded(each.embeddings[part], labels, names, paths, roles) for each, part in zip(embedded, rows, strict=True)
    ]
