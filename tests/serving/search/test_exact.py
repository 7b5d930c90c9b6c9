import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccpml.serving.search import exact
from ccpml.serving.search.exact import check_queries, nearest_rows

NONE = np.empty(0, np.int64)


def oracle(queries, rows, k, allowed):
    """Brute force in float64; the lower row first at ties."""
    differences = queries.astype(np.float64)[:, None] - rows[allowed].astype(np.float64)
    distances = np.sqrt(np.square(differences).sum(axis=2))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), allowed[order]


def check(queries, rows, k, removed=NONE, passing=None):
    allowed = np.delete(np.arange(len(rows)), removed) if passing is None else passing
    distances, found = nearest_rows(queries, rows, k, removed, passing)
    expected = oracle(queries, rows, k, allowed)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(distances, expected[0])


def unit(rng, count, dim):
    vectors = rng.normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dim", [3, 128])
@pytest.mark.parametrize("count", [1, 30])
def test_rows_are_those_of_a_search_in_float64(dim, count):
    rng = np.random.default_rng(dim)
    rows, queries = unit(rng, 1500, dim), unit(rng, count, dim)
    queries[0] = rows[70]
    removed = np.sort(rng.choice(1500, 40, replace=False))
    check(queries, rows, 10)
    check(queries, rows, 10, removed)
    check(queries, rows, 10, passing=removed)
    check(queries[:3], rows, 10, passing=np.arange(0, 1500, 2))
    check(queries[:3], rows, 1490, removed)
    assert nearest_rows(queries[:1], rows, 1, NONE)[0][0, 0] == 0


@pytest.mark.parametrize("count", [1, 30])
def test_ranks_are_right_where_float32_cannot_tell_rows_apart(count, monkeypatch):
    """Rows at distances that differ by far less than the rounding error of their squares; many are equal."""
    monkeypatch.setattr(exact, "_BLOCK", 500)
    monkeypatch.setattr(exact, "_PAIRS", 64)
    rng = np.random.default_rng(0)
    center = unit(rng, 1, 64)
    rows = (center + rng.integers(-2, 3, (2000, 64)) * np.float32(2e-5)).astype(np.float32)
    rows[100:1500] = rows[rng.integers(0, 100, 1400)]  # duplicates
    queries = rows[rng.choice(2000, count)]
    removed = np.sort(rng.choice(2000, 300, replace=False))
    check(queries, rows, 10)
    check(queries, rows, 10, removed)
    check(queries, rows, 10, passing=removed)


def test_all_that_is_near_can_have_been_removed():
    rng = np.random.default_rng(0)
    rows, query = unit(rng, 8000, 16), unit(rng, 1, 16)
    order = np.argsort(np.linalg.norm(rows - query, axis=1))
    for count in (30, 500, 4000, 7995):
        check(query, rows, 10, np.sort(order[:count]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_rows_and_any_selection(data):
    size, dim = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 3))
    values = st.lists(st.sampled_from([0.0, 0.25, -0.5, 1.0]), min_size=dim, max_size=dim)
    rows = np.float32(data.draw(st.lists(values, min_size=size, max_size=size)))
    queries = np.float32(data.draw(st.lists(values, min_size=1, max_size=25)))
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), np.int64)
    k = data.draw(st.integers(0, size + 2))
    check(queries, rows, k)
    check(queries, rows, k, removed=chosen)
    check(queries, rows, k, passing=chosen)


def test_rows_are_not_copied_when_few_are_removed(monkeypatch):
    """Rows that are mapped from a file are not read into memory a second time."""
    rng = np.random.default_rng(0)
    rows, seen = unit(rng, 4000, 8), []
    monkeypatch.setattr(exact.faiss, "knn", lambda queries, part, k, run=exact.faiss.knn: (
        seen.append(np.shares_memory(part, rows)), run(queries, part, k))[1])  # fmt: skip
    nearest_rows(rows[:2], rows, 10, np.arange(0, 4000, 100))
    assert seen == [True]


def test_queries_are_checked():
    assert check_queries([1.0, 2.0], 2).shape == (1, 2)
    assert check_queries([], 2).shape == check_queries(np.empty((0, 2)), 2).shape == (0, 2)
    with pytest.raises(ValueError, match=r"queries: expected vectors of 2 dimensions, got an array of shape \(2, 4\)"):
        check_queries(np.ones((2, 4)), 2)
    with pytest.raises(ValueError, match="finite"):
        check_queries([[np.nan, 0.0]], 2)
    with pytest.raises(ValueError, match="k: expected"):
        nearest_rows(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), -1, NONE)


@pytest.mark.parametrize("name", ["removed", "passing"])
def test_a_mask_in_place_of_row_numbers_is_refused(name):
    rows, mask = np.eye(4, dtype=np.float32), np.array([True, False, True, False])
    selection = {"removed": np.array([], np.int64), name: mask}
    with pytest.raises(ValueError, match=rf"{name}: expected row numbers, got bool; pass np\.flatnonzero\(mask\)"):
        nearest_rows(rows[:1], rows, 1, **selection)
