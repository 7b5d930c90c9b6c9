"""Exact nearest neighbors in bounded memory, with a defined order among equal distances.

Shapes: Q queries, G gallery vectors, q queries of a chunk, d dimensions, k neighbors.
"""

import math
import sys

import torch
from torch import Tensor

from ccpml.numbers import as_int
from ccpml.retrieval.inputs import ArrayLike, as_embeddings

__all__ = ["CHUNK_ELEMENTS", "ExactSearch", "nearest_neighbors", "squared_lengths"]

CHUNK_ELEMENTS = 2**23
"""Scores held at a time by default: 64 MiB in float64."""

_ROWS_PER_PART = 2**14


def nearest_neighbors(
    queries: ArrayLike, gallery: ArrayLike | None = None, k: int = 10, *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Find the k nearest gallery vectors of each query by Euclidean distance, exactly.

    Among equal distances the lower index comes first. The order is that of [`evaluate`][ccpml.evaluate], except that
    neighbors that the rounding of a matrix product cannot separate are sorted by distances computed from differences.

    Args:
        queries: Shape (Q, d), floating point, NumPy or torch. Computed in float64.
        gallery: Shape (G, d); by default the queries themselves. A query is then not its own neighbor: it is excluded
            by its index, so an equal vector elsewhere in the set is a neighbor.
        k: Number of neighbors, at most G (Q − 1 without a gallery).
        chunk_elements: Scores held at a time; memory is a small multiple of it.

    Returns:
        Distances, nearest first (float64 for float64 input, else float32), and indices into the gallery (int64),
        both (Q, k), on the device of the queries.

    Raises:
        ValueError: On a wrong dtype or shape, on values that are NaN or infinite, or if k is out of range.

    Example:
        >>> import torch
        >>> distances, indices = nearest_neighbors(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
        >>> distances.tolist(), indices.tolist()
        ([[1.0], [1.0], [2.0]], [[1], [0], [1]])

    Source: Exhaustive search, by the definition; nothing is approximated.
    """
    x = as_embeddings("queries", queries)
    y = None if gallery is None else as_embeddings("gallery", gallery, like=x)
    k, chunk_elements = as_int("k", k, 1), min(as_int("chunk_elements", chunk_elements, 1), sys.maxsize)
    search = ExactSearch(x, y)
    if k > search.available:
        raise ValueError(f"k: expected at most {search.available}, the number of vectors to choose from, got {k}")
    dtype = x.dtype if y is None else torch.promote_types(x.dtype, y.dtype)
    distances = torch.empty(len(x), k, dtype=dtype, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    size = search.rows_per_chunk(chunk_elements, k * x.shape[1])
    for rows in torch.split(torch.arange(len(x), device=x.device), size):
        chunk_distances, indices[rows] = search.sort_by_distance(rows, search.nearest(rows, k))
        distances[rows] = chunk_distances.to(dtype)
    return distances, indices


class ExactSearch:
    """Search of a gallery, one chunk of queries at a time.

    Neighbors are ranked by 2 x·y − |y|², which falls as |x − y|² grows, in float64: in float32, rounding (1e-7 of
    |x|² + |y|²) reorders vectors that are 3e-4 of their length apart, as in a network that has almost collapsed.

    Args:
        queries: Shape (Q, d), float32 or float64, finite.
        gallery: Shape (G, d); None searches within the queries, each excluded by its index from its own neighbors.
    """

    def __init__(self, queries: Tensor, gallery: Tensor | None = None) -> None:
        self.within = gallery is None
        self.queries, self.gallery, self.scale = _condition(queries, gallery)
        self.available = len(self.gallery) - self.within
        self._bias = -squared_lengths(self.gallery)
        self._copies, self._originals = _copies(self.gallery)
        self._scores = self._bias.new_empty(0, len(self.gallery))

    def rows_per_chunk(self, elements: int, elements_per_row: int) -> int:
        """Return the number of queries per chunk that keeps within a number of elements, at least 1."""
        return max(1, elements // max(len(self.gallery), elements_per_row))

    def nearest(self, rows: Tensor, k: int) -> Tensor:
        """Return the indices (q, k) of the nearest of queries ``rows`` (q,), the lower first among equal distances."""
        if len(self._scores) < len(rows):
            self._scores = self._bias.new_empty(len(rows), len(self.gallery))
        scores = self._scores[: len(rows)]
        torch.addmm(self._bias, self.queries[rows], self.gallery.T, alpha=2, out=scores)
        if len(self._copies):  # rounding depends on the place in the product
            scores.index_copy_(1, self._copies, scores.index_select(1, self._originals))
        if self.within:
            scores.scatter_(1, rows[:, None], -torch.inf)
        return _top_k(scores, k)

    def sort_by_distance(self, rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the distances of neighbors (q, k) from differences; return both, sorted by distance, then index."""
        indices = indices.sort(dim=1).values
        squares = (self.queries[rows][:, None] - self.gallery[indices]).square_().sum(dim=2)
        squares, order = squares.sort(dim=1, stable=True)
        return squares.sqrt_() * self.scale, indices.gather(1, order)


def squared_lengths(vectors: Tensor) -> Tensor:
    """Return |v|² of vectors (N, d), shape (N,), without a copy of all of them."""
    return torch.cat([part.square().sum(dim=1) for part in torch.split(vectors, _ROWS_PER_PART)])


def _copies(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the vectors (N, d) equal one before them, and the first that each of these equals, (M,) both."""
    kind = torch.int32 if vectors.dtype == torch.float32 else torch.int64
    generator = torch.Generator("cpu").manual_seed(0)
    weights = torch.randint(2**31, vectors.shape[1:], generator=generator, device="cpu").to(vectors.device)
    codes = []
    for part in torch.split(vectors, _ROWS_PER_PART):
        bits = (part + 0.0).view(kind).long()  # -0.0 equals 0.0
        codes.append(((bits ^ (bits >> 32)) * weights).sum(dim=1))  # the last bits of a float32 are 0 in float64
    sorted_codes, order = torch.cat(codes).sort(stable=True)
    again = sorted_codes[1:] == sorted_codes[:-1]
    starts = torch.arange(len(order), device=order.device)
    starts[1:][again] = 0
    copies, originals = order[1:][again], order[starts.cummax(dim=0).values][1:][again]
    parts = zip(torch.split(copies, _ROWS_PER_PART), torch.split(originals, _ROWS_PER_PART), strict=True)
    equal = [(vectors[i] == vectors[j]).all(dim=1) for i, j in parts]
    kept = torch.cat(equal) if equal else again[:0]
    return copies[kept], originals[kept]


def _top_k(scores: Tensor, k: int) -> Tensor:
    """Return the indices of each row's k highest scores, the lower index first among equal scores, shape (q, k).

    ``torch.topk`` guarantees neither an order among equal scores nor a choice among those at the boundary. One more
    score than requested shows which rows have such ties; only those are corrected.
    """
    values, indices = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    equal = values[:, 1:] == values[:, :-1]
    values, indices = values[:, :k], indices[:, :k]
    rows = equal[:, : k - 1].any(dim=1).nonzero()[:, 0]
    indices[rows] = _sort_rows(values[rows], indices[rows])
    rows = equal[:, k - 1 :].any(dim=1).nonzero()[:, 0]
    if len(rows):
        indices[rows] = _top_k_by_scan(scores[rows], values[rows, -1:], k)
    return indices


def _top_k_by_scan(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Return the top k of rows with ties at the boundary, given each row's k-th highest score, shape (q, 1)."""
    above, equal = scores > last, scores == last
    free = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= free))
    indices = chosen.nonzero()[:, 1].view(-1, k)
    return _sort_rows(scores.gather(1, indices), indices)


def _sort_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Sort each row's indices by descending value, then by ascending index."""
    indices, by_index = indices.sort(dim=1)
    by_value = values.gather(1, by_index).sort(dim=1, descending=True, stable=True).indices
    return indices.gather(1, by_value)


def _condition(queries: Tensor, gallery: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Return vectors in float64 such that 2 x·y − |y|² is accurate, and the factor from their distances to the input's.

    Two corrections leave ordinary embeddings unchanged. If squares would overflow or underflow, vectors are scaled by a
    power of two, which is exact. If a set is far from the origin relative to its spread, as in a collapsed network, one
    of its vectors is subtracted from all, which is exact for nearby floats. On mps, which has no float64, the result is
    float32.
    """
    y = queries if gallery is None else gallery
    dtype = torch.float32 if queries.device.type == "mps" else torch.float64
    x, y = queries.to(dtype), y.to(dtype)
    largest = max(abs(float(extreme)) for part in (x, y) for extreme in part.aminmax())
    bound = 120 if dtype == torch.float32 else 1000
    exponent = min(max(math.frexp(largest)[1], -bound), bound)
    scale = 2.0**exponent if abs(exponent) > 30 else 1.0
    if scale != 1.0:
        x, y = x / scale, y / scale
    spread, mean = torch.var_mean(y, dim=0, correction=0)
    if spread.sum() < mean.square().sum() / 16:
        origin = y[0].clone()
        x, y = x - origin, y - origin
    return x, x if gallery is None else y, scale
