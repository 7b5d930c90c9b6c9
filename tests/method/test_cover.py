import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccpml import average_covering_radius, average_interclass_distance, covering_radius, greedy_k_center


def test_golden(golden):
    file = golden("k_center")
    for case in file["cases"]:
        points, centers = (torch.tensor(file[f"{case}/{name}"], dtype=torch.float64) for name in ("points", "centers"))
        chosen = greedy_k_center(points, centers, int(file[f"{case}/k"]))
        np.testing.assert_array_equal(chosen.numpy(), file[f"{case}/chosen"], err_msg=str(case))


def greedy_by_definition(points, centers, k):
    chosen = []
    for _ in range(k):
        m = [min((np.sum((p - c) ** 2) for c in centers), default=np.inf) for p in points]
        best = max(range(len(points)), key=lambda i: (m[i], -i))
        chosen.append(best)
        centers = [*centers, points[best]]
    return chosen


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 8), st.integers(0, 3), st.booleans(), st.data())
def test_equals_the_definition(seed, classes, b, m, ties, data):
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-2, 3, s).astype(float)) if ties else (lambda *s: rng.normal(size=s))
    points, centers = draw(classes, b, 2), draw(classes, m, 2)
    k = data.draw(st.integers(1, b))
    chosen = greedy_k_center(torch.from_numpy(points), torch.from_numpy(centers), k)
    assert chosen.dtype == torch.int64
    for c in range(classes):
        assert chosen[c].tolist() == greedy_by_definition(points[c], list(centers[c]), k)
    if not ties:
        assert all(len(set(row)) == k for row in chosen.tolist())


def test_greedy_is_within_twice_the_best_cover():
    """The guarantee of greedy k-center (Gonzalez 1985), checked by enumerating all covers."""
    points = torch.randn(5, 9, 2, dtype=torch.float64)
    chosen = greedy_k_center(points, points[:, :0], 3)
    radius = covering_radius(points, points.take_along_dim(chosen[:, :, None], 1))
    best = torch.stack([covering_radius(points, points[:, list(s)]) for s in itertools.combinations(range(9), 3)])
    assert (radius <= 2 * best.amin(0) + 1e-12).all()


def test_float32_far_from_the_origin_does_not_cancel():
    points = torch.tensor([[[0.0], [0.01], [0.03]]]) + 1000
    assert greedy_k_center(points, points[:, :1], 2).tolist() == [[2, 1]]


def test_covering_radius_shrinks_with_more_centers():
    points, centers = torch.randn(6, 20, 3), torch.randn(6, 5, 3)
    radii = torch.stack([covering_radius(points, centers[:, : k + 1]) for k in range(5)])
    assert (radii.diff(dim=0) <= 0).all()
    assert torch.equal(covering_radius(points, points), torch.zeros(6))


def average_by_definition(x, y):
    averages = []
    for label in np.unique(y):
        points = x[y == label]
        order = greedy_by_definition(points, [np.zeros(x.shape[1])], len(points))
        distance = np.linalg.norm(points[:, None] - points[order], axis=2)
        averages.append(np.mean([distance[:, :k].min(1).max() for k in range(1, len(points) + 1)]))
    return np.mean(averages)


def test_average_covering_radius_equals_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.integers(-3, 8, 60)
    expected = average_by_definition(x, y)
    assert average_covering_radius(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-12)
    assert average_covering_radius(torch.from_numpy(2 * x), torch.from_numpy(y)) == pytest.approx(2 * expected)


def test_average_interclass_distance_equals_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2100, 3)), rng.integers(0, 5, 2100)
    expected = np.linalg.norm(x[:, None] - x, axis=2)[y[:, None] != y].mean()
    got = average_interclass_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    points = torch.randn(3, 6, 4).to(dtype)
    assert greedy_k_center(points, points[:, :1], 2).shape == (3, 2)
    assert covering_radius(points, points[:, :2]).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: greedy_k_center(p, p, 7), "k: expected 1..6 .* got 7"),
        (lambda p: greedy_k_center(p, p, 0), "k: expected 1..6 .* got 0"),
        (lambda p: greedy_k_center(p[0], p, 2), r"points: expected floating point \(C, b, d\)"),
        (lambda p: greedy_k_center(p, p[:2], 2), r"centers: expected floating point \(3, b, 4\), got .* \(2, 6, 4\)"),
        (lambda p: greedy_k_center(p.long(), p, 2), "points: .* got torch.int64"),
        (lambda p: covering_radius(p, p[:, :0]), "expected at least one each, got 6 and 0"),
        (lambda p: average_covering_radius(p[0], torch.arange(5)), r"labels: expected integers \(6,\)"),
        (lambda p: average_covering_radius(p[0, :0], torch.arange(0)), "at least one sample"),
        (lambda p: average_interclass_distance(p[0], torch.zeros(6, dtype=torch.int64)), "at least two classes, got 1"),
    ],
)
def test_wrong_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 6, 4))


@pytest.mark.parametrize("k", [True, 2.0, "2"])
def test_k_is_an_integer(k):
    with pytest.raises(ValueError, match="k: expected an integer, got"):
        greedy_k_center(torch.randn(1, 5, 2), torch.zeros(1, 1, 2), k)


@pytest.mark.gpu
def test_gpu_equals_cpu():
    points = torch.randn(50, 12, 8)
    assert torch.equal(greedy_k_center(points.cuda(), points[:, :1].cuda(), 4).cpu(),
                       greedy_k_center(points, points[:, :1], 4))  # fmt: skip


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15, 1e19, 1e30, 1e38])
def test_large_points_have_finite_distances(scale: float) -> None:
    points = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0)) * scale
    centers, labels = points[:, :2] * 0.5, torch.arange(3).repeat_interleave(6)
    exact, exact_centers = points.double(), centers.double()
    assert torch.equal(greedy_k_center(points, centers, 4), greedy_k_center(exact, exact_centers, 4))
    assert torch.allclose(
        covering_radius(points, centers).double() / scale, covering_radius(exact, exact_centers) / scale
    )
    for average in (average_covering_radius, average_interclass_distance):
        found, expected = average(points.flatten(0, 1), labels), average(exact.flatten(0, 1), labels)
        assert found / scale == pytest.approx(expected / scale, rel=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
def test_distances_of_a_collapsed_network_do_not_cancel(offset: float) -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) * 1e-3 + offset
    y, exact = np.arange(60) % 3, x.double().numpy()
    expected = np.linalg.norm(exact[:, None] - exact, axis=2)[y[:, None] != y].mean()
    assert average_interclass_distance(x, torch.from_numpy(y)) == pytest.approx(expected, rel=1e-4)
