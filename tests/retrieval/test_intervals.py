"""Bootstrap intervals over classes: the definition, and how often they hold the true mean."""

import numpy as np
import pytest
import torch

from ccpml.retrieval import class_interval, evaluate


def by_definition(values, labels, samples, seed):
    """Draw classes one by one and average over all their queries."""
    rng, classes, means = np.random.default_rng(seed), sorted(set(labels)), []
    for drawn in rng.integers(len(classes), size=(samples, len(classes))):
        queries = [values[row] for each in drawn for row in range(len(labels)) if labels[row] == classes[each]]
        means.append(np.mean(queries))
    return np.quantile(means, [0.025, 0.975])


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    labels = np.repeat([7, 3, 5, 11], [1, 4, 2, 6])
    values = rng.random(len(labels))
    expected = by_definition(values, labels, 300, seed=4)
    np.testing.assert_allclose(class_interval(values, labels, samples=300, seed=4), expected)
    order = rng.permutation(len(labels))  # names and order of classes and queries do not count
    skipped = np.append(values[order], np.nan), np.append(10 * labels[order], 999)
    np.testing.assert_allclose(class_interval(*skipped, samples=300, seed=4), expected)


def test_chunks_do_not_change_it(monkeypatch):
    values, labels = np.random.default_rng(0).random(60), np.arange(60) % 20
    whole = class_interval(values, labels, seed=1)
    monkeypatch.setattr("ccpml.retrieval.intervals._CHUNK", 100)
    assert class_interval(values, labels, seed=1) == whole
    assert class_interval(values, labels, seed=2) != whole


@pytest.mark.parametrize(("classes", "least"), [(40, 0.91), (10, 0.85)])
def test_coverage(classes, least):
    """Classes differ in difficulty and size; the interval holds the true mean nearly as often as it says."""
    rng, held, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        sizes = rng.integers(4, 20, classes)
        difficulty = rng.beta(2, 2, classes)  # of mean 0.5, whatever the size
        labels = np.repeat(np.arange(classes), sizes)
        low, high = class_interval(rng.random(len(labels)) < difficulty[labels], labels, samples=400, seed=trial)
        held += low <= 0.5 <= high
    assert least <= held / trials <= 0.98


def test_few_classes_and_wrong_input():
    scores = evaluate(torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 0, 1]), per_query=True)
    assert class_interval(scores.per_query.map_at_r, [0, 0, 0, 0, 0, 1]) is None  # the single one does not count
    with pytest.raises(ValueError, match="values: expected one for each of"):
        class_interval([0.5], [1, 2])
    with pytest.raises(ValueError, match="level: expected a fraction"):
        class_interval([0.5, 0.1], [1, 2], level=1.0)
