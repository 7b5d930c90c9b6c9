"""Means, standard deviations and paired differences."""

import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import ttest_rel

__all__ = ["Gain", "Spread", "percent"]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of some numbers.

    Attributes:
        mean: The mean.
        std: The standard deviation, with n - 1 in the denominator; None for a single number.
        count: n.
    """

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Compute mean and standard deviation.

        Raises:
            ValueError: If there are no values.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, std=1.0, count=3)
        """
        values = [float(value) for value in values]
        if not values:
            raise ValueError("values: expected one or more, got none")
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))


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


def percent(fraction: float, sign: str = "") -> str:
    """Return a fraction in per cent with two decimals, without a negative zero.

    Example:
        >>> percent(0.12345), percent(-0.00001, "+")
        ('12.35', '+0.00')
    """
    return f"{round(100 * fraction, 2) + 0.0:{sign}.2f}"
