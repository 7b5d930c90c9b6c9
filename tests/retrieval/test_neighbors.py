"""nearest_neighbors against sorting all distances, and its order among equal distances."""

import numpy as np
import pytest
import torch

from ccpml import evaluate
from ccpml.retrieval import nearest_neighbors
from ccpml.retrieval.neighbors import ExactSearch

from . import oracle


def brute_force(queries, gallery=None, k=1):
    within = gallery is None
    queries = np.asarray(queries, dtype=np.float64)
    gallery = queries if within else np.asarray(gallery, dtype=np.float64)
    indices = np.array([oracle.rank(q, gallery, i if within else None)[:k] for i, q in enumerate(queries)])
    return np.linalg.norm(queries[:, None] - gallery[indices], axis=2), indices


@pytest.mark.parametrize("chunk_elements", [1, 100, 2**24])
@pytest.mark.parametrize("k", [1, 4, 29])
def test_equals_brute_force_with_many_ties(k, chunk_elements):
    rng = np.random.default_rng(k)
    queries, gallery = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (30, 33))
    for arguments in ((queries,), (queries, gallery)):
        distances, indices = nearest_neighbors(*arguments, k=k, chunk_elements=chunk_elements)
        expected_distances, expected_indices = brute_force(*arguments, k=k)
        np.testing.assert_array_equal(indices.numpy(), expected_indices)
        np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-6)


def test_exact_search_equals_brute_force():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.integers(-2, 3, (40, 2)).astype(np.float32))
    for k in (1, 5, 39):
        indices = ExactSearch(points).nearest(torch.arange(40), k)
        np.testing.assert_array_equal(indices.numpy(), brute_force(points, k=k)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [3, 64, 130])
def test_copies_are_in_the_order_of_their_indices_wherever_they_stand_in_the_product(d, dtype):
    """A matrix product rounds equal columns differently, so that their labels would be in an order by chance."""
    generator = torch.Generator().manual_seed(d)
    queries, gallery = torch.randn(60, d, generator=generator).to(dtype), torch.randn(211, d, generator=generator)
    gallery = gallery[torch.randint(150, (211,), generator=generator)].to(dtype)
    gallery[7], gallery[100] = 0.0, -0.0
    labels, classes = torch.randint(3, (60,), generator=generator), torch.randint(3, (211,), generator=generator)
    _, expected = brute_force(queries, gallery, 40)
    found = [nearest_neighbors(queries, gallery, k=40, chunk_elements=count)[1] for count in (1, 3000, 2**23)]
    for indices in found:
        np.testing.assert_array_equal(indices, expected)
    scores = [evaluate(queries, labels, gallery, classes, chunk_elements=count) for count in (1, 3000, 2**23)]
    assert scores[0] == scores[1] == scores[2]
    within = nearest_neighbors(gallery, k=40)[1]
    np.testing.assert_array_equal(within, brute_force(gallery, None, 40)[1])


def test_whole_gallery_is_sorted():
    points = torch.tensor([[0.0], [2.0], [-1.0]])
    distances, indices = nearest_neighbors(points, torch.tensor([[1.0], [0.0], [-1.0]]), k=3)
    assert indices.tolist() == [[1, 0, 2], [0, 1, 2], [2, 1, 0]]
    assert distances.tolist() == [[0, 1, 1], [1, 2, 3], [0, 1, 2]]


def test_distances_are_sorted_and_zero_for_equal_vectors():
    points = torch.nn.functional.normalize(torch.randn(50, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    distances, indices = nearest_neighbors(points, points, k=50)
    assert (distances[:, 0] == 0).all()
    assert (distances.diff(dim=1) >= 0).all()
    assert indices[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_scales_near_the_limits_of_float32(scale):
    points = torch.tensor([[0.0, 1.0], [0.0, 2.5], [3.0, 1.0]]) * scale
    distances, indices = nearest_neighbors(points, k=2)
    assert indices.tolist() == [[1, 2], [0, 2], [0, 1]]
    torch.testing.assert_close(distances[:, 0], torch.tensor([1.5, 1.5, 3.0]) * scale)


def test_mixed_dtypes_are_promoted():
    distances, _ = nearest_neighbors(torch.ones(2, 3), np.zeros((2, 3)), k=1)
    assert distances.dtype == torch.float64


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_independent_of_matmul_precision_and_autocast(setting):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        points = torch.randn(60, 64, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            found = ExactSearch(points).nearest(torch.arange(60), 10)
        np.testing.assert_array_equal(found.numpy(), brute_force(points, k=10)[1])
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": torch.eye(3), "k": 3}, "k: expected at most 2, .*got 3"),
        ({"queries": torch.eye(3), "gallery": torch.eye(3), "k": 4}, "k: expected at most 3, .*got 4"),
        ({"queries": torch.eye(3), "k": 0}, "k: expected an integer of at least 1, got 0"),
        ({"queries": torch.eye(3), "k": True}, "k: expected an integer of at least 1, got True"),
        ({"queries": torch.eye(3), "gallery": torch.eye(2)}, r"gallery: expected shape \(N, 3\)"),
        ({"queries": torch.eye(3) / 0}, "queries: expected finite values, got inf in row 0"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(**arguments)
