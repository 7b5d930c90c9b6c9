"""Query expansion, and augmentation of the gallery. Shapes: Q queries, G gallery vectors, n neighbors, d dimensions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import as_int, is_finite
from ccpml.reranking.neighbors import Neighbors, first_k, nearest, squared_distances
from ccpml.reranking.vectors import as_own, as_rows

__all__ = ["augmentation", "expand", "query_expansion"]

_ELEMENTS = 2**22  # numbers held at a time


def query_expansion(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
    *,
    count: int = 5,
    alpha: float = 3.0,
    progress: Callable[[int], object] | None = None,
) -> Neighbors:
    """Search again with the weighted mean of each query and its nearest neighbors (αQE).

    A neighbor at distance d has the weight max(0, 1 − d² / 2)^α, for unit vectors the cosine to the power of α; the
    query itself has the weight 1. The mean has the direction of the weighted sum and the mean length, so that it is
    φ-normalized, and a unit vector among unit vectors.

    Args:
        queries: φ-normalized, float32, (Q, d).
        gallery: φ-normalized, float32, (G, d).
        k: Number of neighbors.
        own: The row of each query in the gallery, (Q,), which is neither its neighbor nor part of its mean; None if it
            is not there.
        count: n, the number of neighbors in the mean; 0 leaves the queries as they are.
        alpha: α ≥ 0; 0 is the plain mean.
        progress: Called with the number of queries that were ranked since the last call.

    Returns:
        Distances to the expanded queries, and rows of the gallery, (Q, k).

    Raises:
        ValueError: As in `nearest`, or if ``count`` or ``alpha`` is out of range.

    Example:
        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]], np.float32)
        >>> query_expansion(points[:1], points[1:], 1, count=1).indices.tolist()
        [[0]]

    Source: F. Radenović, G. Tolias, O. Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019,
        section 3.4.
    """
    count = _checked_options(count, alpha)
    gallery = as_rows("gallery", gallery)
    queries = as_rows("queries", queries, gallery.shape[1])
    found = nearest(queries, gallery, count, own)
    expanded = expand(queries, gallery, found.indices, alpha)
    ranked = nearest(expanded, gallery, k, own)
    if progress is not None:
        progress(len(queries))
    return ranked


def augmentation(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
    *,
    count: int = 5,
    alpha: float = 3.0,
    progress: Callable[[int], object] | None = None,
) -> Neighbors:
    """Search in a gallery of which each vector is the weighted mean of itself and its nearest neighbors (DBA).

    The mean is that of `query_expansion`. Queries that are in the gallery do not change it: for such a query, the means
    are those of the gallery without it.

    Args:
        queries: φ-normalized, float32, (Q, d).
        gallery: φ-normalized, float32, (G, d).
        k: Number of neighbors.
        own: The row of each query in the gallery, (Q,); None if it is not there.
        count: n, the number of neighbors in the mean; 0 leaves the gallery as it is.
        alpha: α ≥ 0; 0 is the plain mean.
        progress: Called with the number of queries that were ranked since the last call.

    Returns:
        Distances to the augmented gallery, and its rows, (Q, k).

    Raises:
        ValueError: As in `nearest`, or if ``count`` or ``alpha`` is out of range.

    Example:
        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]], np.float32)
        >>> augmentation(points[:1], points[1:], 1, count=0).indices.tolist()
        [[0]]

    Source: R. Arandjelović, A. Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012;
        weights of Radenović et al., 2019.
    """
    k, count = as_int("k", k, 0), _checked_options(count, alpha)
    gallery = as_rows("gallery", gallery)
    queries = as_rows("queries", queries, gallery.shape[1])
    own = as_own(own, len(queries), len(gallery))
    numbers = np.arange(len(gallery))
    spare = nearest(gallery, gallery, count + (own is not None), numbers).indices  # (G, n + 1) if queries are within
    augmented = expand(gallery, gallery, spare[:, :count], alpha)
    if own is None:
        ranked = nearest(queries, augmented, k)
        if progress is not None:
            progress(len(queries))
        return ranked
    return _without_the_query(queries, gallery, augmented, spare, count, own, k, alpha, progress)


def _checked_options(count: int, alpha: float) -> int:
    """Return n as Python's integer, and check α."""
    if not (is_finite(alpha) and alpha >= 0):
        raise ValueError(f"alpha: expected a finite number >= 0, got {alpha!r}")
    return as_int("count", count, 0)


def expand(
    vectors: NDArray[np.float32], gallery: NDArray[np.float32], neighbors: NDArray[np.int64], alpha: float
) -> NDArray[np.float32]:
    """Return the weighted mean of each vector (N, d) and its neighbors, rows of the gallery (N, n): (N, d)."""
    if not neighbors.size:
        return vectors
    expanded, step = np.empty_like(vectors), max(1, _ELEMENTS // (neighbors.shape[1] * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        block = slice(start, start + step)
        squares = squared_distances(vectors[block], gallery, neighbors[block])  # (B, n)
        weights = np.concatenate([np.ones((len(squares), 1)), np.maximum(0, 1 - squares / 2) ** alpha], axis=1)
        parts = np.concatenate([vectors[block][:, None], gallery[neighbors[block]]], axis=1).astype(np.float64)
        sums = np.einsum("bn,bnd->bd", weights, parts)  # (B, d)
        lengths = (weights * np.linalg.norm(parts, axis=2)).sum(1) / weights.sum(1)
        norms = np.linalg.norm(sums, axis=1)
        expanded[block] = sums * (lengths / np.where(norms > 0, norms, 1))[:, None]
    return expanded


def _without_the_query(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    augmented: NDArray[np.float32],
    spare: NDArray[np.int64],
    count: int,
    own: NDArray[np.int64],
    k: int,
    alpha: float,
    progress: Callable[[int], object] | None,
) -> Neighbors:
    """Rank an augmented gallery, with the means that contain a query computed again without it.

    ``spare`` are the n neighbors of each vector and one more, (G, n + 1), or all others if there are fewer.
    """
    members, query_of = np.unique(own, return_inverse=True)  # of several queries, one row may be that of each
    affected, place = np.nonzero(np.isin(spare[:, :count], members))
    others = spare[affected]
    others = others[np.arange(others.shape[1]) != place[:, None]].reshape(len(affected), -1 if len(affected) else 0)
    other = expand(gallery[affected], gallery, others[:, :count], alpha)  # (pairs, d)
    number = np.searchsorted(members, spare[affected, place])  # of the query among the members
    order = np.argsort(number, kind="stable")
    other, affected = other[order].astype(np.float64), affected[order]
    bounds = np.searchsorted(number[order], np.arange(len(members) + 1))
    most = int(np.diff(bounds).max(initial=0))
    near = nearest(queries, augmented, k + most, own)  # enough that k are left of those that are not affected
    k = min(k, max(0, len(gallery) - 1))
    found = Neighbors(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
    for query, member in enumerate(query_of.tolist()):
        mine = slice(bounds[member], bounds[member + 1])
        rest = ~np.isin(near.indices[query], affected[mine])
        columns = np.concatenate([affected[mine], near.indices[query][rest]])
        squares = np.square(other[mine] - queries[query]).sum(1)
        values = np.concatenate([squares, near.distances[query][rest].astype(np.float64) ** 2])
        distances, indices = first_k(values[None], columns[None], k)
        found.distances[query], found.indices[query] = distances[0], indices[0]
    if progress is not None:
        progress(len(queries))
    return found
