"""few_nearest against ranking all distances in float64."""

from pkgutil import resolve_name

import numpy as np
import pytest
import torch

from ccpml.retrieval.neighbors import ExactSearch
from ccpml.retrieval.tiles import MAX_NEIGHBORS, few_nearest, tile_side

from . import oracle

SIDE = 64


def brute_force(queries, gallery, k):
    """Return the k nearest by the definition, -1 beyond each query's own k."""
    within = gallery is None
    queries = queries.double().numpy()
    gallery = queries if within else gallery.double().numpy()
    nearest = np.full((len(queries), max(k)), -1)
    for i, query in enumerate(queries):
        nearest[i, : k[i]] = oracle.rank(query, gallery, i if within else None)[: k[i]]
    return nearest


def assert_exact(queries, gallery=None, k=8, max_undecided=0, **options):
    wanted = torch.full((len(queries),), k) if isinstance(k, int) else k
    nearest, undecided = few_nearest(ExactSearch(queries, gallery), wanted, side=SIDE, **options)
    expected = brute_force(queries, gallery, wanted.tolist())
    kept = ~undecided.numpy()
    np.testing.assert_array_equal(nearest.numpy()[kept], expected[kept])
    assert undecided.sum() <= max_undecided
    return nearest, undecided


def unit(n, dim=12, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("count", [SIDE - 1, SIDE, SIDE + 1, 5 * SIDE + 17])
def test_within_a_set_of_any_size(count):
    assert_exact(unit(count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(40, 300), (300, 70)])
def test_against_a_gallery(sizes, dtype):
    queries, gallery = 3 * unit(sizes[0]), unit(sizes[1], seed=1) * torch.rand(sizes[1], 1)
    assert_exact(queries.to(dtype), gallery.to(dtype), k=11)


def test_each_query_has_its_own_k():
    wanted = torch.randint(0, MAX_NEIGHBORS + 1, (200,), generator=torch.Generator().manual_seed(0))
    nearest, _ = assert_exact(unit(200), k=wanted)
    assert ((nearest >= 0).sum(dim=1) == wanted).all()


def test_ties_go_to_the_lower_index():
    generator = torch.Generator().manual_seed(0)
    assert_exact(torch.randint(-2, 3, (200, 4), generator=generator).float())
    assert_exact(unit(70).repeat(3, 1))


@pytest.mark.parametrize("separation", [1e-3, 1e-5, 1e-7])
def test_distances_below_float32_resolution(separation):
    points = unit(100)
    assert_exact(torch.cat([points, points + separation * unit(100, seed=1)]))
    assert_exact(points * separation + unit(1, seed=2))  # all near one point


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e100])
def test_scales_beyond_float32(scale):
    assert_exact(unit(100).double() * scale)


def test_queries_with_too_many_near_ties_are_undecided():
    points = torch.cat([unit(100), torch.zeros(500, 12)])
    _, undecided = assert_exact(points, max_undecided=600)
    assert undecided[100:].all()
    assert not undecided[:100].all()
    far = unit(100)
    far[0] *= 1e6  # makes the rounding error as large as all other distances
    assert_exact(far, max_undecided=100)


def test_small_capacity_changes_no_result():
    _, undecided = assert_exact(unit(300), k=4, capacity=4000)
    assert not undecided.any()
    assert_exact(unit(300), k=4, capacity=100, max_undecided=300)


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_independent_of_matmul_precision_and_autocast(setting):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert_exact(unit(100, dim=64))
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)


PRECISIONS = ("", ".mkldnn", ".mkldnn.matmul", ".cuda.matmul")
"""Parts of torch.backends with a setting of their own since torch 2.9, or else that above."""


@pytest.fixture
def precision():
    """Set the precision of a part, or return it; torch's older functions refuse to read some of these."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("torch 2.9 is the first with these settings")

    def setting(part, *values):
        of = resolve_name(f"torch.backends{part}")
        for value in values:
            of.fp32_precision = value
        return of.fp32_precision

    for part in PRECISIONS:
        setting(part, "none")
    yield setting
    for part in PRECISIONS:
        setting(part, "none")


@pytest.mark.parametrize("part", PRECISIONS)
def test_independent_of_the_newer_settings_of_precision_which_stay(precision, part):
    precision(part, "bf16" if "mkldnn" in part else "tf32")
    before = list(map(precision, PRECISIONS))
    assert_exact(unit(100, dim=64))
    assert list(map(precision, PRECISIONS)) == before
    precision(part, "none")
    assert_exact(unit(100, dim=64))
    precision("", "tf32")
    assert list(map(precision, PRECISIONS)) == ["tf32"] * 4  # it is still followed


@pytest.mark.parametrize("sizes", [(1100, None), (2049, None), (5, 2100), (1500, 260)])
def test_default_tiles_are_exact_and_waste_little(sizes):
    queries, gallery = unit(sizes[0]), unit(sizes[1] or sizes[0], seed=1)
    search = ExactSearch(queries, None if sizes[1] is None else gallery)
    nearest, undecided = few_nearest(search, torch.full((sizes[0],), 5))
    expected = search.nearest(torch.arange(sizes[0]), 5)
    assert not undecided.any()
    np.testing.assert_array_equal(nearest, expected)
    for vectors in (queries, gallery):
        assert -len(vectors) % tile_side(vectors) <= max(64, len(vectors) // 3)


@pytest.mark.parametrize(("count", "tiles"), [(100, 1), (1024, 1), (5000, 5), (8192, 8), (32768, 8), (60502, 15)])
def test_number_of_tiles(count, tiles):
    side = tile_side(torch.empty(count, 1))
    assert -(-count // side) == tiles
    assert side % 64 == 0
    assert side * tiles - count < 64 * tiles


def test_progress_increases_to_1():
    shares = []
    few_nearest(ExactSearch(unit(300)), torch.full((300,), 3), shares.append, side=32)
    assert len(shares) > 5
    assert shares == sorted(set(shares))
    assert shares[-1] == 1


@pytest.mark.gpu
def test_same_on_the_gpu():
    points = unit(300)
    found, undecided = few_nearest(ExactSearch(points.cuda()), torch.full((300,), 8).cuda(), side=SIDE)
    assert not undecided.any()
    np.testing.assert_array_equal(found.cpu().numpy(), brute_force(points, None, [8] * 300))
