import numpy as np
import pytest
import torch

from ccpml import greedy_k_center
from ccpml.method import class_separation, separation


def by_definition(points, k):
    """The separation of several classes, sample by sample in NumPy."""
    count, per_class, dim = points.shape
    k = k if k < per_class else per_class // 2
    chosen = greedy_k_center(points, torch.zeros(count, 1, dim, dtype=points.dtype), k).tolist()
    x = points.double().numpy()
    nearer = []
    for c in range(count):
        for i in set(range(per_class)) - set(chosen[c]):
            nearest = [min(np.linalg.norm(x[c, i] - x[other, j]) for j in chosen[other]) for other in range(count)]
            nearer.append(all(nearest[c] < nearest[other] for other in range(count) if other != c))
    return (sum(nearer) / len(nearer) - 1 / count) / (1 - 1 / count)


def clusters(count, per_class, noise, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(count, 1, 4, generator=rng)
    return (means + noise * torch.randn(count, per_class, 4, generator=rng)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("count", "per_class", "k"), [(7, 6, 3), (5, 4, 4), (6, 2, 8), (2, 3, 1), (9, 5, 1)])
def test_equals_the_definition(monkeypatch, dtype, count, per_class, k):
    points = clusters(count, per_class, 0.7, dtype)
    expected = by_definition(points, k)
    assert class_separation(points, k) == pytest.approx(expected)
    monkeypatch.setattr(separation, "_MAX_BLOCK", 1)
    assert class_separation(points, k) == pytest.approx(expected)


def test_rises_from_chance_to_one_as_classes_separate():
    chance, low, high, one = (class_separation(clusters(40, 8, noise), 4) for noise in (1e4, 1.0, 0.4, 1e-3))
    assert abs(chance) < 0.1 < low < high < one == 1


@pytest.mark.parametrize("count", [2, 3, 8])
def test_is_near_zero_for_any_number_of_classes_that_are_alike(count):
    rng = torch.Generator().manual_seed(0)
    found = [class_separation(torch.randn(count, 12, 4, generator=rng), 4) for _ in range(100)]
    assert abs(sum(found) / len(found)) < 0.1


def test_a_single_class_is_told_apart():
    assert class_separation(torch.randn(1, 5, 3), 2) == 1


def test_embeddings_that_are_all_equal_are_not_separated():
    assert class_separation(torch.ones(4, 5, 3), 2) < 0


def test_does_not_depend_on_the_order_of_classes():
    points = clusters(12, 5, 0.6)
    assert class_separation(points.flip(0), 2) == class_separation(points, 2)


def test_spaced_classes_are_distinct_and_contain_both_ends():
    for count in (1, 255, 256, 257, 300, 11_318):
        spaced = separation.evenly_spaced_classes(count)
        assert len(set(spaced)) == len(spaced) == min(count, 256)
        assert (spaced[0], spaced[-1]) == (0, count - 1)


def test_wrong_pools_raise():
    with pytest.raises(ValueError, match="points: expected at least 2 samples of each class, got 1"):
        class_separation(torch.zeros(3, 1, 2), 1)
    with pytest.raises(ValueError, match=r"points: expected floating point \(C, b, d\)"):
        class_separation(torch.zeros(3, 2), 1)
    with pytest.raises(ValueError, match="points: expected at least one class, got"):
        class_separation(torch.zeros(0, 3, 2), 1)
