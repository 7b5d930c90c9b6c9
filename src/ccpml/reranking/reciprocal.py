"""k-reciprocal re-ranking. Shapes: N vectors of the set, Q queries, k₁ neighbors, d dimensions."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import as_int, is_finite
from ccpml.reranking.neighbors import Neighbors, nearest, squared_distances
from ccpml.reranking.vectors import as_own, as_rows

__all__ = ["k_reciprocal"]

_ELEMENTS: Final = 2**22  # numbers held at a time
_SPARE: Final = 8


def k_reciprocal(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    progress: Callable[[int], object] | None = None,
) -> Neighbors:
    """Rank by d* = (1 − λ) d_J + λ d², where d_J compares the reciprocal neighbors of query and gallery vector.

    All is defined in the set of the queries and the gallery together, or in the gallery alone if the queries are in it.
    N(p, n) are p and its n nearest others. R(p, n) are those g of N(p, n) that have p in N(g, n). R*(p) is R(p, k₁)
    together with each R(g, k₁ / 2), g in R(p, k₁), of which R(p, k₁) contains at least two thirds. V(p, g) is
    exp(−d(p, g)²) for g in R*(p), else 0; then V(p, ·) is replaced by the mean of V over p and its k₂ − 1 nearest
    others. d_J(p, g) is 1 − Σ min(V(p, ·), V(g, ·)) / Σ max(V(p, ·), V(g, ·)).

    Memory is bounded: a few 10⁸ bytes beside k₁ numbers and about 100 values of V for each vector. Time grows with
    (Q + G) · Q.

    Args:
        queries: φ-normalized, float32, (Q, d).
        gallery: φ-normalized, float32, (G, d).
        k: Number of neighbors.
        own: The row of each query in the gallery, (Q,), if the queries are in it; it is not its own neighbor.
        k1: k₁, the number of neighbors that are compared; the number of pictures that one expects of a thing.
        k2: k₂, the number of vectors, p itself counted, over which V is averaged; 1: V as it is.
        weight: λ, the weight of the distance as it was, in [0, 1]; 1 leaves all ranks as they were.
        progress: Called with the number of queries that were ranked since the last call.

    Returns:
        d* and rows of the gallery, (Q, k); among equal d* the nearer one is first.

    Raises:
        ValueError: If k1 or k2 is below 1, the weight is out of range, or on vectors as in `nearest`.

    Example:
        >>> points = np.array([[0.0], [0.1], [0.9], [1.0]], np.float32)
        >>> k_reciprocal(points, points, 1, own=np.arange(4), k1=1, k2=1).indices.tolist()
        [[1], [0], [3], [2]]

    Source: Z. Zhong, L. Zheng, D. Cao, S. Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR
        2017, equations 3 to 12, with the squared Euclidean distance as d. As in the authors' code, sets contain p
        itself; unlike there, distances are not divided by the largest of a row, nor V by its sum.
    """
    k, k1, k2 = as_int("k", k, 0), as_int("k1", k1, 1), as_int("k2", k2, 1)
    if not (is_finite(weight) and 0 <= weight <= 1):
        raise ValueError(f"weight: expected a number in [0, 1], got {weight!r}")
    gallery = as_rows("gallery", gallery)
    queries = as_rows("queries", queries, gallery.shape[1])
    own = as_own(own, len(queries), len(gallery))
    if not len(queries) or not len(gallery):
        return nearest(queries, gallery, k, own)
    points = gallery if own is not None else np.concatenate([queries, gallery])  # (N, d)
    first = 0 if own is not None else len(queries)  # the point that is row 0 of the gallery
    position = own if own is not None else np.arange(len(queries))  # point of each query
    ranks = _ranks(points, max(k1, k2 - 1))
    encoded = _encode(points, ranks[:, : k1 + 1], k1)
    encoded = _average(encoded, ranks[:, :k2], len(points)) if k2 > 1 else encoded
    columns = encoded.transposed(len(points))
    k = max(0, min(k, len(gallery) - (own is not None)))
    found = Neighbors(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
    step = max(1, _ELEMENTS // max(len(points), k * gallery.shape[1]))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        overlap = _overlaps(encoded, columns, position[block], len(points))[:, first:]  # (B, G)
        excluded = None if own is None else own[block]
        found.distances[block], found.indices[block] = _rank(queries[block], gallery, 1 - overlap, k, excluded, weight)
        if progress is not None:
            progress(len(found.indices[block]))
    return found


class _Sparse(NamedTuple):
    """Rows of a sparse matrix: the entries of row i are those from offsets[i] to offsets[i + 1]."""

    offsets: NDArray[np.int64]  # (rows + 1,)
    columns: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, n: int, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64]) -> "_Sparse":
        """Return the matrix of n rows with these entries, which are sorted by row."""
        return cls(np.searchsorted(rows, np.arange(n + 1)), columns, values)

    def row_numbers(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def transposed(self, n: int) -> "_Sparse":
        order = np.argsort(self.columns, kind="stable")
        return self.of(n, self.columns[order], self.row_numbers()[order], self.values[order])

    def entries_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places in ``rows`` of all entries of some rows, one row after the other, and of the entries."""
        starts, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        place = np.repeat(np.arange(len(rows)), counts)
        return place, np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)


