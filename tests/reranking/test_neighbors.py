import numpy as np
import pytest

from ccpml.reranking import METHODS, Codes, nearest, normalize
from ccpml.retrieval import nearest_neighbors
from tests.reranking.test_reciprocal import points


@pytest.mark.parametrize("within", [True, False])
def test_nearest_agrees_with_the_exact_search_of_retrieval(within, monkeypatch):
    monkeypatch.setattr("ccpml.reranking.neighbors._ELEMENTS", 2000)
    x = points(300, dim=8)
    x[200:210] = x[:10]  # equal vectors
    queries, own, gallery = (x, np.arange(300), None) if within else (x[:40], None, x[40:])
    found = nearest(queries, x if within else x[40:], 12, own)
    distances, indices = nearest_neighbors(queries, gallery, k=12)
    np.testing.assert_array_equal(found.indices, indices.numpy())
    np.testing.assert_allclose(found.distances, distances.numpy(), atol=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [("float16", 32), ("int8", 16)])
def test_codes_are_rounded_rows_and_re_scored_exactly(dtype, size):
    x = points(500, dim=16, classes=40)
    codes = Codes.build(x, dtype)
    assert codes.bytes_per_row == size
    scale = 127 / np.abs(x).max()
    rounded = x.astype(np.float16).astype(np.float32) if dtype == "float16" else np.rint(x * scale) / scale
    expected = nearest(x[:50], rounded.astype(np.float32), 20)
    found = codes.candidates(x[:50], 20)
    assert (np.sort(found) == np.sort(expected.indices)).mean() > 0.97  # near-ties by the rounding of faiss
    best = codes.search(x, x[:50], 5)
    np.testing.assert_array_equal(best.indices, nearest(x[:50], x, 5).indices)
    own = codes.search(x, x[:50], 5, own=np.arange(50))
    np.testing.assert_array_equal(own.indices, nearest(x[:50], x, 5, np.arange(50)).indices)


def test_candidates_pass_and_lack_nothing():
    x = points(100)
    passing = np.zeros(100, bool)
    passing[[3, 50, 99]] = True
    found = Codes.build(x, "int8").candidates(x[:2], 5, passing)
    assert [sorted(row) for row in found.tolist()] == [[-1, -1, 3, 50, 99]] * 2


def test_codes_of_nothing_of_zeros_and_of_an_unknown_type():
    empty = np.empty((0, 4), np.float32)
    assert Codes.build(empty, "int8").search(empty, np.zeros((2, 4), np.float32), 3).indices.shape == (2, 0)
    zeros = np.zeros((3, 4), np.float32)
    assert Codes.build(zeros, "int8").search(zeros, zeros[:1], 2).indices.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="expected float16 or int8, got 'int4'"):
        Codes.build(zeros, "int4")


def searches():
    x = points(20)
    codes = Codes.build(x, "int8")
    yield from [nearest, *METHODS.values()]
    yield lambda queries, gallery, k, own: codes.search(x, queries, k, own)


@pytest.mark.parametrize("own", [[0, 1], [0, 1, 20], [-1, 0, 1], [0.0, 1.0, 2.0], [[0], [1], [2]], [True, False, True]])
def test_rows_of_queries_that_are_none_are_refused(own):
    """A query whose row is not there would be its own nearest neighbor."""
    x = points(20)
    for search in searches():
        with pytest.raises(ValueError, match=r"^own: expected (an array|3 integers|rows 0\.\.19)"):
            search(x[:3], x, 2, own)


def test_rows_of_queries_may_be_a_list():
    x = points(20)
    for search in searches():
        expected = search(x[:3], x, 4, np.arange(3))
        assert search(x[:3], x, 4, [0, 1, 2]).indices.tolist() == expected.indices.tolist()
        assert not (expected.indices == np.arange(3)[:, None]).any()


def test_an_empty_gallery_has_no_neighbors():
    x = points(3)
    for method in (nearest, *METHODS.values()):
        assert method(x, x[:0], 2).indices.shape == (3, 0)
        assert method(x[:0], x, 2).indices.shape == (0, 2)


def test_codes_are_searched_with_the_rows_that_were_encoded():
    x = points(20)
    codes = Codes.build(x, "float16")
    with pytest.raises(ValueError, match="rows: expected the 20 that were encoded, got 19"):
        codes.search(x[1:], x[:2], 1)
    with pytest.raises(ValueError, match="rows: expected floating point of shape"):
        codes.search(x[:, 1:], x[:2, 1:], 1)
    with pytest.raises(ValueError, match="rows: expected numbers up to 65504 for float16, got 1e\\+06; normalize them"):
        Codes.build(x / np.abs(x).max() * 1e6, "float16")


def test_normalization_of_what_float32_does_not_hold():
    with pytest.raises(ValueError, match="vectors: expected finite values, got inf in row 0"):
        normalize([[1e300, 1e300]])


@pytest.mark.parametrize("exponent", [-120, -80, 64, 110])
def test_neighbors_do_not_depend_on_the_scale(exponent):
    """Squares of such numbers overflow, or are 0, in float32."""
    points = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    rows, scaled = np.arange(30), np.ldexp(points, exponent)
    expected = nearest(points, points, 5, rows)
    found = nearest(scaled, scaled, 5, rows)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, np.ldexp(expected.distances, exponent))


def test_codes_of_tiny_rows_are_rows():
    rows = np.eye(4, dtype=np.float32) * 1e-38
    assert sorted(Codes.build(rows, "int8").search(rows, rows, 4).indices[0].tolist()) == [0, 1, 2, 3]
