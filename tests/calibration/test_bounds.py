"""Bounds against exact enumeration and their definitions."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import beta, binom

from ccpml.calibration.bounds import Betting, binomial_p_value, hoeffding_bentkus_p_value, upper_bound


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_p_values_of_binary_losses_are_valid(n: int, alpha: float) -> None:
    """Under the hypothesis, p ≤ u has a probability of at most u: summed over all outcomes, not drawn."""
    weights = binom.pmf(np.arange(n + 1), n, alpha)
    exact = np.array([binomial_p_value(errors, n, alpha) for errors in range(n + 1)])
    bentkus = np.array([hoeffding_bentkus_p_value(errors / n, n, alpha) for errors in range(n + 1)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert weights[exact <= level].sum() <= level + 1e-12
        assert weights[bentkus <= level].sum() <= level + 1e-12
    assert (exact <= bentkus + 1e-12).all()
    np.testing.assert_allclose(exact, binom.cdf(np.arange(n + 1), n, alpha))


def test_hoeffding_bentkus_equals_its_definition() -> None:
    mean, n, alpha = 0.03, 100, 0.1
    divergence = mean * math.log(mean / alpha) + (1 - mean) * math.log((1 - mean) / (1 - alpha))
    expected = min(math.exp(-n * divergence), math.e * binom.cdf(3, n, alpha))
    assert hoeffding_bentkus_p_value(mean, n, alpha) == pytest.approx(expected)
    assert hoeffding_bentkus_p_value(0.2, n, alpha) == 1.0


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5, 1.0), (0.25, 0.75)])
def test_betting_is_valid_whatever_the_losses(values: tuple[float, ...]) -> None:
    """All sequences of six losses with the largest expected loss that the hypothesis excludes, with their chances."""
    alpha = float(np.mean(values))
    sequences = np.array(list(product(values, repeat=6))).T  # (6, sequences), equally likely
    for pilot in (np.zeros((30, sequences.shape[1])), np.full((3, sequences.shape[1]), 0.9)):
        betting = Betting(alpha, pilot)
        for losses in sequences:
            betting.observe(losses)
        for level in (0.05, 0.2, 0.5):
            assert (betting.p_values <= level).mean() <= level


def test_betting_against_losses_of_little_variance_needs_fewer_classes() -> None:
    losses = np.tile([0.0, 0.0, 0.0, 0.1], 9)
    betting = Betting(0.1, np.zeros((10, 1)))
    for loss in losses:
        betting.observe(np.array([loss]))
    assert betting.p_values[0] < hoeffding_bentkus_p_value(losses.mean(), len(losses), 0.1) / 2


def test_a_class_without_answers_is_no_evidence() -> None:
    betting = Betting(0.1, np.full((2, 3), np.nan))
    for _ in range(2):  # without a pilot, nothing is bet on the first
        betting.observe(np.array([0.0, np.nan, 1.0]))
    assert betting.p_values[0] < betting.p_values[1] == betting.p_values[2] == 1.0


def test_upper_bound_of_binary_losses_is_clopper_pearson() -> None:
    losses = np.repeat([1.0, 0.0], [4, 36])
    assert upper_bound(losses, 0.95, binary=True) == pytest.approx(beta.ppf(0.95, 5, 36))
    assert upper_bound(np.ones(5), 0.95, binary=True) == 1.0


@pytest.mark.parametrize("mean", [0.0, 0.02, 0.3, 1.0])
def test_upper_bound_inverts_the_test(mean: float) -> None:
    bound = upper_bound(np.full(50, mean), 0.9)
    assert mean <= bound <= 1
    if mean < 1:
        assert hoeffding_bentkus_p_value(mean, 50, bound) == pytest.approx(0.1, rel=1e-6)
    assert upper_bound(np.zeros(0), 0.9) == 1.0


@pytest.mark.parametrize("count", [1, 2, 5, 50, 10_000])
@pytest.mark.parametrize("mean", [0.99, 0.999, 1 - 1e-9, 1 - 2.0**-53])
def test_upper_bound_of_means_near_one_is_at_most_one(mean: float, count: int) -> None:
    assert mean <= upper_bound(np.full(count, mean), 0.95) <= 1
