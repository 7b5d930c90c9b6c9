"""The few nearest neighbors of all queries at the speed of a float32 matrix product, and still exact.

Float32 scores of each tile of the product select candidates: those that may be among the k nearest, given the rounding
error. Where rounding could change the order of a query's candidates, they are compared again in float64.

Shapes: Q queries, G gallery vectors, d dimensions, h × s a tile, b side of a block, k neighbors.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ccpml.retrieval.neighbors import ExactSearch, squared_lengths

__all__ = ["MAX_NEIGHBORS", "few_nearest", "tile_side"]

MAX_NEIGHBORS = 32
"""Largest k."""

_MIN_BLOCKS = 16
"""Minimum number of blocks along a line of a tile (or 2 k, if larger); a candidate must reach the k-th largest of the
blocks' maxima."""

_MAX_SIDES = {"cpu": (4096, 64), "cuda": (8192, 256)}
"""Maximum sides of a tile and of a block. Larger ones leave fewer candidates and use more cores per operation, as long
as the scores of a tile fit the cache."""

_MIN_TILES, _MIN_SIDE = 8, 1024
_TILES_PER_REPORT = 8
_CAPACITY = 2**24
_PAIRS_PER_PART = 2**16
_QUERIES_PER_SORT = 2**17

_PADDING_SCORE = -1e38
"""Score of vectors that only pad the last tile: below all others, and far from overflow."""


