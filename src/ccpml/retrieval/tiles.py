"""The few nearest neighbours of all queries at the speed of a float32 matrix product, and exact all the same.

Tile by tile of the product, float32 scores choose candidates: those that rounding cannot keep from being among the k
nearest. Where rounding could change the order of a query's candidates, they are compared again in float64.

Shapes: Q queries, G gallery vectors, d dimensions, h × s a tile, b side of a block, k neighbours.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ccpml.retrieval.neighbors import ExactSearch, squared_lengths

__all__ = ["MOST_NEIGHBORS", "few_nearest", "tile_side"]

MOST_NEIGHBORS = 32
"""The largest k."""

_LEAST_BLOCKS = 16
"""Blocks of a tile's line, at least, and twice k: the k-th of their largest scores is what a candidate must reach."""

_LARGEST = {"cpu": (4096, 64), "cuda": (8192, 256)}
"""Sides of a tile and of its blocks, at most: the larger, the fewer candidates and the better cores share an operation,
until the scores of a tile leave the cache."""

_LEAST_TILES, _LEAST_SIDE = 8, 1024
_TILES_PER_REPORT = 8
_CAPACITY = 2**24
_PAIRS = 2**16
_QUERIES = 2**17
"""Queries whose candidates are put in order together."""

_FAR = -1e38
"""The score of vectors that only fill the last tile: below all others, and far from overflow."""


