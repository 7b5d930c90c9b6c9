"""Promises are kept: simulations of populations whose truth is known, and definitions."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from ccpml.calibration.answers import THRESHOLDS, Answers
from ccpml.calibration.calibrate import LADDER, calibrate
from ccpml.calibration.promises import (
    answer_set_size,
    classes_for_control,
    classes_for_precision,
    cut_classes,
    largest_threshold,
    rejection_threshold,
    threshold_tests,
)

QUERIES = 12


def population(classes: int, seed: int, queries: int = QUERIES, hard: float = 0.25) -> Answers:
    """Draw classes of which some are hard; the nearest image of a query is the likelier wrong the farther it is."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1, classes) + 3 * (rng.random(classes) < hard)  # (C,)
    distances = np.clip(0.5 + 0.08 * difficulty[:, None] + rng.normal(0, 0.12, (classes, queries)), 0, 2)
    chance = ndtr((distances - 0.9) / 0.15 + 0.2 * difficulty[:, None])  # of a wrong answer
    wrong = rng.random((classes, queries)) < chance
    sizes = np.where(wrong, 2 + rng.geometric(0.3, wrong.shape), 1)
    labels = np.repeat(np.arange(classes), queries)
    absent = np.where(wrong, distances, distances + rng.exponential(0.2, wrong.shape))
    return Answers(
        labels,
        tuple(f"class {label}" for label in range(classes)),
        distances.reshape(-1, 1),
        ~wrong.reshape(-1, 1),
        absent.reshape(-1),
        sizes.reshape(-1).astype(np.int64),
    )


TRUTH = population(4000, seed=0)
PILOT = population(30, seed=1)
SOME = slice(200, 701, 25)
LOSSES, PILOT_LOSSES = TRUTH.losses()[:, SOME], PILOT.losses()[:, SOME]  # at few thresholds, for speed


@pytest.mark.parametrize(("precision", "classes"), [(0.95, 300), (0.8, 60)])
def test_a_promise_is_kept_in_95_percent_of_200_cuts(precision: float, classes: int) -> None:
    """A population of 4,000 classes is the truth; each cut calibrates on some of them."""
    losses, pilot = LOSSES, PILOT_LOSSES
    true = 1 - np.nanmean(losses, 0)  # (T,)
    rng, kept, made = np.random.default_rng(2), 0, 0
    for _ in range(200):
        chosen = rng.choice(4000, classes, replace=False)
        tests, first = threshold_tests(losses[chosen], pilot, precision)
        index = largest_threshold(tests, first, 0.95)
        made += index is not None
        kept += index is None or true[index] >= precision
    assert kept >= 190
    assert made >= 150  # and the promise is not an empty one


def test_one_query_per_class_is_tested_exactly() -> None:
    truth, pilot = population(4000, seed=3, queries=1), population(30, seed=4, queries=1).losses()[:, SOME]
    losses = truth.losses()[:, SOME]
    assert truth.one_per_class
    rng, kept, made = np.random.default_rng(5), 0, 0
    for _ in range(100):
        tests, first = threshold_tests(losses[rng.choice(4000, 150, replace=False)], pilot, 0.9, binary=True)
        index = largest_threshold(tests, first, 0.9)
        made += index is not None
        kept += index is None or 1 - np.nanmean(losses[:, index]) >= 0.9
    assert kept >= 90
    assert made >= 50


def test_where_no_answer_is_right_often_enough_nothing_is_promised() -> None:
    """The true precision is 0.9 at each of 20 thresholds; the choice among them must not find more by chance."""
    rng, made = np.random.default_rng(6), 0
    for _ in range(200):
        pilot, losses = (rng.beta(0.1, 0.9, (count, 20)) for count in (20, 80))  # of mean 0.1
        tests, first = threshold_tests(losses, pilot, 0.9)
        made += largest_threshold(tests, first, 0.95) is not None
    assert made <= 10


def test_the_share_of_the_classes_that_calibrate() -> None:
    for count, share, sizes in ((43, 0.5, (22, 21)), (43, 0.8, (35, 8)), (10, 0.7, (7, 3)), (4, 0.99, (3, 1))):
        parts = cut_classes(count, 0, share)
        assert tuple(map(len, parts)) == sizes
        assert sorted(np.concatenate(parts)) == list(range(count))
    answers = population(80, seed=9)
    least = [calibrate(answers, PILOT, [0.99], share=share)["answer_sets"][0]["classes_needed"] for share in (0.5, 0.9)]
    assert least == [198, 110]  # 99 of them calibrate


def test_what_is_observed_where_nothing_is_promised() -> None:
    details = calibrate(population(30, seed=10), PILOT, [0.9])
    (row,) = details["promises"]
    assert row["distance"] is None
    curve = details["curve"]
    above = [at for at, mean in zip(curve["distance"], curve["calibration"], strict=True) if (mean or 0) >= 0.9]
    assert row["reached"]["distance"] == above[-1]
    place = curve["distance"].index(above[-1])
    assert row["reached"]["check"]["precision"] == curve["check"][place]
    assert row["reached"]["calibration"]["precision"] == curve["calibration"][place]


def test_thresholds_are_tested_in_order_until_one_fails() -> None:
    tests = np.array([0.0, 0.01, 0.05, 0.06, 0.0])
    assert largest_threshold(tests, 0, 0.95) == 2
    assert largest_threshold(tests, 3, 0.95) is None
    assert largest_threshold(tests, 4, 0.95) == 4


