"""Classes of runs whose data name classes or images differently, matched by the files of their images."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccpml.report.embedded import Embedded
from ccpml.runs.directory import RunRecord

__all__ = ["match_by_files"]


def match_by_files(embedded: Sequence[Embedded], records: Sequence[RunRecord]) -> list[NDArray[np.int64]]:
    """Return the rows of each run that hold the same files in the same order: test classes of all runs.

    Classes correspond if they have exactly the same files in the same roles, whatever their names, as those of a folder
    and of a CSV file of the same images. Links are followed, and no file is read. A class is left out if a run was
    trained on a class of its name.

    Args:
        embedded: The test images of each run.
        records: What each run was started with.
    """
    rows_of = [_rows_of_files(each) for each in embedded]
    seen = [{name for name, entry in record.classes.items() if entry.split != "test"} for record in records]
    found: list[list[int]] = [[] for _ in embedded]
    for files in rows_of[0]:
        if not all(files in own for own in rows_of):
            continue
        rows = [own[files] for own in rows_of]
        names = {each.class_names[each.labels[own[0]]] for each, own in zip(embedded, rows, strict=True)}
        if not any(names & each for each in seen):
            for part, own in zip(found, rows, strict=True):
                part.extend(own)
    return [np.array(part, dtype=np.int64) for part in found]


def _rows_of_files(images: Embedded) -> dict[frozenset[tuple[str, str]], list[int]]:
    """Return the rows of each class, in the order of their files, by these files and their roles."""
    files = defaultdict[int, dict[tuple[str, str], int]](dict)
    for row, (label, path, role) in enumerate(
        zip(images.labels.tolist(), images.paths, images.roles.tolist(), strict=True)
    ):
        if Path(path).is_absolute():  # not a picture within an archive, or one that was drawn
            files[label][os.path.realpath(path), role] = row
    return {frozenset(own): [own[file] for file in sorted(own)] for own in files.values()}