def tile_side(vectors: Tensor) -> int:
    """How many of some vectors a tile has along its side: ranks that share queries had better not part those."""
    largest, block = _LARGEST.get(vectors.device.type, _LARGEST["cpu"])
    tiles = max(-(-len(vectors) // largest), min(_LEAST_TILES, -(-len(vectors) // _LEAST_SIDE)))
    return _up_to_multiple(-(-len(vectors) // tiles), block)


def few_nearest(
    search: ExactSearch,
    wanted: Tensor,
    progress: Callable[[float], None] = lambda share: None,
    *,
    side: int | None = None,
    capacity: int = _CAPACITY,
) -> tuple[Tensor, Tensor]:
    """Find the nearest neighbours of many queries at once.

    Within one set each tile of the product serves its rows and its columns, so that half of the tiles do; tiles in
    which no query wants anything are not computed.

    Args:
        search: Queries and gallery.
        wanted: k of each query, at most `MOST_NEIGHBORS` and what is available, shape (Q,); 0 for none.
        progress: Called now and then with the share of the tiles that is done.
        side: Vectors along the sides of a tile, at least 16 and twice the largest k.
        capacity: Candidates held at a time.

    Returns:
        Indices into the gallery, nearest first, the lower index first among equals, shape (Q, largest k), -1 beyond a
        query's own k; and which queries are left out, shape (Q,): those in a crowd, with more vectors than can be told
        apart in float32 about as far away as the k-th nearest. Their indices mean nothing.
    """
    with _full_precision(search.queries.device.type):
        height, side = (side or tile_side(vectors) for vectors in (search.queries, search.gallery))
        tiles = _Tiles(search, wanted, height, side, capacity)
        for share in tiles.pass_over():
            progress(share)
        return tiles.result()


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Multiply float32 as such, whatever is set for the speed of training: the bounds on rounding rest on it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Tiles:
    """One pass over the product, and the candidates that it leaves.

    The score of a pair is −|x − y|²/2 = x·y − |x|²/2 − |y|²/2, one product of the vectors (x, −|x|²/2, 1) and
    (y, 1, −|y|²/2), and the same for both sides. Computed in float32 it errs by ``slack`` at most: (d + 5) u times
    the sum of its terms' sizes, (|x| + |y|)²/2, with u = 2⁻²⁴ (d + 2 products and sums, and the rounding of either
    factor); see Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """

    def __init__(self, search: ExactSearch, wanted: Tensor, height: int, side: int, capacity: int) -> None:
        self.search, self.wanted, self.height, self.side, self.capacity = search, wanted, height, side, capacity
        largest = _LARGEST.get(search.queries.device.type, _LARGEST["cpu"])[1]
        most = max(1, int(wanted.max()))
        blocks = max(_LEAST_BLOCKS, 2 * most)
        self.block = math.gcd(min(1 << int(math.log2(side // blocks)), largest), side)  # powers of 2 reduce fastest
        self.left = _lifted(search.queries, height)  # (Q', d + 2), Q' a multiple of the height
        self.right = self.left if search.within else _lifted(search.gallery, side)
        lengths = search.queries.norm(dim=1)
        longest = lengths.max() if search.within else search.gallery.norm(dim=1).max()
        unit = (search.queries.shape[1] + 4) * 2.0**-24
        self.slack = self._filled((unit * (lengths + longest).square() / 2).float(), 0.0)  # (Q',)
        self.k = self._filled(wanted, 0)
        self.best = self.left.new_full((len(self.left), most), _FAR)  # largest scores of different blocks, falling
        self.least = self.left.new_full((len(self.left),), _FAR).masked_fill_(self.k == 0, torch.inf)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # queries and references int32, scores
        self.count = 0
        self.steps = torch.arange(self.block, device=self.left.device) * side  # down a block of a column

    def _filled(self, values: Tensor, fill: float) -> Tensor:
        result = values.new_full((len(self.left),), fill)
        result[: len(values)] = values
        return result

    def pass_over(self) -> Iterator[float]:
        """Visit the tiles in which a query wants something; give the share that is done now and then."""
        within, rows, columns = self.search.within, len(self.left) // self.height, len(self.right) // self.side
        wants = (self.k.view(rows, self.height) > 0).any(dim=1).tolist()
        scores, done = self.left.new_empty(self.height, self.side), 0
        turned = [*range(self.left.shape[1] - 2), self.left.shape[1] - 1, self.left.shape[1] - 2]
        visits = [
            [column for column in range(row if within else 0, columns) if wants[row] or (within and wants[column])]
            for row in range(rows)
        ]
        total = sum(map(len, visits))
        for row in range(rows):
            left = self.left[row * self.height :][: self.height, turned]
            for column in visits[row]:
                torch.mm(left, self.right[column * self.side :][: self.side].T, out=scores)
                if within and row == column:
                    scores.fill_diagonal_(-torch.inf)  # none is its own neighbour
                elif within and wants[column]:
                    self._take(scores, column, row, of_columns=True)
                if wants[row]:
                    self._take(scores, row, column)
                done += 1
                if done % _TILES_PER_REPORT == 0 or done == total:
                    yield done / total

    def _take(self, scores: Tensor, query_tile: int, reference_tile: int, of_columns: bool = False) -> None:
        """Add the candidates of a tile, for the queries along its rows or its columns.

        A candidate reaches the k-th of the largest scores so far, of a block each, less twice the slack.
        """
        start, block = query_tile * self.height, self.block
        blocks = scores.view(-1, block, self.side) if of_columns else scores.view(self.height, -1, block)
        maxima = blocks.amax(1).T if of_columns else blocks.amax(2)  # (h, s / b)
        better = (maxima.amax(1) >= self.least[start : start + self.height]).nonzero()[:, 0]
        if not len(better):
            return
        maxima, query = maxima.index_select(0, better), better + start
        least = self._raise(query, maxima)
        of, number = (maxima >= least[:, None]).nonzero(as_tuple=True)
        line = better.index_select(0, of)
        if of_columns:
            first = number * (block * self.side) + line
            values = scores.view(-1).take(first[:, None] + self.steps)  # (hits, b)
        else:
            values = scores.view(-1, block).index_select(0, line * (self.side // block) + number)
        hit, place = (values >= least.index_select(0, of)[:, None]).nonzero(as_tuple=True)
        query = query.index_select(0, of.index_select(0, hit))
        reference = reference_tile * self.side + number.index_select(0, hit) * block + place
        self.found.append((query.int(), reference.int(), values[hit, place]))
        self.count += len(hit)
        if self.count > self.capacity:
            self._compact()

    def _raise(self, query: Tensor, maxima: Tensor) -> Tensor:
        """Take new maxima of blocks among the largest scores of some queries; give what a candidate must reach now."""
        best = torch.cat([self.best.index_select(0, query), maxima], dim=1).topk(self.best.shape[1], dim=1).values
        least = best.gather(1, self.k.index_select(0, query)[:, None] - 1)[:, 0]
        least -= 2 * self.slack.index_select(0, query)
        self.best.index_copy_(0, query, best)
        self.least.index_copy_(0, query, least)
        return least

    def _compact(self) -> None:
        """Drop candidates that no longer reach; if that is not enough, the queries with the most of them."""
        for share in (1, 2, 4, 8, 16):
            for number, (query, reference, score) in enumerate(self.found):
                kept = (score >= self.least.index_select(0, query)).nonzero()[:, 0]
                self.found[number] = query[kept], reference[kept], score[kept]
            query, reference, score = (torch.cat(parts) for parts in zip(*self.found, strict=True))
            self.found, self.count = [(query, reference, score)], len(query)
            if self.count <= self.capacity // 2:
                break
            counts = torch.bincount(query, minlength=len(self.least))
            self.least[counts > self._crowd() // share] = torch.inf

    def _crowd(self) -> int:
        return 8 * self.best.shape[1] + self.block

    def result(self) -> tuple[Tensor, Tensor]:
        """Give the nearest of the candidates, and which queries are left out."""
        size, most = len(self.wanted), self.best.shape[1]
        nearest = torch.full((size, most), -1, dtype=torch.int64, device=self.left.device)
        self.left = self.right = self.left[:0]  # the pass is over: their memory for what follows
        if self.found:
            self._compact()
            query, reference, score = self.found[0]
            counts = torch.bincount(query, minlength=len(self.least))
            self.least[counts > self._crowd()] = torch.inf
            for start in range(0, size, _QUERIES):
                here = ((query >= start) & (query < start + _QUERIES)).nonzero()[:, 0]
                self._rank(nearest, query[here].long(), reference[here].long(), score[here])
        return nearest, torch.isinf(self.least[:size]) & (self.wanted > 0)

    def _rank(self, nearest: Tensor, query: Tensor, reference: Tensor, score: Tensor) -> None:
        """Fill in the nearest of some queries, given all their candidates."""
        kept = torch.isfinite(self.least)[query] & (reference < len(self.search.gallery))
        query, reference = self._in_order(query[kept], reference[kept], score[kept])
        place = _places(query)
        among = place < self.wanted[query]
        nearest[query[among], place[among]] = reference[among]

    def _in_order(self, query: Tensor, reference: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Sort by query, then nearest first, then by index; by distances in float64 where rounding could matter."""
        order = _ranked(query, reference, -score)
        query, reference, score = query[order], reference[order], score[order]
        near = (query[1:] == query[:-1]) & (score[:-1] - score[1:] <= 2 * self.slack[query[1:]])
        near &= _places(query)[:-1] < self.wanted[query[:-1]]
        unsure = torch.zeros(len(self.wanted), dtype=torch.bool, device=query.device)
        unsure[query[1:][near]] = True
        again = unsure[query].nonzero()[:, 0]
        if len(again):
            of, candidates = query[again], reference[again]
            reference[again] = candidates[_ranked(of, candidates, self._squares(of, candidates))]
        return query, reference

    def _squares(self, query: Tensor, reference: Tensor) -> Tensor:
        """Squared distances of pairs, from their differences."""
        return torch.cat(
            [
                (self.search.queries[of] - self.search.gallery[to]).square_().sum(dim=1)
                for of, to in zip(torch.split(query, _PAIRS), torch.split(reference, _PAIRS), strict=True)
            ]
        )


def _lifted(vectors: Tensor, side: int) -> Tensor:
    """Write vectors (N, d) as (x, −|x|²/2, 1) in float32, and far ones after them up to a multiple of ``side``."""
    count, dim = vectors.shape
    lifted = torch.zeros(_up_to_multiple(count, side), dim + 2, device=vectors.device)
    lifted[:count, :dim] = vectors
    lifted[:count, dim] = squared_lengths(vectors) / -2
    lifted[count:, dim] = _FAR
    lifted[:, dim + 1] = 1
    return lifted


def _ranked(query: Tensor, reference: Tensor, distance: Tensor) -> Tensor:
    """Give the order by query, then distance, then index."""
    order = reference.argsort()
    order = order[distance[order].argsort(stable=True)]
    return order[query[order].argsort(stable=True)]


def _places(sorted_values: Tensor) -> Tensor:
    """Count from 0 within each run of equal values."""
    place = torch.arange(len(sorted_values), device=sorted_values.device)
    starts = torch.ones_like(sorted_values, dtype=torch.bool)
    starts[1:] = sorted_values[1:] != sorted_values[:-1]
    return place - torch.where(starts, place, 0).cummax(dim=0).values


def _up_to_multiple(count: int, of: int) -> int:
    return -(-count // of) * of