@pytest.mark.parametrize("probability", [0.8, 0.95])
def test_answer_sets_and_rejections_hold_on_average(probability: float) -> None:
    """The expectation over calibration classes and a further class, by 300 draws of both."""
    absent, held, accepted = TRUTH.fractions(TRUTH.absent), [], []
    missed = np.zeros((4000, TRUTH.sizes.max() + 1))  # by the size of the sets
    for size in range(missed.shape[1]):
        missed[:, size] = (TRUTH.sizes > size).reshape(4000, QUERIES).mean(1)
    rng = np.random.default_rng(7)
    for _ in range(300):
        calibration = TRUTH.of(rng.choice(4000, 40, replace=False))
        size, index = answer_set_size(calibration, probability), rejection_threshold(calibration, probability)
        held.append(1 - missed[:, size].mean())
        accepted.append(absent[:, index].mean())
    assert probability <= np.mean(held) + 3 * np.std(held) / np.sqrt(300)
    assert np.mean(accepted) - 3 * np.std(accepted) / np.sqrt(300) <= 1 - probability
    assert np.mean(accepted) > (1 - probability) / 3  # and not by accepting nothing


def test_more_classes_are_not_asked_for_where_no_distance_rejects_enough() -> None:
    answers = population(40, seed=9)
    alike = replace(answers, absent=np.zeros_like(answers.absent))  # pictures of other classes are the same
    (row,) = calibrate(alike, PILOT, [0.9])["rejections"]
    assert (row["distance"], row["classes_needed"]) == (None, None)


def test_answer_set_equals_the_definition() -> None:
    answers = population(45, seed=8)
    misses = [(answers.sizes > k).reshape(45, QUERIES).mean(1).sum() for k in range(99)]
    for probability in (0.5, 0.8, 0.9, 0.95):
        expected = next(k for k in range(1, 99) if (misses[k] + 1) / 46 <= 1 - probability)
        assert answer_set_size(answers, probability) == expected


@pytest.mark.parametrize("probability", [0.8, 0.9, 0.95, 0.99])
def test_as_many_classes_as_are_said_to_be_needed_do(probability: float) -> None:
    needed = classes_for_control(probability)
    for count, expected in ((needed, True), (needed - 1, False)):
        answers = population(count, seed=9)
        assert (answer_set_size(answers, probability) is not None) == expected
        assert (rejection_threshold(answers, probability) is not None) == expected


@pytest.mark.parametrize("precision", [0.9, 0.95])
def test_about_as_many_classes_as_are_said_to_do_do(precision: float) -> None:
    """Half as many again make the promise in most draws, a quarter of them in few."""
    losses, pilot = LOSSES, PILOT_LOSSES
    needed = classes_for_precision(losses[:400], precision, 0.95)
    assert needed is not None
    rng, made = np.random.default_rng(10), []
    for share in (1.5, 0.25):
        draws = 0
        for _ in range(40):
            chosen = rng.choice(4000, int(needed * share), replace=False)
            draws += largest_threshold(*threshold_tests(losses[chosen], pilot, precision), 0.95) is not None
        made.append(draws)
    assert made[0] >= 32
    assert made[1] <= 12


def test_classes_without_errors_set_the_least_number() -> None:
    assert 59 <= classes_for_precision(np.zeros((5, 3)), 0.95, 0.95) <= 65  # 0.95 ** 59 < 0.05
    assert classes_for_precision(np.full((5, 3), 0.5), 0.95, 0.95) is None
    assert classes_for_precision(np.full((5, 3), np.nan), 0.95, 0.95) is None


def test_halves_are_disjoint_and_fixed_by_the_seed() -> None:
    halves = cut_classes(11, seed=3)
    assert sorted(np.concatenate(halves).tolist()) == list(range(11))
    np.testing.assert_array_equal(halves[0], cut_classes(11, seed=3)[0])
    assert len(halves[0]) == 6


def test_a_calibration_says_what_it_promises_and_what_it_observes() -> None:
    answers = population(400, seed=11)
    found = calibrate(answers, PILOT, (0.9, 0.999), 0.95, seed=1)
    assert json.loads(json.dumps(found)) == found
    promise, impossible = found["promises"]
    index = int(np.searchsorted(THRESHOLDS, promise["distance"] - 1e-9))
    checked = answers.of(np.array([answers.names.index(name) for name in found["checked"]]))
    losses = checked.losses()[:, index]
    assert promise["check"]["precision"] == pytest.approx(1 - np.nanmean(losses), abs=1e-4)
    assert promise["check"]["classes"] == np.count_nonzero(~np.isnan(losses))
    assert promise["check"]["answered"] == pytest.approx(checked.answered()[:, index].mean(), abs=1e-4)
    assert impossible["distance"] is None
    assert impossible["classes_needed"] is None or impossible["classes_needed"] > 400
    assert not {*found["calibrated"]} & {*found["checked"]}
    distances = [row["distance"] for row in found["ladder"]]
    assert len(distances) > 10
    assert {row["precision"] for row in found["ladder"]} <= {*LADDER}


def test_too_few_classes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"classes: expected at least 4 unseen ones .*, got 3; .* needs at least \d+"):
        calibrate(population(3, seed=0), PILOT, (0.95,))


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 95.0, float("nan"), "0.9", None, True])
def test_probabilities_are_checked(value: Any) -> None:
    with pytest.raises(ValueError, match="precision: expected a probability above 0 and below 1"):
        calibrate(TRUTH, PILOT, (value,))
    with pytest.raises(ValueError, match="confidence: expected a probability above 0 and below 1"):
        calibrate(TRUTH, PILOT, (0.9,), value)


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor])
def test_probabilities_are_numbers_of_any_library(kind: Any) -> None:
    """A certificate with one of float32 could not be written, after everything had been computed."""
    found = calibrate(TRUTH, PILOT, (kind(0.5),), kind(0.75), share=kind(0.5))
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(calibrate(TRUTH, PILOT, (0.5,), 0.75)))
