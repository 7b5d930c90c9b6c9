"""A run beside the reference: classes and queries won and lost. Shapes: Q queries, C classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.comparison.statistics import Difference
from ccpml.report.embedded import Embedded

__all__ = ["Change", "ClassChange", "QueryChange", "Versus", "compare_queries"]

_SHOWN: Final = 6
"""Queries won, and queries lost, that are listed for each run; at most one of a class."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A MAP@R by the reference and by another run."""

    reference: float
    value: float

    @property
    def change(self) -> float:
        """Difference of both."""
        return self.value - self.reference


@dataclass(frozen=True, kw_only=True)
class ClassChange(Change):
    """The mean MAP@R of the queries of a class."""

    name: str
    queries: int


@dataclass(frozen=True, kw_only=True)
class QueryChange(Change):
    """The MAP@R of a query; ``row`` is that of its image."""

    path: str
    class_name: str
    row: int


@dataclass(frozen=True)
class Versus:
    """A run compared with the reference.

    Attributes:
        run: Number of the run in `Comparison.runs`.
        differences: By the names of the scores.
        won: Number of queries with a higher MAP@R than by the reference.
        lost: Number of queries with a lower one.
        equal: Number of the others.
        classes: All classes, the largest gain first.
        queries_won: Some of the queries with the largest gains, at most one of a class.
        queries_lost: Some of those with the largest losses.
    """

    run: int
    differences: Mapping[str, Difference]
    won: int
    lost: int
    equal: int
    classes: Sequence[ClassChange]
    queries_won: Sequence[QueryChange]
    queries_lost: Sequence[QueryChange]


def compare_queries(
    number: int,
    differences: Mapping[str, Difference],
    images: Embedded,
    rows: NDArray[np.int64],
    reference: NDArray[np.float64],
    values: NDArray[np.float64],
) -> Versus:
    """Compare the MAP@R of queries by a run and by the reference.

    Args:
        number: Number of the run.
        differences: Differences of its scores.
        images: The images by the reference.
        rows: Rows of the queries among them, (Q,).
        reference: MAP@R by the reference, (Q,); NaN for queries that are left out.
        values: MAP@R by the run, (Q,).
    """
    counted = np.flatnonzero(~np.isnan(reference))
    rows, reference, values = rows[counted], reference[counted], values[counted]
    changes = [
        QueryChange(
            path=images.paths[row],
            class_name=images.class_names[images.labels[row]],
            row=row,
            reference=before,
            value=after,
        )
        for row, before, after in zip(rows.tolist(), reference.tolist(), values.tolist(), strict=True)
    ]
    rising = sorted(changes, key=lambda each: each.change)
    falling = sorted(changes, key=lambda each: -each.change)
    return Versus(
        run=number,
        differences=differences,
        won=sum(each.change > 0 for each in changes),
        lost=sum(each.change < 0 for each in changes),
        equal=sum(each.change == 0 for each in changes),
        classes=sorted(_of_classes(images, rows, reference, values), key=lambda each: -each.change),
        queries_won=_one_of_each_class([each for each in falling if each.change > 0]),
        queries_lost=_one_of_each_class([each for each in rising if each.change < 0]),
    )


def _of_classes(
    images: Embedded, rows: NDArray[np.int64], reference: NDArray[np.float64], values: NDArray[np.float64]
) -> list[ClassChange]:
    """Return the means of each class that has queries, (Q,) each."""
    labels = images.labels[rows]
    sizes = np.bincount(labels)  # (C,)
    before, after = (np.bincount(labels, scores) / np.maximum(sizes, 1) for scores in (reference, values))
    return [
        ClassChange(
            name=images.class_names[label],
            queries=int(sizes[label]),
            reference=float(before[label]),
            value=float(after[label]),
        )
        for label in np.flatnonzero(sizes).tolist()
    ]


def _one_of_each_class(queries: Sequence[QueryChange]) -> list[QueryChange]:
    """Return the first queries, at most one of a class."""
    first: dict[str, QueryChange] = {}
    for query in queries:
        first.setdefault(query.class_name, query)
    return list(first.values())[:_SHOWN]
