"""Bootstrap intervals over classes: the definition, and how often they hold the true mean."""

import numpy as np
import pytest
import scipy.stats
import torch

from ccpml.retrieval import (
    class_bootstrap,
    class_interval,
    describe_intervals,
    evaluate,
    paired_difference,
    score_intervals,
)

SIMULATIONS = 500


def by_definition(values, labels, samples, seed, level=0.95):
    """Draw classes one by one; studentize the mean over all their queries; take order statistics."""
    rng, classes = np.random.default_rng(seed), sorted(set(labels))
    of_class = {c: [v for v, label in zip(values, labels, strict=True) if label == c] for c in classes}

    def mean_and_error(drawn):
        queries = [v for c in drawn for v in of_class[c]]
        mean = sum(queries) / len(queries)
        squares = [(sum(of_class[c]) - mean * len(of_class[c])) ** 2 for c in drawn]
        return mean, (len(drawn) / (len(drawn) - 1) * sum(squares)) ** 0.5 / len(queries)

    mean, error = mean_and_error(classes)
    deviations = []
    for drawn in rng.integers(len(classes), size=(samples, len(classes))):
        other, other_error = mean_and_error([classes[i] for i in drawn])
        deviations.append((other - mean) / max(other_error, error / 4))
    deviations.sort()
    rank = round((samples + 1) * (1 - level) / 2)
    return mean - deviations[-rank] * error, mean - deviations[rank - 1] * error


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    labels = np.repeat([7, 3, 5, 11, 2], [1, 4, 2, 6, 3])
    values = rng.random(len(labels))
    expected = by_definition(values, labels, 399, seed=4)
    np.testing.assert_allclose(class_interval(values, labels, samples=399, seed=4), expected)
    order = rng.permutation(len(labels))  # names and order of classes and queries do not count
    skipped = np.append(values[order], np.nan), np.append(10 * labels[order], 999)
    np.testing.assert_allclose(class_interval(*skipped, samples=399, seed=4), expected)
    many = class_bootstrap([values, 1 - values], labels, samples=399, seed=4)
    np.testing.assert_allclose(many.intervals(), [expected, 1 - np.array(expected[::-1])])


def test_with_equal_classes_it_is_near_the_t_interval_and_the_bca_interval():
    values = np.random.default_rng(3).normal(0.5, 0.1, 200)
    found = class_interval(values, np.arange(200))
    t = scipy.stats.t.interval(0.95, 199, values.mean(), scipy.stats.sem(values))
    bca = scipy.stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), n_resamples=1999)
    np.testing.assert_allclose(found, t, atol=0.1 * (t[1] - t[0]))
    np.testing.assert_allclose(found, bca.confidence_interval, atol=0.1 * (t[1] - t[0]))


def test_chunks_do_not_change_it(monkeypatch):
    values, labels = np.random.default_rng(0).random(60), np.arange(60) % 20
    whole = class_interval(values, labels, seed=1)
    monkeypatch.setattr("ccpml.retrieval.intervals._CHUNK", 100)
    np.testing.assert_allclose(class_interval(values, labels, seed=1), whole, rtol=1e-12)
    assert class_interval(values, labels, seed=2) != whole


def draw_systems(rng, classes):
    """Right answers of two systems: classes differ in size and difficulty, which the systems share in part."""
    sizes, difficulty = rng.integers(4, 20, classes), rng.normal(0, 1.5, classes)
    labels = np.repeat(np.arange(classes), sizes)
    rates = [1 / (1 + np.exp(-difficulty - gain)) for gain in (0.0, rng.normal(0.2, 0.4, classes))]
    return labels, *(rng.random(len(labels)) < rate[labels] for rate in rates)


@pytest.mark.parametrize("classes", [10, 40])
def test_the_interval_holds_as_often_as_it_says(classes):
    """Of a single score and of a paired difference; `tools/check_intervals.py` has more cases."""
    rng = np.random.default_rng(classes)
    labels, *systems = draw_systems(rng, 100_000)
    first, second = (right.mean() for right in systems)
    held = np.zeros(2, int)
    for trial in range(SIMULATIONS):
        labels, reference, values = draw_systems(rng, classes)
        low, high = class_interval(reference, labels, samples=399, seed=trial, bounds=(0, 1))
        paired = paired_difference(values, reference, labels, samples=399, seed=trial)
        held += [low <= first <= high, paired.low <= second - first <= paired.high]
    assert (held >= 0.93 * SIMULATIONS).all()
    assert (held <= 0.97 * SIMULATIONS).all()


def test_a_difference_is_paired_and_its_p_value_agrees_with_the_interval():
    rng = np.random.default_rng(0)
    for trial in range(15):
        labels, reference, values = draw_systems(rng, 12)
        paired = paired_difference(values, reference, labels, samples=199, seed=trial)
        np.testing.assert_allclose(
            paired[:3], [paired.mean, *by_definition(1.0 * values - reference, labels, 199, seed=trial)]
        )
        assert (paired.p_value <= 0.05) == (not paired.low <= 0 <= paired.high)
        back = paired_difference(reference, values, labels, samples=199, seed=trial)
        np.testing.assert_allclose([back.mean, back.low, back.high], [-paired.mean, -paired.high, -paired.low])
        assert back.p_value == paired.p_value


