"""Bootstrap intervals of mean scores, and of paired differences of scores, over the classes of the queries.

Shapes: M scores, Q queries, C classes, B samples of the bootstrap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ccpml.numbers import as_int, is_finite
from ccpml.retrieval.evaluation import RetrievalScores
from ccpml.retrieval.inputs import as_numbers, as_unmasked

__all__ = [
    "LEVEL",
    "MIN_CLASSES",
    "SAMPLES",
    "ClassBootstrap",
    "PairedDifference",
    "class_bootstrap",
    "class_interval",
    "describe_intervals",
    "paired_difference",
    "score_intervals",
]

LEVEL: Final = 0.95
"""Level of the intervals that runs report."""

MIN_CLASSES: Final = 10
"""Number of classes from which on the intervals hold as often as they say; see ``docs/compare.md``."""

SAMPLES: Final = 9999
"""Samples of the bootstrap, for all that is reported, so that a score has one interval."""

_CHUNK: Final = 2**22
"""Draws of a class that are held at a time."""

_ROUNDING: Final = 1e-12

_MIN_ERROR: Final = 0.25
"""Smallest standard error of a sample, as a fraction of that of the data. Where few classes differ from the others,
some samples hold none of them; without a bound, their studentized deviations, and so the intervals, are infinite."""

_UNBOUNDED: Final = (-np.inf, np.inf)

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassBootstrap:
    """Means of scores over queries, and how they vary over draws of classes; `class_bootstrap` computes it.

    Attributes:
        means: Mean of each score over all queries, shape (M,).
        errors: Its standard error over classes, shape (M,).
        studentized: Deviation of the mean of each sample from ``means``, divided by the standard error of that sample
            (at least a quarter of ``errors``), in ascending order, shape (M, B); 0 for scores that are equal
            everywhere.
        num_classes: C.
    """

    means: _Array
    errors: _Array
    studentized: _Array
    num_classes: int

    def intervals(self, level: float = LEVEL, bounds: tuple[float, float] = _UNBOUNDED) -> _Array:
        """Return the lower and the upper end of the interval of each score, shape (M, 2).

        Args:
            level: Coverage, in (0, 1).
            bounds: Smallest and largest possible value of a mean; intervals end there.

        Raises:
            ValueError: If the level or the bounds are out of range.
        """
        _check_interval(level, bounds)
        samples = self.studentized.shape[1]
        rank = max(int((samples + 1) * (1 - level) / 2 + _ROUNDING), 1)  # order statistics, from either end
        low, high = self.studentized[:, rank - 1], self.studentized[:, samples - rank]
        return (self.means[:, None] - np.stack([high, low], axis=1) * self.errors[:, None]).clip(*bounds)

    def p_values(self) -> _Array:
        """Return the two-sided p-value of a mean of 0, for each score, shape (M,).

        It is at most 1 − level if, and only if, the interval of that level does not hold 0, and there are enough
        classes: of C classes it is never below 2^(1 − C), that of a test of signs. The smallest one is 2 / (B + 1).
        """
        samples = self.studentized.shape[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            observed = np.where(self.means == 0, 0.0, self.means / self.errors)  # infinite without spread
        found = [
            2 * (1 + min(samples - np.searchsorted(row, at, "left"), np.searchsorted(row, at, "right"))) / (samples + 1)
            for row, at in zip(self.studentized, observed, strict=True)
        ]
        return np.minimum(np.maximum(found, 2.0 ** (1 - self.num_classes)), 1.0)


class PairedDifference(NamedTuple):
    """Mean difference of a score between two systems on the same queries, its interval, and its p-value.

    ``p_value`` is that of no difference, two-sided; see `ClassBootstrap.p_values`.
    """

    mean: float
    low: float
    high: float
    p_value: float


def class_bootstrap(
    values: npt.ArrayLike, labels: npt.ArrayLike, *, samples: int = SAMPLES, seed: int = 0
) -> ClassBootstrap | None:
    """Draw classes with replacement, and return the studentized deviations of the means of scores over queries.

    Queries of a class share what is hard about it, so they are not independent; classes are. A sample draws as many
    classes as there are and averages over all their queries. The mean is a ratio of sums over classes, Σ s_c / Σ n_c,
    with the standard error (C/(C−1) Σ (s_c − m n_c)²)^½ / Σ n_c.

    Args:
        values: Scores of each query, shape (M, Q); a query counts if none of its values is NaN.
        labels: Classes of the queries, shape (Q,).
        samples: B.
        seed: Random seed.

    Returns:
        The bootstrap; None with fewer than two classes.

    Raises:
        ValueError: If the shapes do not fit, a value is infinite or masked, or the seed is no integer of at least 0.

    Example:
        >>> scores = [[0.0, 0.2, 0.5, 0.5, 1.0, 0.8], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]]
        >>> class_bootstrap(scores, [0, 0, 1, 1, 2, 2]).means.round(2).tolist()
        [0.5, 0.83]

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5 (bootstrap-t); A. C.
    Davison, D. V. Hinkley, "Bootstrap Methods and their Application", 1997, sections 3.8 (clusters) and 5.2.
    """
    scores, classes = as_numbers("values", values), _as_classes(labels)
    if scores.ndim != 2 or scores.shape[1:] != classes.shape:
        advice = "; pass values[None]" if scores.shape == classes.shape else ""
        raise ValueError(f"values: expected shape (M, {len(classes)}), got {scores.shape}{advice}")
    samples, rng = as_int("samples", samples, 1), np.random.default_rng(as_int("seed", seed, 0))
    counted = ~np.isnan(scores).any(axis=0)
    _, own = np.unique(classes[counted], return_inverse=True)
    n = np.bincount(own).astype(np.float64)  # queries of each class, (C,)
    if len(n) < 2:
        return None
    sums = np.stack([np.bincount(own, row) for row in scores[:, counted]], axis=1)  # (C, M)
    means = sums.sum(axis=0) / n.sum()  # (M,)
    rests = sums - means * n[:, None]  # s_c − m n_c, of sum 0
    rests[np.abs(rests) <= _ROUNDING * (np.abs(sums) + np.abs(means) * n[:, None])] = 0
    correction = len(n) / (len(n) - 1)
    errors = np.sqrt(correction * np.square(rests).sum(axis=0)) / n.sum()
    studentized, step = np.empty((len(means), samples)), max(1, _CHUNK // len(n))
    for start in range(0, samples, step):
        times = _times_drawn(rng, min(step, samples - start), len(n))  # (b, C)
        deviation, error = _of_samples(times, rests, n, correction)  # (b, M)
        error = np.where(errors > 0, np.maximum(error, _MIN_ERROR * errors), 1.0)
        studentized[:, start : start + step] = (deviation / error).T
    studentized.sort(axis=1)
    return ClassBootstrap(means, errors, studentized, len(n))


def _times_drawn(rng: np.random.Generator, samples: int, classes: int) -> _Array:
    """Return how often each sample draws each class, shape (samples, classes)."""
    drawn = rng.integers(classes, size=(samples, classes)) + classes * np.arange(samples)[:, None]
    return np.bincount(drawn.ravel(), minlength=samples * classes).reshape(samples, classes).astype(np.float64)


def _of_samples(times: _Array, rests: _Array, n: _Array, correction: float) -> tuple[_Array, _Array]:
    """Return the deviations of the means of samples, and the standard errors of the samples, both (b, M)."""
    queries = (times @ n)[:, None]
    deviation = times @ rests / queries
    squares = times @ np.square(rests) + np.square(deviation) * (times @ np.square(n))[:, None]
    squares -= 2 * deviation * (times @ (rests * n[:, None]))  # Σ (s_c − m* n_c)², m* the mean of the sample
    return deviation, np.sqrt(correction * squares.clip(min=0)) / queries


def class_interval(
    values: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = _UNBOUNDED,
) -> tuple[float, float] | None:
    """Return the studentized bootstrap interval of the mean of a score over queries, with classes as the units.

    The interval is about other classes of the same kind. In simulations of classes that differ in size and difficulty,
    it held the true mean in 93 to 97 % of cases from 10 classes on (``docs/compare.md``); with fewer it is wide.

    Args:
        values: Score of each query, shape (Q,), such as `PerQuery.map_at_r`; NaN for queries that do not count.
        labels: Classes of the queries, shape (Q,).
        level: Coverage, in (0, 1).
        samples: Samples of the bootstrap.
        seed: Random seed.
        bounds: Smallest and largest possible mean, such as (0, 1); the interval ends there.

    Returns:
        The lower and the upper end; None with fewer than two classes.

    Raises:
        ValueError: If the shapes differ, a value is infinite or masked, or the level or the bounds are out of range.

    Example:
        >>> low, high = class_interval([0.1, 0.3, 0.2, 0.4, 0.4, 0.7, 0.5, 0.6], [0, 0, 1, 1, 2, 3, 4, 5])
        >>> round(low, 2), round(high, 2)
        (0.09, 0.63)

    Source: see `class_bootstrap`.
    """
    _check_interval(level, bounds)
    bootstrap = class_bootstrap(_one_row("values", values, labels), labels, samples=samples, seed=seed)
    if bootstrap is None:
        return None
    low, high = bootstrap.intervals(level, bounds)[0].tolist()
    return low, high


def paired_difference(
    values: npt.ArrayLike,
    reference: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = _UNBOUNDED,
) -> PairedDifference | None:
    """Compare the scores of two systems on the same queries, with classes as the units.

    What makes a class hard for both cancels in the difference of each query, so the interval is narrower than those of
    the two means suggest. It is about other classes of the same kind, and not about other seeds of the training.

    Args:
        values: Score of each query, shape (Q,).
        reference: Scores of the same queries by the other system, shape (Q,).
        labels: Classes of the queries, shape (Q,).
        level: Coverage, in (0, 1).
        samples: Samples of the bootstrap; the smallest p-value is 2 / (samples + 1).
        seed: Random seed.
        bounds: Smallest and largest possible difference, such as (−1, 1).

    Returns:
        The mean of ``values`` − ``reference``, its interval, and the p-value; None with fewer than two classes.

    Raises:
        ValueError: If the shapes differ, a value is infinite or masked, or the level or the bounds are out of range.

    Example:
        >>> ours, theirs = [0.5, 0.7, 0.4, 0.9, 0.6, 0.8], [0.4, 0.5, 0.3, 0.8, 0.5, 0.5]
        >>> found = paired_difference(ours, theirs, [0, 1, 2, 3, 4, 5])
        >>> round(found.mean, 3), found.low > 0, found.p_value < 0.05
        (0.15, True, True)

    Source: see `class_bootstrap`.
    """
    _check_interval(level, bounds)
    ours, theirs = _one_row("values", values, labels), _one_row("reference", reference, labels)
    bootstrap = class_bootstrap(ours - theirs, labels, samples=samples, seed=seed)
    if bootstrap is None:
        return None
    low, high = bootstrap.intervals(level, bounds)[0].tolist()
    return PairedDifference(float(bootstrap.means[0]), low, high, float(bootstrap.p_values()[0]))


def _one_row(name: str, values: npt.ArrayLike, labels: npt.ArrayLike) -> _Array:
    """Return the values of one score, shape (1, Q)."""
    scores, classes = as_numbers(name, values), _as_classes(labels)
    if scores.shape != classes.shape:
        raise ValueError(f"{name}: expected one for each of {len(classes)} labels, got shape {scores.shape}")
    return scores[None]


def _as_classes(labels: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return the classes of queries, shape (Q,)."""
    classes = as_unmasked("labels", labels)
    if classes.ndim != 1:
        raise ValueError(f"labels: expected shape (Q,), got {classes.shape}")
    if classes.dtype.kind == "f" and np.isnan(classes).any():
        raise ValueError("labels: expected the class of each query, got NaN")
    if classes.dtype.kind == "O":
        try:
            np.unique(classes)
        except TypeError as error:  # None beside texts
            raise ValueError(f"labels: expected classes of one type ({error})") from None
    return classes


