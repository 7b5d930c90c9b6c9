import numpy as np
import pytest

from ccpml.reranking import METHODS, augmentation, join, nearest, normalize, query_expansion
from tests.reranking import oracle
from tests.reranking.test_reciprocal import points


@pytest.mark.parametrize(("count", "alpha"), [(3, 3.0), (1, 0.0), (5, 1.0)])
def test_query_expansion_within_a_set(count, alpha):
    x = points(30)
    found = query_expansion(x, x, 29, np.arange(30), count=count, alpha=alpha)
    for q in range(30):
        gallery = {g: x[g] for g in range(30) if g != q}
        expanded = oracle.mean(x[q], [gallery[g] for g in oracle.rank(x[q], gallery)[:count]], alpha)
        assert found.indices[q].tolist() == oracle.rank(expanded, gallery)


def test_query_expansion_against_a_gallery():
    x = points(40)
    found = query_expansion(x[:10], x[10:], 30, count=4)
    gallery = {g: x[10 + g] for g in range(30)}
    for q in range(10):
        expanded = oracle.mean(x[q], [gallery[g] for g in oracle.rank(x[q], gallery)[:4]], 3.0)
        assert found.indices[q].tolist() == oracle.rank(expanded, gallery)
        np.testing.assert_allclose(
            found.distances[q, 0] ** 2, oracle.squared(expanded, gallery[found.indices[q, 0]]), rtol=1e-4, atol=1e-6
        )


def augmented(gallery, count, alpha):
    """The augmented gallery by its definition."""
    rest = {g: {o: v for o, v in gallery.items() if o != g} for g in gallery}
    return {g: oracle.mean(v, [gallery[o] for o in oracle.rank(v, rest[g])[:count]], alpha) for g, v in gallery.items()}


@pytest.mark.parametrize(("size", "count"), [(30, 1), (30, 4), *((size, 5) for size in range(1, 8)), (3, 0)])
def test_a_query_of_the_set_does_not_change_the_gallery(size, count):
    """Nor if nearly all others are in a mean, or a row is that of two queries."""
    x = points(size)
    own = np.append(np.arange(size), 0)
    found = augmentation(x[own], x, size, own, count=count)
    assert found.indices.shape == (size + 1, size - 1)
    for q, row in enumerate(own):
        without = augmented({g: x[g] for g in range(size) if g != row}, count, 3.0)
        assert found.indices[q].tolist() == oracle.rank(x[row], without)


@pytest.mark.parametrize(
    ("bad", "name"), [({"count": -1}, "count"), ({"alpha": -1.0}, "alpha"), ({"alpha": "3"}, "alpha")]
)
@pytest.mark.parametrize("method", [query_expansion, augmentation])
def test_parameters_out_of_range(method, bad, name):
    x = points(5)
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        method(x, x, 2, **bad)


def test_augmentation_of_a_separate_gallery():
    x = points(40)
    found = augmentation(x[:10], x[10:], 7, count=3)
    gallery = augmented({g: x[10 + g] for g in range(30)}, 3, 3.0)
    for q in range(10):
        assert found.indices[q].tolist() == oracle.rank(x[q], gallery)[:7]


@pytest.mark.parametrize("method", [query_expansion, augmentation])
@pytest.mark.parametrize("within", [True, False])
def test_no_neighbors_leave_the_ranks_as_they_are(method, within):
    x = points(50)
    queries, own = (x, np.arange(50)) if within else (x[:20], None)
    expected = nearest(queries, x, 9, own)
    np.testing.assert_array_equal(method(queries, x, 9, own, count=0).indices, expected.indices)


def test_means_are_normalized_and_of_unit_length_for_unit_vectors():
    from ccpml.reranking.expansion import expand

    x = points(30)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    neighbors = nearest(unit, unit, 5, np.arange(30)).indices
    np.testing.assert_allclose(np.linalg.norm(expand(unit, unit, neighbors, 3.0), axis=1), 1, atol=1e-6)
    assert (np.linalg.norm(expand(x, x, neighbors, 3.0), axis=1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_rank_the_whole_gallery_once(name):
    x = points(25)
    found = METHODS[name](x, x, 100, np.arange(25))
    assert [sorted(row) for row in found.indices.tolist()] == [[g for g in range(25) if g != q] for q in range(25)]


def test_an_ensemble_is_joined_as_its_definition_says():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(20, 3)) * 2, rng.normal(size=(20, 5)) * 0.1]
    expected = np.concatenate([part / np.maximum(1, np.linalg.norm(part, axis=1, keepdims=True)) for part in parts], 1)
    expected /= np.maximum(1, np.linalg.norm(expected, axis=1, keepdims=True))
    np.testing.assert_allclose(join(parts), expected, atol=1e-7)
    np.testing.assert_allclose(join(parts[:1]), normalize(parts[0]))
    with pytest.raises(ValueError, match=r"expected the same images of each model, got \[20, 4\]"):
        join([parts[0], parts[1][:4]])
