"""Scores of each query by several runs, and what can be said about their differences.

Shapes: Q queries, S scores, K runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ccpml.report.embedded import Embedded
from ccpml.retrieval import ClassBootstrap, class_bootstrap, evaluate
from ccpml.retrieval.intervals import LEVEL

__all__ = ["SCORES", "Difference", "Estimate", "Verdict", "compare_tables", "holm", "score_queries"]

SCORES: Final = {
    "map_at_r": "MAP@R",
    "precision_at_1": "P@1",
    "r_precision": "P@R",
    "recall_at_1": "R@1",
    "recall_at_2": "R@2",
    "recall_at_4": "R@4",
    "recall_at_8": "R@8",
}
"""The compared scores and their titles, as `evaluate` reports them."""

_RECALLS: Final = (1, 2, 4, 8)

Verdict = Literal["better", "worse", "not distinguishable", "equal"]


@dataclass(frozen=True)
class Estimate:
    """A mean score over the queries, and its 95 % interval over classes; without one, there is a single class."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The mean difference of a score from that of the reference, over the same queries.

    Attributes:
        value: Score of the run, less that of the reference.
        low: Lower end of the 95 % interval over classes; None with a single class.
        high: Upper end.
        p_value: Two-sided p-value of no difference.
        p_adjusted: The same, adjusted by Holm for the number of runs that are compared with the reference.
        verdict: ``better`` or ``worse`` if the adjusted p-value is at most 0.05; ``equal`` if no query differs.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    verdict: Verdict


def score_queries(embedded: Embedded) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the scores of each query, (S, Q) in the order of `SCORES`, NaN for skipped ones, and their rows, (Q,).

    Raises:
        ValueError: If no query has a reference.
    """
    x, y, rows = embedded.embeddings, embedded.labels, embedded.rows("query")
    others = embedded.rows("gallery")
    gallery, classes = (x[others], y[others]) if embedded.has_roles else (None, None)
    found = evaluate(x[rows], y[rows], gallery, classes, _RECALLS, per_query=True).per_query
    assert found is not None
    recalls = [found.recall_at(k) for k in _RECALLS]
    return np.stack([found.map_at_r, found.precision_at_1, found.r_precision, *recalls]), rows


def compare_tables(
    tables: Sequence[NDArray[np.float64]], labels: NDArray[np.int64]
) -> tuple[list[dict[str, Estimate]], list[dict[str, Difference]]]:
    """Compare the scores of queries by several runs; the first is the reference.

    Args:
        tables: Scores of each query by each run, K of shape (S, Q).
        labels: Classes of the queries, (Q,).

    Returns:
        The estimates of each run, K, and the differences of each other run from the reference, K − 1; by score.
    """
    values = np.stack([*tables, *(table - tables[0] for table in tables[1:])])  # (2 K − 1, S, Q)
    bootstrap = class_bootstrap(values.reshape(-1, values.shape[-1]), labels)
    means = np.nanmean(values, axis=-1)  # (2 K − 1, S)
    count, names = len(tables), tuple(SCORES)
    single, paired = (_ends(bootstrap, bounds, means.shape) for bounds in ((0, 1), (-1, 1)))
    estimates = [
        {name: Estimate(float(means[k, s]), *single[k][s]) for s, name in enumerate(names)} for k in range(count)
    ]
    p_values = None if bootstrap is None else bootstrap.p_values().reshape(means.shape)[count:]  # (K − 1, S)
    adjusted = None if p_values is None else np.stack([holm(column) for column in p_values.T], axis=1)
    differences = []
    for k in range(count - 1):
        changed = np.nan_to_num(values[count + k]).any(axis=1)  # (S,)
        differences.append(
            {
                name: _difference(means[count + k, s], paired[count + k][s], changed[s], p_values, adjusted, (k, s))
                for s, name in enumerate(names)
            }
        )
    return estimates, differences


def _ends(bootstrap: ClassBootstrap | None, bounds: tuple[float, float], shape: tuple[int, ...]) -> Any:
    """Return the ends of the intervals of means by their indices."""
    if bootstrap is None:
        return np.full((*shape, 2), None).tolist()
    return bootstrap.intervals(LEVEL, bounds).reshape(*shape, 2).tolist()


def _difference(
    value: float,
    ends: Sequence[float | None],
    changed: bool,
    p_values: NDArray[np.float64] | None,
    adjusted: NDArray[np.float64] | None,
    at: tuple[int, int],
) -> Difference:
    p = None if p_values is None else float(p_values[at])
    p_adjusted = None if adjusted is None else float(adjusted[at])
    verdict: Verdict = "not distinguishable"
    if not changed:
        verdict = "equal"
    elif p_adjusted is not None and p_adjusted <= 1 - LEVEL + 1e-12:
        verdict = "better" if value > 0 else "worse"
    return Difference(float(value), ends[0], ends[1], p, p_adjusted, verdict)


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values of several tests, adjusted for their number.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
        [0.03, 0.06, 0.06]

    Source: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statistics 6, 1979.
    """
    order, count = np.argsort(p_values, kind="stable"), len(p_values)
    adjusted = np.empty(count)
    adjusted[order] = np.maximum.accumulate(p_values[order] * (count - np.arange(count))).clip(max=1.0)
    return adjusted
