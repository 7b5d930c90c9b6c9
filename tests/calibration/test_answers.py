"""The search against its definition."""

import numpy as np
import pytest

from ccpml.calibration.answers import THRESHOLDS, Answers, find_answers

NAMES = ("a", "b", "c", "d", "e")


def answers_of(x: np.ndarray, labels: np.ndarray, count: int = 1) -> Answers:
    return find_answers(x, labels, x, labels, np.arange(len(x)), NAMES, count)


def definition(x: np.ndarray, labels: np.ndarray, row: int, count: int):
    """Sort everything but the query by distance, wrong ones first among equals."""
    distances = np.sqrt(((x - x[row]) ** 2).sum(1))
    others = [(distances[i], labels[i] == labels[row]) for i in range(len(x)) if i != row]
    others.sort()
    right = next(place for place, (_, is_right) in enumerate(others, 1) if is_right)
    return others[:count], min(d for d, is_right in others if not is_right), right


@pytest.mark.parametrize("count", [1, 3, 6])
def test_equals_the_definition(count: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(5), [1, 2, 3, 5, 8]))
    x = rng.integers(-2, 3, (len(labels), 2)) / 4  # with many equal distances
    found = answers_of(x, labels, count)
    rows = np.flatnonzero(labels != 0)  # the class of one image is left out
    assert found.skipped == 1
    assert found.names == NAMES[1:]
    assert [found.names[c] for c in found.classes] == [NAMES[label] for label in labels[rows]]
    for i, row in enumerate(rows):
        nearest, absent, size = definition(x, labels, row, count)
        np.testing.assert_allclose(found.distances[i], [d for d, _ in nearest])
        assert found.right[i].tolist() == [is_right for _, is_right in nearest]
        assert found.absent[i] == pytest.approx(absent)
        assert found.sizes[i] == size


def test_losses_are_fractions_of_wrong_answers_of_each_class() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 6)
    x = rng.normal(size=(24, 3)) / 4
    found = answers_of(x, labels, 2)
    losses, answered = found.losses(), found.answered()
    for index in (0, 100, 200, 400, 1000):
        for label in range(4):
            own = found.classes == label
            within = found.distances[own] <= THRESHOLDS[index]
            assert answered[label, index] == pytest.approx(within[:, 0].mean())
            expected = 1 - found.right[own][within].mean() if within.any() else np.nan
            np.testing.assert_allclose(losses[label, index], expected)


def test_some_classes_have_their_own_answers() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 4)
    found = answers_of(rng.normal(size=(20, 2)) / 4, labels)
    some = found.of(np.array([3, 1]))
    assert some.names == ("d", "b")
    np.testing.assert_array_equal(some.losses(), found.losses()[[3, 1]])


def test_a_gallery_of_its_own_excludes_nothing() -> None:
    x, labels = np.array([[0.0], [0.5]]), np.array([0, 1])
    found = find_answers(x, labels, x, labels, None, NAMES)
    assert found.distances.max() < 1e-6
    assert found.right.all()
    assert found.one_per_class


@pytest.mark.parametrize(("labels", "got"), [([0, 1, 2], "one image each"), ([1, 1, 1], "one class")])
def test_nothing_to_answer_is_one_sentence(labels: list[int], got: str) -> None:
    with pytest.raises(ValueError, match=f"expected two or more classes with two or more images, got {got}"):
        answers_of(np.zeros((3, 2)), np.array(labels))
