"""Cut classes into two parts, make promises by one, and observe them on the other."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from ccpml.calibration.answers import THRESHOLDS, Answers
from ccpml.calibration.bounds import upper_bound
from ccpml.calibration.promises import (
    answer_set_size,
    classes_for_control,
    classes_for_precision,
    cut_classes,
    largest_threshold,
    rejection_threshold,
    threshold,
    threshold_tests,
)
from ccpml.numbers import is_finite

__all__ = ["LADDER", "MIN_CLASSES", "calibrate", "check_probability"]

LADDER: Final = tuple(round(0.5 + step / 100, 2) for step in range(50))
"""Precisions that are promised besides those asked for, 0.50 to 0.99, so that a user can choose among them."""

MIN_CLASSES: Final = 4


def check_probability(name: str, value: float) -> float:
    """Return a probability, a number of any library, as Python's own.

    Raises:
        ValueError: If it is not in (0, 1).
    """
    if not (is_finite(value) and 0 < value < 1):
        raise ValueError(f"{name}: expected a probability above 0 and below 1, such as 0.95, got {value!r}")
    return float(value)


def calibrate(
    answers: Answers,
    pilot: Answers,
    precisions: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    share: float = 0.5,
) -> dict[str, Any]:
    """Make promises about future classes, and observe how they are kept on classes that were not used for them.

    Args:
        answers: Answers to queries of classes that the run has not seen.
        pilot: Answers to queries of other classes. They only choose which threshold is tested first.
        precisions: The precisions to promise, each in (0, 1); also the probabilities of the other promises.
        confidence: Probability with which each promised precision holds.
        seed: Seed of the cut.
        share: Fraction of the classes that calibrate; the others check.

    Returns:
        ``promises``, ``ladder``, ``answer_sets``, ``rejections`` and ``curve`` of a certificate, and which classes
        ``calibrated`` and ``checked``.

    Raises:
        ValueError: If there are too few classes, or a probability is not in (0, 1).
    """
    confidence, share = check_probability("confidence", confidence), check_probability("calibration_share", share)
    wanted = sorted({check_probability("precision", precision) for precision in precisions})
    if len(answers.names) < MIN_CLASSES:
        raise ValueError(
            f"classes: expected at least {MIN_CLASSES} unseen ones with two or more images, got {len(answers.names)}; "
            f"a precision of {wanted[-1]:g} needs at least {_all_classes(_least(wanted[-1], confidence), share)}"
        )
    calibration, check = (answers.of(part) for part in cut_classes(len(answers.names), seed, share))
    losses, pilot_losses = calibration.losses(), pilot.losses()  # (n, T)

    def chosen(precision: float) -> int | None:
        tests, first = threshold_tests(losses, pilot_losses, precision, calibration.one_per_class)
        return largest_threshold(tests, first, confidence)

    found = {precision: chosen(precision) for precision in sorted({*LADDER, *wanted})}
    promises = [
        {
            "precision": precision,
            "distance": threshold(found[precision]),
            **_evidence(calibration, check, precision, found[precision], confidence, share),
        }
        for precision in wanted
    ]
    return {
        "seed": seed,
        "classes": len(answers.names),
        "queries": len(answers.classes),
        "skipped": answers.skipped,
        "calibrated": list(calibration.names),
        "checked": list(check.names),
        "promises": promises,
        "ladder": [
            {"precision": precision, "distance": threshold(index)}
            for precision, index in found.items()
            if index is not None and precision not in wanted
        ],
        "answer_sets": [_answer_set(calibration, check, probability, share) for probability in wanted],
        "rejections": [_rejection(calibration, check, probability, confidence, share) for probability in wanted],
        "curve": {
            "distance": THRESHOLDS.round(3).tolist(),
            "calibration": _mean_precision(calibration),
            "check": _mean_precision(check),
            "answered": check.answered().mean(0).round(4).tolist(),
        },
    }


def _least(precision: float, confidence: float) -> int:
    needed = classes_for_precision(np.zeros((1, 1)), precision, confidence)
    assert needed is not None
    return needed


def _all_classes(needed: int, share: float) -> int:
    """Return how many classes are needed for a number of them to calibrate."""
    return math.ceil(round(needed / share, 9))


def _evidence(
    calibration: Answers, check: Answers, precision: float, index: int | None, confidence: float, share: float
) -> dict[str, Any]:
    """Return what is observed at the threshold of a promise; without one, how many classes it would take."""
    if index is not None:
        return {"calibration": _observed(calibration, index), "check": _observed(check, index)}
    needed = classes_for_precision(calibration.losses(), precision, confidence)
    more = len(calibration.names) + len(check.names) + 1
    return {
        "classes_needed": None if needed is None else max(_all_classes(needed, share), more),
        "reached": _reached(calibration, check, precision),
    }


def _reached(calibration: Answers, check: Answers, precision: float) -> dict[str, Any] | None:
    """Return what is observed at the largest threshold at which the calibration classes are so precise; no promise.

    None if they are nowhere.
    """
    means = np.array([math.nan if mean is None else mean for mean in _mean_precision(calibration)])  # (T,)
    precise = np.flatnonzero(means >= precision)
    if not len(precise):
        return None
    index = int(precise[-1])
    return {
        "distance": threshold(index),
        "calibration": _observed(calibration, index),
        "check": _observed(check, index),
    }


def _observed(answers: Answers, index: int) -> dict[str, Any]:
    """Return the mean precision of the classes with answers, their number, and the fraction of queries answered."""
    losses = answers.losses()[:, index]
    counted = losses[~np.isnan(losses)]
    return {
        "precision": round(float(1 - counted.mean()), 4) if len(counted) else None,
        "classes": len(counted),
        "answered": round(float(answers.answered()[:, index].mean()), 4),
    }


def _mean_precision(answers: Answers) -> list[float | None]:
    """Return the mean precision of the classes with answers at each threshold, (T,); None without any."""
    losses = answers.losses()
    counts = np.count_nonzero(~np.isnan(losses), 0)
    means = 1 - np.nansum(losses, 0) / counts.clip(min=1)
    return [round(float(mean), 4) if count else None for mean, count in zip(means, counts, strict=True)]


def _answer_set(calibration: Answers, check: Answers, probability: float, share: float) -> dict[str, Any]:
    size = answer_set_size(calibration, probability)
    if size is None:
        needed = _all_classes(classes_for_control(probability), share)
        return {"probability": probability, "size": None, "classes_needed": needed}
    held = _class_means(check, (check.sizes <= size).astype(float))
    return {"probability": probability, "size": size, "check": round(float(held.mean()), 4)}


def _rejection(
    calibration: Answers, check: Answers, probability: float, confidence: float, share: float
) -> dict[str, Any]:
    index = rejection_threshold(calibration, probability)
    row: dict[str, Any] = {"probability": probability, "distance": threshold(index)}
    if index is None:
        needed = classes_for_control(probability)
        enough = len(calibration.names) >= needed  # then images of other classes are too near at any distance
        return {**row, "classes_needed": None if enough else _all_classes(needed, share)}
    binary = check.one_per_class
    accepted = check.fractions(check.absent)[:, index]
    rejected = 1 - check.fractions(check.distances[:, 0])[:, index]
    for name, rates in (("accepted_absent", accepted), ("rejected_present", rejected)):
        row[name] = round(float(rates.mean()), 4)
        row[f"{name}_at_most"] = round(upper_bound(rates, confidence, binary), 4)
    return row


def _class_means(answers: Answers, values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    """Return the mean of values of queries over each class, (C,)."""
    count = len(answers.names)
    return np.asarray(np.bincount(answers.classes, values, count) / np.bincount(answers.classes, minlength=count))
