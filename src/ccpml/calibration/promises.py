"""Promises about future classes, from the answers to queries of the calibration classes.

Classes are the independent units: a future class is assumed to be drawn like those of the calibration, and to meet a
gallery like theirs. Shapes: n calibration classes, T thresholds.

Sources: A. Angelopoulos et al., "Learn then Test", AOAS 2025 (fixed-sequence testing); A. Angelopoulos et al.,
"Conformal Risk Control", ICLR 2024.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.calibration.answers import THRESHOLDS, Answers
from ccpml.calibration.bounds import STAKES, Betting, binomial_p_value

__all__ = [
    "answer_set_size",
    "classes_for_control",
    "classes_for_precision",
    "cut_classes",
    "largest_threshold",
    "rejection_threshold",
    "threshold",
    "threshold_tests",
]

_MANY: Final = 1_000_000
"""A number of classes that nobody has."""


def cut_classes(count: int, seed: int, share: float = 0.5) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut classes 0..count − 1 at random into those that calibrate and those that check, at least one each.

    Args:
        count: Number of classes, at least 2.
        seed: Seed of the cut.
        share: Fraction of the classes that calibrate, in (0, 1), rounded up.

    Example:
        >>> [len(part) for part in cut_classes(7, seed=0)]
        [4, 3]
    """
    order = np.random.default_rng(seed).permutation(count)
    cut = min(math.ceil(round(count * share, 9)), count - 1)
    return order[:cut], order[cut:]


def threshold_tests(
    losses: NDArray[np.float64], pilot: NDArray[np.float64], precision: float, binary: bool = False
) -> tuple[NDArray[np.float64], int]:
    """Test, at each threshold, the hypothesis that the mean precision of a class is less than ``precision``.

    Args:
        losses: The fraction of wrong answers of each class at each threshold, (n, T), the classes in random order; NaN
            without answers. Given which classes have answers, their losses are independent.
        pilot: Those of other classes, which choose the stakes and the threshold that is tested first: any choice that
            does not look at the calibration classes keeps the promise, and a good one makes it likelier.
        precision: In (0, 1).
        binary: Whether each class has one query, so that a loss is 0 or 1. The p-values are then the exact ones.

    Returns:
        The p-values, (T,), and the index of the threshold that is tested first.
    """
    betting = Betting(1 - precision, pilot)
    first = betting.best_threshold
    if binary:
        errors, counts = np.nansum(losses, 0), np.count_nonzero(~np.isnan(losses), 0)
        pairs = zip(errors, counts, strict=True)
        return np.array([binomial_p_value(round(e), int(n), 1 - precision) for e, n in pairs]), first
    for row in losses:
        betting.observe(row)
    return betting.p_values, first


def largest_threshold(tests: NDArray[np.float64], first: int, confidence: float) -> int | None:
    """Return the index of the largest threshold for which a promise can be made; None if there is none.

    Thresholds are tested in ascending order from ``first`` until a test fails. As the order is fixed in advance, each
    test may use the whole error probability (fixed-sequence testing).

    Args:
        tests: p-values, (T,).
        first: Index of the threshold that is tested first.
        confidence: One minus the probability that a threshold is returned at which the hypothesis is true.

    Example:
        >>> largest_threshold(np.array([1.0, 0.01, 0.04, 0.2, 0.01]), first=1, confidence=0.95)
        2

    Source: Angelopoulos et al., Learn then Test, Algorithm 1 with one start.
    """
    failed = np.flatnonzero(tests[first:] > 1 - confidence)
    last = first + (int(failed[0]) if len(failed) else len(tests) - first) - 1
    return last if last >= first else None


def classes_for_precision(losses: NDArray[np.float64], precision: float, confidence: float) -> int | None:
    """Estimate how many calibration classes would do for a promise, if they are like these.

    The logarithm of the capital after n classes has mean n g and standard deviation √n s, where g and s are those of
    one class. The number is the least n at which it reaches its limit even two standard deviations below the mean, at
    the best threshold and stake; it is never less than what classes without a wrong answer would need.

    Args:
        losses: As for `threshold_tests`.
        precision: In (0, 1).
        confidence: In (0, 1).

    Returns:
        The number; None if more classes would not help, because at no threshold are the answers precise enough.
    """
    limit = -math.log1p(-confidence)
    least = math.ceil(limit / math.log1p(STAKES[-1] * (1 - precision) / precision))
    gains = np.where(np.isnan(losses), 0.0, 1 - precision - losses)  # (n, T)
    numbers = [_least_number(np.log1p(gains * stake / precision), limit) for stake in STAKES[1:]]
    number = min(numbers)
    return max(least, math.ceil(number)) if number < _MANY else None


def _least_number(evidence: NDArray[np.float64], limit: float) -> float:
    """Return the least n with n g − 2 √n s ≥ limit at any threshold, from evidence (classes, T); infinite if none."""
    mean, deviation = evidence.mean(0), evidence.std(0)
    helps = mean > 0
    mean, deviation = mean[helps], 2 * deviation[helps]
    roots = (deviation + np.sqrt(deviation**2 + 4 * mean * limit)) / (2 * mean)
    return float(np.square(roots).min(initial=np.inf))


def answer_set_size(answers: Answers, probability: float) -> int | None:
    """Return the smallest number of nearest images that hold a right one with a given probability.

    With R̂(k) the mean over n classes of the fraction of queries without a right image among the k nearest, it is the
    least k with (n R̂(k) + 1) / (n + 1) ≤ 1 − probability. The probability is one over calibration classes and a further
    class together.

    Returns:
        k; None if there are too few classes, see `classes_for_control`.

    Source: Angelopoulos et al., Conformal Risk Control, Theorem 1.
    """
    count = len(answers.names)
    weights = 1 / np.bincount(answers.classes, minlength=count)[answers.classes]  # each class has a total of 1
    order = np.argsort(answers.sizes, kind="stable")
    sizes, missed = answers.sizes[order], count - np.cumsum(weights[order])  # n R̂ with sets of that size
    last = np.flatnonzero(np.append(sizes[1:] != sizes[:-1], True))  # of the queries of each size
    missed[-1] = 0.0  # exactly
    valid = last[_is_controlled(missed[last], count, probability)]
    return int(sizes[valid[0]]) if len(valid) else None


def rejection_threshold(answers: Answers, probability: float) -> int | None:
    """Return the index of the largest threshold within which a class that the gallery lacks has no image.

    Of the queries of a further class that the gallery lacks, a fraction of at least ``probability`` have no image
    within that distance, in expectation over calibration classes and the further class.

    Returns:
        The index; None if there are too few classes, see `classes_for_control`.

    Source: Angelopoulos et al., Conformal Risk Control, Theorem 1.
    """
    count = len(answers.names)
    valid = np.flatnonzero(_is_controlled(answers.fractions(answers.absent).sum(0), count, probability))
    return int(valid[-1]) if len(valid) else None


def classes_for_control(probability: float) -> int:
    """Return the number of calibration classes that `answer_set_size` and `rejection_threshold` need.

    Example:
        >>> classes_for_control(0.95)
        19
    """
    return math.ceil(round(1 / (1 - probability), 9)) - 1


def _is_controlled(losses: NDArray[np.float64], count: int, probability: float) -> NDArray[np.bool_]:
    """Whether a sum of losses of ``count`` classes keeps the expected loss of a further one within 1 − probability."""
    return (losses + 1) / (count + 1) <= 1 - probability + 1e-12


def threshold(index: int | None) -> float | None:
    """Return the threshold of an index as a number to print."""
    return None if index is None else round(float(THRESHOLDS[index]), 3)