def _check_interval(level: float, bounds: tuple[float, float]) -> None:
    """Raise ValueError unless an interval can have this level and end at these bounds."""
    if not (is_finite(level) and 0 < level < 1):
        raise ValueError(f"level: expected a fraction in (0, 1), got {level!r}")
    try:
        low, high = bounds
        valid = bool(high - low >= 0)
    except (TypeError, ValueError, RuntimeError):  # not two numbers
        valid = False
    if not valid:
        raise ValueError(f"bounds: expected a smallest and a largest mean, such as (0, 1), got {bounds!r}")


def score_intervals(scores: RetrievalScores, labels: npt.ArrayLike, seed: int = 0) -> dict[str, list[float]]:
    """Return the intervals of MAP@R and P@1 by name, from scores with those of each query; empty with one class.

    Args:
        scores: Scores with ``per_query``.
        labels: Classes of the queries, shape (Q,).
        seed: Random seed.

    Raises:
        ValueError: If the scores of the queries were not requested.
    """
    if scores.per_query is None:
        raise ValueError("scores: expected those of each query, got none; pass per_query=True to evaluate")
    names = ("map_at_r", "precision_at_1")
    found = {name: class_interval(getattr(scores.per_query, name), labels, seed=seed, bounds=(0, 1)) for name in names}
    return {name: list(interval) for name, interval in found.items() if interval is not None}


def describe_intervals(intervals: Mapping[str, Sequence[float]]) -> str:
    """Return intervals as a phrase; empty if there are none.

    Those without width, of a score that all classes share, are left out: they say nothing about other classes.

    Example:
        >>> describe_intervals({"map_at_r": [0.25, 0.5], "precision_at_1": [0.5, 0.75]})
        '95 % intervals over classes: MAP@R 0.2500 to 0.5000, P@1 0.5000 to 0.7500'
    """
    titles = {"map_at_r": "MAP@R", "precision_at_1": "P@1"}
    ends = {title: intervals[name] for name, title in titles.items() if name in intervals}
    parts = [f"{title} {low:.4f} to {high:.4f}" for title, (low, high) in ends.items() if low < high]
    return f"{100 * LEVEL:.0f} % intervals over classes: {', '.join(parts)}" if parts else ""
