"""Means, standard deviations, paired differences, and changes over the instances of alternating projections."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import ttest_rel

__all__ = ["MEASURES", "Change", "Gain", "Spread", "changes", "percent"]

MEASURES = {
    "train_covering_radius": ("training classes", "radius"),
    "train_interclass_distance": ("training classes", "distance"),
    "val_covering_radius": ("validation classes", "radius"),
    "val_interclass_distance": ("validation classes", "distance"),
}
"""The compared columns of ``metrics.csv``, with the classes and the measure that each is about."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator; None for a single number) of ``count`` numbers."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Compute mean and standard deviation.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, std=1.0, count=3)
        """
        values = [float(value) for value in values]
        if not values:
            raise ValueError("values: expected one or more, got none")
        std = stdev(values) if len(values) > 1 else None
        return cls(fmean(values), std, len(values))


@dataclass(frozen=True)
class Gain:
    """Gain of a row over another, repeat by repeat: with the same seeds on the same data.

    Attributes:
        over: Name of the other row.
        mean: Mean difference.
        std: Sample standard deviation of the differences; None for a single one.
        count: Repeats that both rows have.
        won: Repeats with a positive difference.
        p: Two-sided p-value of the paired t-test; None where it is undefined (one difference, or equal ones).
    """

    over: str
    mean: float
    std: float | None
    count: int
    won: int
    p: float | None

    @classmethod
    def of(cls, over: str, ours: Sequence[float], theirs: Sequence[float]) -> "Gain":
        """Compare paired scores.

        Example:
            >>> Gain.of("plain", [0.5, 0.75], [0.25, 0.25]).mean
            0.375
        """
        differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
        spread, won = Spread.of(differences), sum(difference > 0 for difference in differences)
        p = None
        if spread.std:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # differences that are almost equal
                p = float(ttest_rel(ours, theirs).pvalue)
        return cls(over, spread.mean, spread.std, spread.count, won, p)


@dataclass(frozen=True)
class Change:
    """A measure at the end of the first instance and at the end of training, over models.

    Attributes:
        before: Its mean at the last validation of the first instance.
        after: Its mean at the last validation of all.
        fell: Number of models in which it decreased.
        count: Number of models.
    """

    before: float
    after: float
    fell: int
    count: int


def changes(histories: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Change]:
    """Compare the end of the first instance with the end of training.

    Models without a projection are left out; so are measures that one of the other models lacks.

    Args:
        histories: Rows of ``metrics.csv`` of each model.

    Example:
        >>> validations = [{"instance": 0, "val_covering_radius": 0.5}, {"instance": 1, "val_covering_radius": 0.25}]
        >>> changes([validations])
        {'val_covering_radius': Change(before=0.5, after=0.25, fell=1, count=1)}

    Source: Gürbüz et al., WACV 2024: over the instances radii shrink, and distances between classes do not.
    """
    ends = []
    for validations in histories:
        first = [row for row in validations if row.get("instance") == 0]
        if first and validations[-1].get("instance", 0) > 0:
            ends.append((first[-1], validations[-1]))
    found = {}
    for name in MEASURES:
        if ends and all(name in before and name in after for before, after in ends):
            pairs = [(before[name], after[name]) for before, after in ends]
            fell = sum(after < before for before, after in pairs)
            found[name] = Change(fmean(a for a, _ in pairs), fmean(b for _, b in pairs), fell, len(pairs))
    return found


def percent(fraction: float, sign: str = "") -> str:
    """Return a fraction in per cent with two decimals, without a negative zero.

    Example:
        >>> percent(0.12345), percent(-0.00001, "+")
        ('12.35', '+0.00')
    """
    return f"{round(100 * fraction, 2) + 0.0:{sign}.2f}"