def test_p_values_of_equal_systems_are_uniform():
    rng, found = np.random.default_rng(1), []
    for trial in range(300):
        labels = np.repeat(np.arange(20), 5)
        difference = rng.normal(size=20)[labels] + rng.normal(size=100)
        found.append(paired_difference(difference, np.zeros(100), labels, samples=199, seed=trial).p_value)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


def test_scores_without_spread_and_with_little():
    labels = np.arange(40)
    perfect, almost = np.ones(40), np.append(np.ones(39), 0.5)
    assert class_interval(perfect, labels) == (1.0, 1.0)
    assert paired_difference(perfect, perfect, labels) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference(perfect, 0.5 * perfect, labels)[:3] == (0.5, 0.5, 0.5)
    assert paired_difference([0.5] * 3, [0.25] * 3, [0, 1, 2]) == (0.25, 0.25, 0.25, 0.25)  # three signs by chance
    low, high = class_interval(almost, labels, bounds=(0, 1))  # a third of the samples hold no other class
    assert 0.9 < low < almost.mean() < high <= 1
    scores = evaluate(torch.eye(4).repeat_interleave(2, 0), torch.arange(4).repeat_interleave(2), per_query=True)
    intervals = score_intervals(scores, np.arange(8) // 2)
    assert intervals["map_at_r"] == [1.0, 1.0]
    assert describe_intervals(intervals) == ""  # nothing is known of other classes
    assert describe_intervals({**intervals, "map_at_r": [0.5, 0.75]}).endswith(" classes: MAP@R 0.5000 to 0.7500")


def test_few_classes_and_wrong_input():
    scores = evaluate(torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 0, 1]), per_query=True)
    assert class_interval(scores.per_query.map_at_r, [0, 0, 0, 0, 0, 1]) is None  # the single one does not count
    assert paired_difference([0.5, 0.7], [0.1, 0.2], [3, 3]) is None
    assert class_interval([0.0, 1.0], [0, 1], bounds=(0, 1)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="values: expected one for each of"):
        class_interval([0.5], [1, 2])
    with pytest.raises(ValueError, match="reference: expected one for each of"):
        paired_difference([0.5, 0.1], [0.5], [1, 2])
    with pytest.raises(ValueError, match="level: expected a fraction"):
        class_interval([0.5, 0.1], [1, 2], level=1.0)
    with pytest.raises(ValueError, match="values: expected finite numbers, or NaN for queries that do not count, got"):
        class_interval([0.5, np.inf], [1, 2])
    with pytest.raises(ValueError, match="seed: expected an integer of at least 0, got -1"):
        class_interval([0.5, 0.1], [1, 2], seed=-1)


VALUES, CLASSES = np.linspace(0, 1, 12), np.arange(12) // 3


@pytest.mark.parametrize("level", [0, 1, 95, "0.9", None, np.nan, [0.9]])
def test_a_level_is_a_fraction(level):
    for call in (class_interval, lambda *given, **options: paired_difference(VALUES, *given, **options)):
        with pytest.raises(ValueError, match="level: expected a fraction"):
            call(VALUES, CLASSES, level=level)
    with pytest.raises(ValueError, match="level: expected a fraction"):
        class_bootstrap([VALUES], CLASSES).intervals(level)


@pytest.mark.parametrize("bounds", [(1, 0), "01", None, (0, 1, 2), (0, np.nan), 1])
def test_bounds_are_two_numbers(bounds):
    for call in (class_interval, lambda *given, **options: paired_difference(VALUES, *given, **options)):
        with pytest.raises(ValueError, match="bounds: expected a smallest and a largest mean"):
            call(VALUES, CLASSES, bounds=bounds)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_scores_may_be_tensors_with_gradients(kind):
    tensor = torch.tensor(VALUES, dtype=kind, requires_grad=True)
    assert class_interval(tensor, torch.tensor(CLASSES)) == class_interval(tensor.tolist(), CLASSES)
    assert class_interval(tensor.bfloat16(), CLASSES) == class_interval(tensor.bfloat16().tolist(), CLASSES)


def test_masked_text_and_infinite_scores_are_refused():
    masked = np.ma.masked_array(VALUES, VALUES > 0.5)
    calls = {
        "values": lambda x: class_interval(x, CLASSES),
        "reference": lambda x: paired_difference(VALUES, x, CLASSES),
    }
    for name, call in calls.items():
        for bad in (masked, ["a"] * 12, np.where(VALUES > 0.5, np.inf, VALUES), VALUES * 1j, VALUES * 1e300):
            with pytest.raises(ValueError, match=f"^{name}: expected "):
                call(bad)
    with pytest.raises(ValueError, match="values: expected finite"):  # their difference is NaN
        paired_difference(np.full(12, np.inf), np.full(12, np.inf), CLASSES)
    with pytest.raises(ValueError, match="labels: expected all values, got a masked array"):
        class_interval(VALUES, np.ma.masked_array(CLASSES, CLASSES == 1))
    with pytest.raises(ValueError, match="labels: expected classes of one type"):
        class_interval(VALUES, ["a", None] * 6)