def _ranks(points: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return each point and its nearest others, (N, count + 1)."""
    numbers = np.arange(len(points))
    return np.concatenate([numbers[:, None], nearest(points, points, count, own=numbers).indices], axis=1)


def _encode(points: NDArray[np.float32], ranks: NDArray[np.int64], k1: int) -> _Sparse:
    """Return V, (N, N), before it is averaged; ranks are N(p, k₁), (N, k₁ + 1)."""
    rows, columns, values = [], [], []
    half = ranks[:, : round(k1 / 2) + 1]  # N(p, k₁ / 2)
    step = max(1, _ELEMENTS // (ranks.shape[1] ** 2 * half.shape[1]))
    numbers = np.arange(len(points))
    for start in range(0, len(points), step):
        block = numbers[start : start + step]
        near = np.where(_are_reciprocal(ranks, block), ranks[block], -1)  # R(p, k₁) and -1, (B, k₁ + 1)
        reciprocal_half = np.stack([_are_reciprocal(half, each) for each in ranks[block].T], axis=1)
        others = np.where(reciprocal_half & (near >= 0)[:, :, None], half[ranks[block]], -1)  # R(g, k₁ / 2)
        shared = (others[:, :, :, None] == near[:, None, None, :]).any(axis=3) & (others >= 0)
        sizes = (others >= 0).sum(axis=2)
        joined = 3 * shared.sum(axis=2) >= 2 * sizes  # (B, k₁ + 1)
        others = np.where(joined[:, :, None], others, -1).reshape(len(block), -1)
        members = np.sort(np.concatenate([near, others], axis=1), axis=1)  # R*(p), with repetitions and -1
        keep = members >= 0
        keep[:, 1:] &= members[:, 1:] != members[:, :-1]
        row, place = keep.nonzero()
        rows.append(block[row])
        columns.append(members[row, place])
        squares = squared_distances(points[rows[-1]], points, columns[-1][:, None])[:, 0]
        values.append(np.exp(-squares))
    return _Sparse.of(len(points), np.concatenate(rows), np.concatenate(columns), np.concatenate(values))


def _are_reciprocal(ranks: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the neighbors of some points (B,) have the point among their own, (B, n)."""
    found: NDArray[np.bool_] = (ranks[ranks[points]] == points[:, None, None]).any(axis=2)
    return found


def _average(encoded: _Sparse, ranks: NDArray[np.int64], n: int) -> _Sparse:
    """Return the mean of V over the points of each row of ranks, (N, k₂)."""
    rows, columns, values = [], [], []
    step = max(1, _ELEMENTS // n)
    for start in range(0, n, step):
        block = ranks[start : start + step]
        place, entries = encoded.entries_of(block.ravel())
        keys = place // block.shape[1] * n + encoded.columns[entries]
        sums = np.bincount(keys, encoded.values[entries], minlength=len(block) * n)
        found = sums.nonzero()[0]
        rows.append(start + found // n)
        columns.append(found % n)
        values.append(sums[found] / block.shape[1])
    return _Sparse.of(n, np.concatenate(rows), np.concatenate(columns), np.concatenate(values))


def _overlaps(encoded: _Sparse, columns: _Sparse, points: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return Σ min / Σ max of V of some points (B,) and of all, (B, N)."""
    overlaps = np.zeros(len(points) * n)
    sums = np.bincount(encoded.row_numbers(), encoded.values, minlength=n)  # Σ V, (N,)
    place, entries = encoded.entries_of(points)
    pairs = np.cumsum(np.diff(columns.offsets)[encoded.columns[entries]])
    bounds = np.searchsorted(pairs, np.arange(_ELEMENTS, pairs[-1] + _ELEMENTS, _ELEMENTS), side="right")
    for part in np.split(np.arange(len(entries)), np.unique(bounds)):
        pair, other = columns.entries_of(encoded.columns[entries[part]])
        low = np.minimum(encoded.values[entries[part]][pair], columns.values[other])
        overlaps += np.bincount(place[part][pair] * n + columns.columns[other], low, minlength=len(overlaps))
    shared = overlaps.reshape(len(points), n)
    return shared / (sums[points][:, None] + sums - shared)  # Σ max = Σ V(p) + Σ V(g) − Σ min


def _rank(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    jaccard: NDArray[np.float64],
    k: int,
    own: NDArray[np.int64] | None,
    weight: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the k smallest d* of each query, with the rows of the gallery, both (B, k)."""
    squares = (queries**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * queries @ gallery.T  # (B, G), float32
    # d² also decides among equal d_J if it has no weight
    total = (1 - weight) * jaccard + max(weight, 1e-9) * squares
    if own is not None:
        total[np.arange(len(own)), own] = np.inf
    count = min(k + _SPARE, total.shape[1])
    some = np.argpartition(total, count - 1, axis=1)[:, :count]
    exact = squared_distances(queries, gallery, some)
    scores = (1 - weight) * np.take_along_axis(jaccard, some, axis=1) + weight * exact
    if own is not None:
        scores[some == own[:, None]] = np.inf
    order = np.lexsort((some, exact, scores))[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(some, order, axis=1)
