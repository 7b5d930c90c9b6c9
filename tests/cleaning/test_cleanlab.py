"""Label errors spoilt on purpose: precision and recall are at least those of cleanlab."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from benchmarks.label_errors import MIN_SCORE, datalab_probabilities, own_probabilities, spoil, synthetic
from ccpml.cleaning.labels import NEIGHBORS, count_votes
from ccpml.cleaning.neighbors import Neighbors, find_neighbors

filters = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray, Neighbors]:
    x, labels = synthetic()
    every = np.arange(len(labels))
    return x, labels, find_neighbors(x, every, every, NEIGHBORS)


def f1(found: np.ndarray, wrong: np.ndarray) -> float:
    return 2 * np.count_nonzero(found & wrong) / (np.count_nonzero(found) + np.count_nonzero(wrong))


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_at_least_level_with_cleanlab(rate, near, points):
    x, labels, neighbors = points
    given, wrong = spoil(x, labels, rate, near, seed=1)
    votes = count_votes(neighbors, given)
    for probabilities in (datalab_probabilities(neighbors, given), own_probabilities(votes, given)):
        theirs = filters.find_label_issues(given, probabilities)
        self_confidence = probabilities[np.arange(len(given)), given]
        assert f1(votes.score > MIN_SCORE, wrong) >= f1(theirs, wrong)
        theirs_ranked = average_precision_score(wrong, -self_confidence)
        assert average_precision_score(wrong, votes.score) > theirs_ranked - 0.005


def test_probabilities_are_those_of_a_kernel_classifier(points):
    """The first round, against its definition: one picture at a time, all labels."""
    x, labels, _ = points
    count, classes = 75, 3
    x, labels = x[:count], labels[:count]
    every = np.arange(count)
    neighbors = find_neighbors(x, every, every, NEIGHBORS)
    votes = count_votes(neighbors, labels)
    nearest = np.median(neighbors.distances[:, 0])
    best = None
    for _ in range(2):
        trust = np.ones(count) if best is None else best[1]
        fits = []
        for t in (0.25, 0.5, 1, 2, 4, 8, 16):
            for doubt in (0.05, 0.2, 0.5, 1.0):
                p = np.full((count, classes), doubt / classes)
                for row in range(count):
                    for r, other in zip(neighbors.distances[row], neighbors.rows[row], strict=True):
                        weight = np.exp(-t * (r - neighbors.distances[row, 0]) / nearest) * trust[other]
                        p[row, labels[other]] += weight
                p /= p.sum(axis=1, keepdims=True)
                own = p[every, labels]
                fits.append((np.log(own).sum(), t, doubt, p))
        p = max(fits, key=lambda fit: fit[:3])[3]
        best = p, p[every, labels] / p.max(axis=1)
    p = best[0]
    np.testing.assert_allclose(votes.own, p[every, labels], rtol=1e-9)
    p[every, labels] = -1
    np.testing.assert_allclose(votes.other, p.max(axis=1), rtol=1e-9)
