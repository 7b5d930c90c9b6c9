"""Exact nearest neighbors by faiss, in a defined order.

Shapes: Q queries, B of a block, G gallery vectors, d dimensions, k neighbors.
"""

from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import as_int
from ccpml.reranking.vectors import as_own, as_rows

__all__ = ["Neighbors", "first_k", "nearest", "squared_distances", "stack"]

_SPARE = 8  # neighbors beyond k, among which float32 may have chosen the wrong one at the boundary
_ELEMENTS = 2**23  # numbers held at a time
_MAX_EXPONENT = 30  # of numbers whose squares float32 holds


class Neighbors(NamedTuple):
    """The ranking of each query, best first: distances, float32, and rows of the gallery, int64, both (Q, k)."""

    distances: NDArray[np.float32]
    indices: NDArray[np.int64]


def nearest(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int, own: NDArray[np.int64] | None = None
) -> Neighbors:
    """Return the k nearest gallery vectors of each query by Euclidean distance, the lower row first among equal ones.

    Args:
        queries: float32, (Q, d).
        gallery: float32, (G, d).
        k: Number of neighbors; fewer are returned if the gallery has fewer.
        own: The row of each query in the gallery, which is not its own neighbor, (Q,); None if it is not there.

    Raises:
        ValueError: On a wrong shape or type, on values that are NaN or infinite, or if ``own`` are not rows of the
            gallery.

    Example:
        >>> points = np.array([[0.0], [1.0], [3.0]], np.float32)
        >>> nearest(points, points, 1, own=np.arange(3)).indices.tolist()
        [[1], [0], [1]]
    """
    gallery = as_rows("gallery", gallery)
    queries = as_rows("queries", queries, gallery.shape[1])
    own = as_own(own, len(queries), len(gallery))
    k = max(0, min(as_int("k", k, 0), len(gallery) - (own is not None)))
    found, step = [], max(1, _ELEMENTS // max(1, (k + _SPARE + 1) * queries.shape[1]))
    searched, near = _in_range(queries, gallery)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        columns = faiss.knn(searched[block], near, min(k + _SPARE + 1, len(gallery)))[1].astype(np.int64)  # (B, K)
        squares = squared_distances(queries[block], gallery, columns)
        if own is not None:
            squares[columns == own[block, None]] = np.inf
        found.append(first_k(squares, columns, k))
    return stack(found, k)


def _in_range(*vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return vectors divided by a power of two if their squares would overflow or be 0 in float32."""
    largest = max(max(part.max(initial=0), -part.min(initial=0)) for part in vectors)
    exponent = int(np.frexp(largest)[1])
    return vectors if abs(exponent) <= _MAX_EXPONENT else tuple(np.ldexp(part, -exponent) for part in vectors)


def squared_distances(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return |q − g|² of each query (Q, d) and its gallery vectors, columns (Q, K), from differences, in float64."""
    differences = gallery[columns].astype(np.float64) - queries[:, None]  # (Q, K, d)
    squares: NDArray[np.float64] = np.einsum("qkd,qkd->qk", differences, differences)
    return squares


def first_k(squares: NDArray[np.float64], columns: NDArray[np.int64], k: int) -> Neighbors:
    """Return the k smallest of each row (Q, K), among equal ones the lower column, with roots of the squares."""
    order = np.lexsort((columns, squares))[:, :k]
    distances = np.sqrt(np.take_along_axis(squares, order, axis=1)).astype(np.float32)
    return Neighbors(distances, np.take_along_axis(columns, order, axis=1))


def stack(parts: list[Neighbors], k: int) -> Neighbors:
    """Return the rankings of all queries from those of blocks of them, (B, k) each."""
    if not parts:
        return Neighbors(np.empty((0, k), np.float32), np.empty((0, k), np.int64))
    return Neighbors(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
