"""Bounds of a mean of independent losses in [0, 1], from their definitions.

Sources: S. Bates et al., "Distribution-Free, Risk-Controlling Prediction Sets", JACM 2021 (Hoeffding–Bentkus);
I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024; C. Clopper and
E. Pearson, Biometrika 1934.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

__all__ = ["STAKES", "Betting", "binomial_p_value", "hoeffding_bentkus_p_value", "upper_bound"]

STAKES: Final = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
"""Stakes to choose from: fractions of the capital that a loss of 1 takes away."""

_PILOT_WEIGHT: Final = 20


def binomial_p_value(errors: int, count: int, alpha: float) -> float:
    """Return P(Bin(count, alpha) ≤ errors), the p-value of the hypothesis that errors have a rate of at least alpha.

    It is exact where each class has one query. The rates that it does not reject at a level are those below the bound
    of Clopper and Pearson.

    Example:
        >>> round(binomial_p_value(0, 59, 0.05), 4)  # 0.95 ** 59
        0.0485
    """
    return float(bdtr(errors, count, alpha)) if count else 1.0


def hoeffding_bentkus_p_value(mean: float, count: int, alpha: float) -> float:
    """Return a p-value of the hypothesis that the expectation of losses is at least alpha, given their mean.

    min(exp(−n kl(min(R̂, α), α)), e P(Bin(n, α) ≤ ⌈n R̂⌉)), where kl is the divergence of two Bernoulli variables.

    Args:
        mean: R̂, the mean of n losses in [0, 1].
        count: n.
        alpha: A rate in (0, 1).

    Example:
        >>> round(hoeffding_bentkus_p_value(0.0, 59, 0.05), 4)
        0.0485

    Source: Bates et al. 2021, Section 3.1.2.
    """
    low = min(mean, alpha)
    divergence = (low * math.log(low / alpha) if low else 0.0) + (
        (1 - low) * math.log((1 - low) / (1 - alpha)) if low < 1 else 0.0
    )
    errors = math.ceil(round(count * mean, 9))  # 3.0000000000000004 errors are 3
    return min(math.exp(-count * divergence), math.e * binomial_p_value(errors, count, alpha), 1.0)


def upper_bound(losses: NDArray[np.float64], confidence: float, binary: bool = False) -> float:
    """Return an upper confidence bound of the expectation of losses.

    Args:
        losses: Independent losses in [0, 1], (n,).
        confidence: Probability that the bound is above the expectation, at least.
        binary: Whether each loss is 0 or 1 by design. The bound is then that of Clopper and Pearson, which is exact.

    Returns:
        The bound; 1 without losses.

    Example:
        >>> round(upper_bound(np.zeros(59), 0.95), 3)
        0.05
    """
    count, level = len(losses), 1 - confidence
    if count == 0:
        return 1.0
    mean = float(np.mean(losses))
    if binary:
        errors = round(count * mean)
        return 1.0 if errors == count else float(betaincinv(errors + 1, count - errors, confidence))
    low, high = mean, 1.0  # the p-value falls from 1 at the mean
    for _ in range(50):
        middle = (low + high) / 2
        if not low < middle < high:  # there is no number between the two
            break
        low, high = (middle, high) if hoeffding_bentkus_p_value(mean, count, middle) > level else (low, middle)
    return high


class Betting:
    """Bets that the expectations of losses are below alpha, at several thresholds at once.

    Each loss L multiplies a capital of 1 by 1 + λ (α − L), with a stake λ that may depend on what is known before. If
    the expectation is at least alpha, the capital is a nonnegative supermartingale, and ever reaches 1/δ with a
    probability of at most δ (Ville). The stake is the one that would have multiplied the capital most in the losses
    before: those of a pilot, and those observed.

    Args:
        alpha: A rate in (0, 1).
        pilot: Losses of other classes than those observed, (classes, T); NaN where there are none. They weigh as much
            as 20 classes at most.

    Example:
        >>> betting = Betting(0.05, np.zeros((20, 1)))
        >>> for _ in range(62):
        ...     betting.observe(np.zeros(1))
        >>> betting.p_values.round(3).tolist()
        [0.049]

    Source: Waudby-Smith and Ramdas 2024, Section 4.
    """

    def __init__(self, alpha: float, pilot: NDArray[np.float64]) -> None:
        self._alpha, self._stakes = alpha, STAKES / (1 - alpha)
        imagined = alpha * np.log1p(-STAKES) + (1 - alpha) * np.log1p(alpha * self._stakes)
        known = np.mean([self._growth(losses) for losses in pilot], axis=0)  # (T, stakes)
        self._known = imagined + known * min(len(pilot), _PILOT_WEIGHT)
        self._log_capital = np.zeros(pilot.shape[1])
        self._largest = self._log_capital

    @property
    def best_threshold(self) -> int:
        """Index of a threshold at which the capital would have grown much until now.

        It is the middle one of those with at least half of the largest growth, at the best constant stake of each.
        Thresholds at the end among which nothing changes count as one.
        """
        growth = self._known.max(1)
        growth = growth[: 1 + int(np.flatnonzero(np.append(-np.inf, growth) != growth[-1])[-1])]
        return int(np.median(np.flatnonzero(growth >= growth.max() / 2)))

    @property
    def p_values(self) -> NDArray[np.float64]:
        """The p-value of the hypothesis that the expectation is at least alpha at each threshold, (T,)."""
        return np.exp(-self._largest)

    def observe(self, losses: NDArray[np.float64]) -> None:
        """Bet on the losses of one class at each threshold, (T,), in [0, 1]; NaN where it has none."""
        growth = self._growth(losses)
        self._log_capital = self._log_capital + np.take_along_axis(growth, self._known.argmax(1)[:, None], 1)[:, 0]
        self._largest = np.maximum(self._largest, self._log_capital)
        self._known += growth

    def _growth(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logarithm of what each stake multiplies the capital with, (T, stakes)."""
        gains = np.where(np.isnan(losses), 0.0, self._alpha - losses)
        return np.log1p(gains[:, None] * self._stakes)
