"""Covers and violations against their definitions."""

import numpy as np
import pytest
import torch

from ccpml.calibration.training import (
    Constraint,
    balanced_constraint,
    cover_by_images,
    cover_by_proxies,
    generalization_terms,
)
from ccpml.method import covering_radius, greedy_k_center

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat(np.arange(5), [2, 5, 6, 9, 8]))
X = (RNG.normal(size=(5, 4))[LABELS] + RNG.normal(0, 0.4, (30, 4))) / 3
PROXIES = RNG.normal(size=(5, 3, 4))
NORMAL_X, NORMAL_PROXIES = (v / np.linalg.norm(v, axis=-1, keepdims=True).clip(min=1) for v in (X, PROXIES))


def test_measures_equal_the_definition() -> None:
    beta, alpha = 0.9, 0.1
    found = cover_by_proxies(X, LABELS, PROXIES).measure(Constraint(beta, alpha), 0.95)
    radii, same, different, loss = [], [], [], []
    for label in range(5):
        distances = np.linalg.norm(NORMAL_X[:, None] - NORMAL_PROXIES[label], axis=2)  # (30, 3)
        signs = np.where(label == LABELS, 1, -1)[:, None]
        violation = np.maximum(signs * (distances - beta) + alpha, 0)
        own = label == LABELS
        radii.append(distances[own].min(1).max())
        same.append((violation[own] > 0).mean())
        different.append((violation[~own] > 0).mean())
        loss.append((violation[own].mean() + violation[~own].mean()) / 2)
    assert found["radius"] == pytest.approx(np.mean(radii), abs=1e-4)
    assert found["largest_radius"] == pytest.approx(np.max(radii), abs=1e-4)
    assert found["same_class"] == pytest.approx(np.mean(same), abs=1e-4)
    assert found["other_classes"] == pytest.approx(np.mean(different), abs=1e-4)
    assert found["loss"] == pytest.approx(np.mean(loss), abs=1e-4)
    for name in ("radius", "same_class", "other_classes"):
        assert found[name] < found[f"{name}_at_most"]


def test_images_as_proxies_are_k_centers_and_not_measured() -> None:
    covered = cover_by_images(X, LABELS, 3)
    assert [len(proxies) for proxies in covered.proxies] == [1, 2, 3, 3, 3]
    assert len(covered.points) == 30 - 12
    found = covered.measure(Constraint(0.5, 0.0), 0.95)
    radii = []
    for label, proxies in enumerate(covered.proxies):
        points = torch.from_numpy(NORMAL_X[label == LABELS])[None]
        chosen = greedy_k_center(points, torch.zeros(1, 1, 4, dtype=points.dtype), len(proxies))[0]
        np.testing.assert_allclose(proxies, points[0, chosen])
        radii.append(covering_radius(points, points[:, chosen]).item())  # those chosen are at distance 0
    assert found["radius"] == pytest.approx(np.mean(radii), abs=1e-4)


def test_the_balanced_constraint_is_violated_equally_often() -> None:
    covered = cover_by_images(np.repeat(X, 20, 0) + RNG.normal(0, 0.05, (600, 4)), np.repeat(LABELS, 20), 4)
    found = covered.measure(balanced_constraint(covered), 0.95)
    assert found["same_class"] == pytest.approx(found["other_classes"], abs=0.02)
    assert 0 < found["same_class"] < 0.5


def test_terms_of_the_proposition() -> None:
    training = cover_by_images(X, LABELS, 3).measure(Constraint(0.5, 0.1), 0.95)
    unseen = {**training, "loss": training["loss"] + 0.125}
    terms = generalization_terms(training, unseen, 400, Constraint(0.5, 0.1), 0.95)
    assert terms["covering_radius"] == training["radius"]
    assert terms["observed_gap"] == pytest.approx(0.125)
    assert terms["sampling"] == pytest.approx(1.6 * np.sqrt(np.log(20) / 400), abs=1e-4)


def test_many_classes_and_images_are_sampled_evenly() -> None:
    labels = np.repeat(np.arange(600), 25)
    covered = cover_by_images(RNG.normal(size=(15000, 2)), labels, 5)
    assert len(covered.proxies) == 500
    assert len(covered.points) == 500 * 15
