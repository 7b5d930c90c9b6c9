"""Exact nearest neighbours in bounded memory, with a defined order among equals.

Shapes: Q queries, G gallery vectors, q queries of a chunk, d dimensions, k neighbours.
"""

import math

import torch
from torch import Tensor

from ccpml.retrieval.inputs import ArrayLike, as_embeddings, at_least_one

__all__ = ["CHUNK_ELEMENTS", "ExactSearch", "nearest_neighbors", "squared_lengths"]

CHUNK_ELEMENTS = 2**23
"""Scores held at a time by default: 64 MiB in float64."""

_ROWS = 2**14


def nearest_neighbors(
    queries: ArrayLike,
    gallery: ArrayLike | None = None,
    k: int = 10,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Find the k nearest gallery vectors of each query, by Euclidean distance, exactly.

    Among equal distances the lower index comes first. The order is the one by which
    :func:`~ccpml.retrieval.evaluate` scores, save that neighbours nearer to each other than the rounding of a
    matrix product are put right here by their distances, which are computed from the differences.

    Args:
        queries: Shape (Q, d), floating point, NumPy or torch. Computed in float64.
        gallery: Shape (G, d); by default the queries themselves, none being its own neighbour (by index: an
            equal vector elsewhere in the set is a neighbour).
        k: How many neighbours, at most G (Q − 1 without a gallery).
        chunk_elements: Scores held at a time; memory is a small multiple of this.

    Returns:
        Distances, nearest first (float64 for float64 input, else float32), and indices into the gallery (int64),
        both (Q, k), on the queries' device.

    Raises:
        ValueError: On a wrong dtype or shape, on values that are NaN or infinite, or if k is below 1 or more
            than there are.

    Example:
        >>> import torch
        >>> distances, indices = nearest_neighbors(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
        >>> distances.tolist(), indices.tolist()
        ([[1.0], [1.0], [2.0]], [[1], [0], [1]])
    """
    x = as_embeddings("queries", queries)
    y = None if gallery is None else as_embeddings("gallery", gallery, like=x)
    k, chunk_elements = at_least_one("k", k), at_least_one("chunk_elements", chunk_elements)
    search = ExactSearch(x, y)
    if k > search.available:
        raise ValueError(f"k: expected at most the {search.available} other vectors to choose from, got {k}")
    dtype = x.dtype if y is None else torch.promote_types(x.dtype, y.dtype)
    distances = torch.empty(len(x), k, dtype=dtype, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    size = search.rows_per_chunk(chunk_elements, k * x.shape[1])
    for start in range(0, len(x), size):
        rows = torch.arange(start, min(start + size, len(x)), device=x.device)
        measured, indices[rows] = search.measured(rows, search.nearest(rows, k))
        distances[rows] = measured.to(dtype)
    return distances, indices


class ExactSearch:
    """Queries against a gallery, one chunk of queries at a time: what metrics and neighbours share.

    Neighbours are ranked by 2 x·y − |y|², which falls as |x − y|² grows. In float64: in float32 its rounding alone,
    1e-7 of |x|² + |y|², reorders vectors that are 3e-4 of their length apart, as those of a network that has all
    but collapsed are.

    Args:
        queries: Shape (Q, d), float32 or float64, finite.
        gallery: Shape (G, d); None searches within the queries, each of which is excluded from its own
            neighbours, by index.
    """

    def __init__(self, queries: Tensor, gallery: Tensor | None = None) -> None:
        self.within = gallery is None
        self.queries, self.gallery, self.unit = _conditioned(queries, gallery)
        self.available = len(self.gallery) - self.within
        self._bias = -squared_lengths(self.gallery)
        self._scores = self._bias.new_empty(0, len(self.gallery))

    def rows_per_chunk(self, elements: int, elements_per_row: int = 1) -> int:
        """How many queries a chunk may hold so that it keeps within a number of elements; at least one."""
        return max(1, elements // max(len(self.gallery), elements_per_row))

    def nearest(self, rows: Tensor, k: int) -> Tensor:
        """Return the k nearest of each of some queries, nearest first, the lower index first among equals.

        Args:
            rows: Which queries, indices of shape (q,).
            k: How many neighbours, from 1 to ``available``.

        Returns:
            Indices into the gallery, shape (q, k), int64.
        """
        if len(self._scores) < len(rows):
            self._scores = self._bias.new_empty(len(rows), len(self.gallery))
        scores = self._scores[: len(rows)]
        torch.addmm(self._bias, self.queries[rows], self.gallery.T, alpha=2, out=scores)
        if self.within:
            scores.scatter_(1, rows[:, None], -torch.inf)
        return _top_k(scores, k)

    def measured(self, rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of neighbours, from the differences, and put the neighbours in their order.

        Args:
            rows: Which queries, indices of shape (q,).
            indices: Their neighbours, shape (q, k).

        Returns:
            Distances and indices, both (q, k).
        """
        indices = indices.sort(dim=1).values
        squares = (self.queries[rows][:, None] - self.gallery[indices]).square_().sum(dim=2)
        squares, order = squares.sort(dim=1, stable=True)
        return squares.sqrt_() * self.unit, indices.gather(1, order)


def squared_lengths(vectors: Tensor) -> Tensor:
    """Give |v|² of vectors (N, d), shape (N,), without a copy of all of them."""
    return torch.cat([part.square().sum(dim=1) for part in torch.split(vectors, _ROWS)])


def _top_k(scores: Tensor, k: int) -> Tensor:
    """Return the indices of each row's k highest scores, the lower index first among equals, shape (q, k).

    ``torch.topk`` promises no order among equals and no choice among those at the boundary. One score more than
    asked for tells which rows have equals that matter; those alone are put right.
    """
    values, indices = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    equal = values[:, 1:] == values[:, :-1]
    values, indices = values[:, :k], indices[:, :k]
    rows = equal[:, : k - 1].any(dim=1).nonzero()[:, 0]
    if len(rows):
        indices[rows] = _in_order(values[rows], indices[rows])
    rows = equal[:, k - 1 :].any(dim=1).nonzero()[:, 0]
    if len(rows):
        indices[rows] = _top_k_by_scan(scores[rows], values[rows, -1:], k)
    return indices


def _top_k_by_scan(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Do as ``_top_k`` for rows with equals at the boundary, given each row's k-th highest score, shape (q, 1)."""
    above, equal = scores > last, scores == last
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
    indices = chosen.nonzero()[:, 1].view(-1, k)
    return _in_order(scores.gather(1, indices), indices)


def _in_order(values: Tensor, indices: Tensor) -> Tensor:
    """Order each row's indices by falling value, then by rising index."""
    indices, by_index = indices.sort(dim=1)
    by_value = values.gather(1, by_index).sort(dim=1, descending=True, stable=True).indices
    return indices.gather(1, by_value)


def _conditioned(queries: Tensor, gallery: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Bring vectors to where 2 x·y − |y|² is computed well; distances keep their order.

    In float64 (mps has none: float32 there), with two repairs that touch no ordinary embeddings. Squares that would
    overflow or vanish: scale by a
    power of two, which is exact. A set that is small against its distance from the origin, such as a collapsed
    network's: subtract one of its vectors from all, as nearby floats subtract exactly.

    Returns:
        The queries, the gallery, and the length of one unit of theirs in the unit of the input.
    """
    y = queries if gallery is None else gallery
    dtype = torch.float32 if queries.device.type == "mps" else torch.float64
    x, y = queries.to(dtype), y.to(dtype)
    largest = max(abs(float(extreme)) for part in (x, y) for extreme in part.aminmax())
    bound = 120 if dtype == torch.float32 else 1000
    exponent = min(max(math.frexp(largest)[1], -bound), bound)
    unit = 2.0**exponent if abs(exponent) > 30 else 1.0
    if unit != 1.0:
        x, y = x / unit, y / unit
    spread, mean = torch.var_mean(y, dim=0, correction=0)
    if spread.sum() < mean.square().sum() / 16:
        origin = y[0].clone()
        x, y = x - origin, y - origin
    return x, x if gallery is None else y, unit
