"""Exact search among the rows of an index."""

from collections.abc import Iterator
from typing import Final

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.numbers import as_int
from ccpml.reranking.vectors import as_numbers

__all__ = ["NotFiniteError", "check_queries", "nearest_rows"]

_QUERIES: Final = 256  # at a time
_BLOCK: Final = 8192  # rows copied at a time
_PAIRS: Final = 2**14  # of a query and a row, compared at a time


class NotFiniteError(ValueError):
    """Rows have numbers that are not finite, so that the nearest are unknown."""


def check_queries(queries: ArrayLike, dim: int) -> NDArray[np.float32]:
    """Return queries as float32, (Q, dim); one vector is one query.

    Raises:
        ValueError: If they are no numbers, masked, not finite, or have other dimensions.
    """
    given = as_numbers("queries", queries)
    vectors = np.ascontiguousarray(np.atleast_2d(given), dtype=np.float32)
    if given.size == 0 and given.ndim == 1:
        vectors = vectors.reshape(0, dim)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"queries: expected vectors of {dim} dimensions, got an array of shape {given.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("queries: expected finite numbers, got NaN or infinity")
    return vectors


def nearest_rows(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    k: int,
    removed: NDArray[np.int64],
    passing: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the k nearest rows of each query.

    Candidates come from faiss, in float32. Their distances are computed again from differences in float64, and more
    candidates are examined wherever the error of float32 could hide a nearer row. So distances, ranks and ties are
    those of a search in float64; at equal distances, the lower row is first.

    Args:
        queries: float32, (Q, d).
        rows: float32, (N, d), in memory or mapped from a file.
        k: Number of neighbors.
        removed: Rows that are left out, ascending: int64, (R,).
        passing: If given, the only rows that are searched, ascending, without those removed: int64, (P,).

    Returns:
        Euclidean distances, float64, and row numbers, int64, both (Q, min(k, N − R or P)), ascending by distance.

    Raises:
        NotFiniteError: If there are not k rows with a finite distance.
        ValueError: If k is no integer of at least 0, or rows are given by a mask.

    Example:
        >>> rows = np.float32([[0, 0], [0, 1], [0, 3], [0, 1]])
        >>> distances, found = nearest_rows(rows[:1], rows, 3, removed=np.array([2]))
        >>> found.tolist(), distances.tolist()
        ([[0, 1, 3]], [[0.0, 1.0, 1.0]])
    """
    k = as_int("k", k, 0)
    for name, numbers in (("removed", removed), ("passing", passing)):
        if numbers is not None and len(numbers) and not np.issubdtype(np.asarray(numbers).dtype, np.integer):
            raise ValueError(
                f"{name}: expected row numbers, got {np.asarray(numbers).dtype}; pass np.flatnonzero(mask)"
            )
    rows = np.asarray(rows)  # a memory map as a plain array, whose slices are cheap
    total = len(rows) - len(removed) if passing is None else len(passing)
    k = min(k, total)
    distances, found = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries) if k else 0, _QUERIES):
        part = slice(start, start + _QUERIES)
        distances[part], found[part] = _nearest(queries[part], rows, k, total, removed, passing)
    return np.sqrt(distances), found


def _nearest(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    k: int,
    total: int,
    removed: NDArray[np.int64],
    passing: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return squared distances and rows, (Q, k) each."""
    wanted = min(total, k + max(16, k // 4))
    if passing is not None:
        rounded, found = _search_listed(queries, rows, wanted, passing)
    else:
        rounded, found = _search_kept(queries, rows, wanted, removed)
    owners = np.repeat(np.arange(len(queries)), wanted)
    squared = _compare(queries, rows, owners, found.ravel()).reshape(found.shape)  # (Q, wanted)
    each, order = np.arange(len(queries))[:, None], np.lexsort((found, squared))[:, :k]
    squared, found = squared[each, order], found[each, order]  # (Q, k)
    if (found < 0).any() or not np.isfinite(squared).all():  # faiss finds no row with NaN, and gives −1
        raise NotFiniteError("rows: expected finite numbers, got NaN, infinity or too large ones")
    if wanted < total:
        # A row is at most as far as the k-th only if its distance in float32 is within the limit.
        limits = squared[:, -1] + _rounding_error(queries, squared[:, -1])
        unsure = np.flatnonzero(rounded[:, -1] <= limits)
        if len(unsure):
            blocks = _blocks(rows, removed, passing)
            squared[unsure], found[unsure] = _search_within(queries[unsure], blocks, limits[unsure], k)
    return squared, found


def _rounding_error(queries: NDArray[np.float32], squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound the error of ‖x‖² + ‖y‖² − 2xᵀy in float32 for rows y within a distance of a query x: γ (‖x‖ + ‖y‖)².

    Source:
        N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, 2002, section 3.1.
    """
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)  # (Q,)
    gamma = (queries.shape[1] + 16) * 2.0**-24
    bound: NDArray[np.float64] = gamma * (2 * norms + np.sqrt(squared)) ** 2  # as ‖y‖ ≤ ‖x‖ + distance
    return bound


def _search_kept(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, removed: NDArray[np.int64], fetched: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return squared distances in float32 of the k nearest rows that are not removed, and the rows, (Q, k) each."""
    if not len(removed):
        return _knn(queries, rows, k)
    fetched = fetched or k + 32 + 2 * k * len(removed) // len(rows)
    if 8 * fetched > len(rows):
        return _search_listed(queries, rows, k, np.delete(np.arange(len(rows)), removed))
    squared, found = _knn(queries, rows, fetched)
    is_removed = removed[np.searchsorted(removed, found).clip(max=len(removed) - 1)] == found  # (Q, fetched)
    first = np.argsort(is_removed, axis=1, kind="stable")[:, :k]
    nearest = np.take_along_axis(squared, first, 1), np.take_along_axis(found, first, 1)
    short = np.flatnonzero((~is_removed).sum(axis=1) < k)
    if len(short):
        nearest[0][short], nearest[1][short] = _search_kept(queries[short], rows, k, removed, 4 * fetched)
    return nearest


def _search_listed(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, listed: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return squared distances in float32 of the k nearest of the listed rows, and the rows, (Q, k) each."""
    squared, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    step = max(_BLOCK, 2 * k)
    for start in range(0, len(listed), step):
        block = listed[start : start + step]
        near, columns = _knn(queries, rows[block], min(k, len(block)))
        squared, found = np.hstack([squared, near]), np.hstack([found, block[columns]])
        if start:
            order = np.argsort(squared, axis=1, kind="stable")[:, :k]
            squared, found = np.take_along_axis(squared, order, 1), np.take_along_axis(found, order, 1)
    return squared, found


def _knn(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    squared, found = faiss.knn(queries, rows, k)
    return squared, found


def _blocks(
    rows: NDArray[np.float32], removed: NDArray[np.int64], passing: NDArray[np.int64] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield numbers and values of all rows that are searched, in blocks."""
    count = len(rows) if passing is None else len(passing)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        if passing is not None:
            numbers = passing[start:stop]
        else:
            first, last = np.searchsorted(removed, [start, stop])
            numbers = np.delete(np.arange(start, stop), removed[first:last] - start)
        yield numbers, rows[start:stop] if passing is None and len(numbers) == stop - start else rows[numbers]


def _search_within(
    queries: NDArray[np.float32],
    blocks: Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]],
    limits: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return squared distances and rows of the k nearest rows, (Q, k) each, among rows that are within a limit.

    Args:
        queries: float32, (Q, d).
        blocks: Numbers and values of rows.
        limits: Squared distances in float32 up to which rows are examined, (Q,); at least k rows are.
        k: Number of rows.
    """
    norms = np.einsum("qd,qd->q", queries, queries)[:, None]  # (Q, 1)
    owners, found, squared = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    for numbers, values in blocks:
        rounded = norms + np.einsum("nd,nd->n", values, values) - 2 * queries @ values.T  # (Q, B)
        owner, column = np.nonzero(rounded <= limits[:, None])
        owners, found = np.concatenate([owners, owner]), np.concatenate([found, numbers[column]])
        squared = np.concatenate([squared, _compare(queries, values, owner, column)])
        order = np.lexsort((found, squared, owners))
        owners, found, squared = owners[order], found[order], squared[order]
        ranks = np.arange(len(owners)) - np.searchsorted(owners, owners)
        owners, found, squared = owners[ranks < k], found[ranks < k], squared[ranks < k]
    return squared.reshape(len(queries), k), found.reshape(len(queries), k)


def _compare(
    queries: NDArray[np.float32], rows: NDArray[np.float32], owners: NDArray[np.int64], found: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the squared distances of pairs of a query and a row, from differences in float64: (P,)."""
    squared = np.empty(len(found))
    for start in range(0, len(found), _PAIRS):
        part = slice(start, start + _PAIRS)
        differences = queries[owners[part]].astype(np.float64) - rows[found[part]]  # (P, d)
        squared[part] = np.square(differences, out=differences).sum(axis=1)
    return squared