def tile_side(vectors: Tensor) -> int:
    """Return the number of vectors along the side of a tile; ranks should divide the queries at its multiples."""
    max_side, block = _MAX_SIDES.get(vectors.device.type, _MAX_SIDES["cpu"])
    tiles = max(-(-len(vectors) // max_side), min(_MIN_TILES, -(-len(vectors) // _MIN_SIDE)))
    return _round_up(-(-len(vectors) // tiles), block)


def few_nearest(
    search: ExactSearch,
    wanted: Tensor,
    progress: Callable[[float], None] = lambda fraction: None,
    *,
    side: int | None = None,
    capacity: int = _CAPACITY,
) -> tuple[Tensor, Tensor]:
    """Find the nearest neighbors of many queries at once.

    Within one set each tile of the product serves its rows and its columns, so half of the tiles suffice. Tiles
    without a wanted query are not computed.

    Args:
        search: Queries and gallery.
        wanted: k of each query, shape (Q,), 0 for none, at most `MAX_NEIGHBORS` and the number available.
        progress: Called repeatedly with the fraction of tiles done.
        side: Side of a tile, at least 16 and twice the largest k.
        capacity: Candidates held at a time.

    Returns:
        Indices into the gallery, nearest first, the lower index first among equal distances, shape (Q, largest k), -1
        beyond a query's own k; and which queries are undecided, shape (Q,): those with too many near-ties, that is more
        vectors about as far away as the k-th nearest than float32 can separate. Their indices have no meaning.
    """
    with _full_precision(search.queries.device.type):
        height, side = (side or tile_side(vectors) for vectors in (search.queries, search.gallery))
        tiles = _Tiles(search, wanted, height, side, capacity)
        for fraction in tiles.visit():
            progress(fraction)
        return tiles.result()


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Multiply in true float32, whatever the settings of the training: the error bounds rely on it."""
    with _ieee_products(), torch.autocast(device, enabled=False), torch.no_grad():
        yield


@contextmanager
def _ieee_products() -> Iterator[None]:
    """Set what decides on the precision of products within the block, whichever way it was set before."""
    if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9, whose older functions refuse newer settings
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    every: Any = torch.backends  # typed as older ones are
    backends = every.cuda.matmul, every.mkldnn.matmul
    settings = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, setting in zip(backends, settings, strict=True):
            backend.fp32_precision = "none"  # that of torch.backends, which the backend then follows as before
            if backend.fp32_precision != setting:
                backend.fp32_precision = setting


class _Tiles:
    """One pass over the product, and the candidates it selects.

    The score of a pair is −|x − y|²/2 = x·y − |x|²/2 − |y|²/2, one product of the vectors (x, −|x|²/2, 1) and
    (y, 1, −|y|²/2), and the same for both sides. In float32 its error is at most ``slack``: (d + 5) u times the sum of
    the magnitudes of its terms, (|x| + |y|)²/2, with u = 2⁻²⁴ (d + 2 products and sums, and the rounding of either
    factor); see Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """

    def __init__(self, search: ExactSearch, wanted: Tensor, height: int, side: int, capacity: int) -> None:
        self.search, self.wanted, self.height, self.side, self.capacity = search, wanted, height, side, capacity
        max_block = _MAX_SIDES.get(search.queries.device.type, _MAX_SIDES["cpu"])[1]
        max_k = max(1, int(wanted.max()))
        blocks = max(_MIN_BLOCKS, 2 * max_k)
        self.block = math.gcd(min(1 << int(math.log2(side // blocks)), max_block), side)  # powers of 2 reduce fastest
        self.max_candidates = 8 * max_k + self.block  # of a query; beyond, it has too many near-ties
        self.left = _augment(search.queries, height)  # (Q', d + 2), Q' a multiple of the height
        self.right = self.left if search.within else _augment(search.gallery, side)
        lengths = search.queries.norm(dim=1)
        longest = lengths.max() if search.within else search.gallery.norm(dim=1).max()
        unit = (search.queries.shape[1] + 4) * 2.0**-24
        self.slack = self._pad((unit * (lengths + longest).square() / 2).float(), 0.0)  # (Q',)
        self.k = self._pad(wanted, 0)
        self.best = self.left.new_full((len(self.left), max_k), _PADDING_SCORE)  # top maxima of blocks, descending
        self.threshold = self.left.new_full((len(self.left),), _PADDING_SCORE).masked_fill_(self.k == 0, torch.inf)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # queries and references int32, scores
        self.count = 0
        self.column_offsets = torch.arange(self.block, device=self.left.device) * side

    def _pad(self, values: Tensor, fill: float) -> Tensor:
        return pad(values, (0, len(self.left) - len(values)), value=fill)

    def visit(self) -> Iterator[float]:
        """Visit the tiles of wanted queries; yield the fraction done every few tiles."""
        within, rows, columns = self.search.within, len(self.left) // self.height, len(self.right) // self.side
        is_wanted = (self.k.view(rows, self.height) > 0).any(dim=1).tolist()
        scores, done = self.left.new_empty(self.height, self.side), 0
        swapped = [*range(self.left.shape[1] - 2), self.left.shape[1] - 1, self.left.shape[1] - 2]
        visits = [
            [c for c in range(row if within else 0, columns) if is_wanted[row] or (within and is_wanted[c])]
            for row in range(rows)
        ]
        total = sum(map(len, visits))
        for row in range(rows):
            left = self.left[row * self.height :][: self.height, swapped]
            for column in visits[row]:
                torch.mm(left, self.right[column * self.side :][: self.side].T, out=scores)
                if within and row == column:
                    scores.fill_diagonal_(-torch.inf)  # a query is not its own neighbor
                elif within and is_wanted[column]:
                    self._collect(scores, column, row, by_columns=True)
                if is_wanted[row]:
                    self._collect(scores, row, column)
                done += 1
                if done % _TILES_PER_REPORT == 0 or done == total:
                    yield done / total

    def _collect(self, scores: Tensor, query_tile: int, reference_tile: int, by_columns: bool = False) -> None:
        """Add the candidates of a tile for the queries along its rows or its columns.

        A candidate reaches the k-th largest of the blocks' maxima so far, less twice the slack.
        """
        start, block = query_tile * self.height, self.block
        blocks = scores.view(-1, block, self.side) if by_columns else scores.view(self.height, -1, block)
        maxima = blocks.amax(1).T if by_columns else blocks.amax(2)  # (h, s / b)
        better = (maxima.amax(1) >= self.threshold[start : start + self.height]).nonzero()[:, 0]
        if not len(better):
            return
        maxima, query = maxima.index_select(0, better), better + start
        threshold = self._raise_thresholds(query, maxima)
        of, number = (maxima >= threshold[:, None]).nonzero(as_tuple=True)
        line = better.index_select(0, of)
        if by_columns:
            first = number * (block * self.side) + line
            values = scores.view(-1).take(first[:, None] + self.column_offsets)  # (hits, b)
        else:
            values = scores.view(-1, block).index_select(0, line * (self.side // block) + number)
        hit, place = (values >= threshold.index_select(0, of)[:, None]).nonzero(as_tuple=True)
        query = query.index_select(0, of.index_select(0, hit))
        reference = reference_tile * self.side + number.index_select(0, hit) * block + place
        self.found.append((query.int(), reference.int(), values[hit, place]))
        self.count += len(hit)
        if self.count > self.capacity:
            self._prune()

    def _raise_thresholds(self, query: Tensor, maxima: Tensor) -> Tensor:
        """Merge maxima of blocks into the best of some queries; return the scores a candidate must reach now."""
        best = torch.cat([self.best.index_select(0, query), maxima], dim=1).topk(self.best.shape[1], dim=1).values
        threshold = best.gather(1, self.k.index_select(0, query)[:, None] - 1)[:, 0]
        threshold -= 2 * self.slack.index_select(0, query)
        self.best.index_copy_(0, query, best)
        self.threshold.index_copy_(0, query, threshold)
        return threshold

    def _prune(self) -> None:
        """Drop candidates below their threshold, then, if too many remain, the queries with the most candidates."""
        for divisor in (1, 2, 4, 8, 16):
            for number, (query, reference, score) in enumerate(self.found):
                kept = (score >= self.threshold.index_select(0, query)).nonzero()[:, 0]
                self.found[number] = query[kept], reference[kept], score[kept]
            query, reference, score = (torch.cat(parts) for parts in zip(*self.found, strict=True))
            self.found, self.count = [(query, reference, score)], len(query)
            if self.count <= self.capacity // 2:
                break
            self._drop_queries(query, self.max_candidates // divisor)

    def _drop_queries(self, query: Tensor, max_candidates: int) -> None:
        counts = torch.bincount(query, minlength=len(self.threshold))
        self.threshold[counts > max_candidates] = torch.inf

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the nearest of the candidates, and which queries are undecided."""
        size = len(self.wanted)
        nearest = torch.full((size, self.best.shape[1]), -1, dtype=torch.int64, device=self.left.device)
        self.left = self.right = self.left[:0]  # free their memory for the sort
        if self.found:
            self._prune()
            query, reference, score = self.found[0]
            self._drop_queries(query, self.max_candidates)
            kept = torch.isfinite(self.threshold).index_select(0, query) & (reference < len(self.search.gallery))
            for start in range(0, size, _QUERIES_PER_SORT):
                part = (kept & (query >= start) & (query < start + _QUERIES_PER_SORT)).nonzero()[:, 0]
                of, found = self._sort(query[part].long(), reference[part].long(), score[part])
                position = _positions(of)
                among = position < self.wanted[of]
                nearest[of[among], position[among]] = found[among]
        return nearest, torch.isinf(self.threshold[:size]) & (self.wanted > 0)

    def _sort(self, query: Tensor, reference: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Sort by query, distance and index; distances are computed in float64 where rounding could matter."""
        order = _sort_order(query, reference, -score)
        query, reference, score = query[order], reference[order], score[order]
        near = (query[1:] == query[:-1]) & (score[:-1] - score[1:] <= 2 * self.slack[query[1:]])
        near &= _positions(query)[:-1] < self.wanted[query[:-1]]
        unsure = torch.zeros(len(self.wanted), dtype=torch.bool, device=query.device)
        unsure[query[1:][near]] = True
        again = unsure[query].nonzero()[:, 0]
        of, candidates = query[again], reference[again]
        reference[again] = candidates[_sort_order(of, candidates, self._squared_distances(of, candidates))]
        return query, reference

    def _squared_distances(self, query: Tensor, reference: Tensor) -> Tensor:
        """Return |x − y|² of pairs, computed from the differences in float64."""
        pairs = zip(torch.split(query, _PAIRS_PER_PART), torch.split(reference, _PAIRS_PER_PART), strict=True)
        return torch.cat([(self.search.queries[i] - self.search.gallery[j]).square_().sum(dim=1) for i, j in pairs])


def _augment(vectors: Tensor, side: int) -> Tensor:
    """Return vectors (N, d) as (x, −|x|²/2, 1) in float32, padded with far ones to a multiple of ``side``."""
    count, dim = vectors.shape
    augmented = torch.zeros(_round_up(count, side), dim + 2, device=vectors.device)
    augmented[:count, :dim] = vectors
    augmented[:count, dim] = squared_lengths(vectors) / -2
    augmented[count:, dim] = _PADDING_SCORE
    augmented[:, dim + 1] = 1
    return augmented


def _sort_order(query: Tensor, reference: Tensor, distance: Tensor) -> Tensor:
    """Return the order by query, then distance, then index."""
    order = reference.argsort()
    order = order[distance[order].argsort(stable=True)]
    return order[query[order].argsort(stable=True)]


def _positions(sorted_values: Tensor) -> Tensor:
    """Return the position of each value in its run of equal values, from 0."""
    position = torch.arange(len(sorted_values), device=sorted_values.device)
    starts = torch.ones_like(sorted_values, dtype=torch.bool)
    starts[1:] = sorted_values[1:] != sorted_values[:-1]
    return position - torch.where(starts, position, 0).cummax(dim=0).values


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
