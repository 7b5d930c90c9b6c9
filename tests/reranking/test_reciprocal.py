import numpy as np
import pytest

from ccpml.reranking import k_reciprocal, nearest, normalize
from tests.reranking import oracle


def points(count, dim=4, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, dim))
    return normalize(centers[rng.integers(classes, size=count)] + 0.4 * rng.normal(size=(count, dim)))


@pytest.mark.parametrize(("k1", "k2", "weight"), [(6, 3, 0.3), (4, 1, 0.0), (20, 6, 0.3), (5, 2, 0.9), (1, 1, 0.5)])
def test_within_a_set_it_is_the_definition(k1, k2, weight):
    x = points(40, seed=k1)
    found = k_reciprocal(x, x, 39, np.arange(40), k1=k1, k2=k2, weight=weight)
    for query, expected in enumerate(oracle.k_reciprocal(x, range(40), range(40), k1, k2, weight)):
        scores = dict(expected)
        np.testing.assert_allclose(found.distances[query], [score for _, score in expected], atol=1e-6)
        np.testing.assert_allclose([scores[g] for g in found.indices[query]], found.distances[query], atol=1e-6)


def test_against_a_gallery_it_is_the_definition():
    x = points(50)
    found = k_reciprocal(x[:15], x[15:], 35, k1=5, k2=3)
    for query, expected in enumerate(oracle.k_reciprocal(x, range(15), range(15, 50), 5, 3, 0.3)):
        scores = dict(expected)
        np.testing.assert_allclose(found.distances[query], [score for _, score in expected], atol=1e-6)
        np.testing.assert_allclose([scores[g + 15] for g in found.indices[query]], found.distances[query], atol=1e-6)


def test_the_whole_weight_on_the_distance_leaves_the_ranks_as_they_are():
    x = points(60)
    own = np.arange(60)
    np.testing.assert_array_equal(k_reciprocal(x, x, 20, own, weight=1).indices, nearest(x, x, 20, own).indices)


def test_small_blocks_change_nothing(monkeypatch):
    x = points(70)
    whole = k_reciprocal(x, x, 12, np.arange(70))
    monkeypatch.setattr("ccpml.reranking.reciprocal._ELEMENTS", 300)
    done = []
    blocks = k_reciprocal(x, x, 12, np.arange(70), progress=done.append)
    np.testing.assert_array_equal(blocks.indices, whole.indices)
    assert sum(done) == 70
    assert len(done) > 10


@pytest.mark.parametrize("bad", [{"k1": 0}, {"k2": 0}, {"weight": 1.5}, {"weight": "0.3"}, {"weight": np.nan}])
def test_parameters_out_of_range(bad):
    x = points(5)
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}: expected"):
        k_reciprocal(x, x, 1, np.arange(5), **bad)


def test_few_points_and_equal_ones():
    x = np.zeros((3, 2), np.float32)
    assert k_reciprocal(x, x, 5, np.arange(3)).indices.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert k_reciprocal(x[:1], x[:1], 5).indices.tolist() == [[0]]


def test_nothing_has_no_neighbors():
    some, nothing = np.eye(3, 2, dtype=np.float32), np.empty((0, 2), np.float32)
    assert k_reciprocal(nothing, nothing, 2).indices.shape == (0, 0)
    assert k_reciprocal(nothing, some, 2, own=[]).indices.shape == (0, 2)
    assert k_reciprocal(some, nothing, 2).indices.shape == (3, 0)
