"""Metrics of all queries: by tiles for queries that need few neighbors, chunk by chunk for the others.

Shapes: Q queries, G references, q queries of a chunk, k neighbors. R is as in `ccpml.retrieval.metrics`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ccpml.distributed import all_reduce_sum, own_rank, world_size
from ccpml.retrieval.inputs import Progress
from ccpml.retrieval.metrics import query_metrics
from ccpml.retrieval.neighbors import ExactSearch
from ccpml.retrieval.tiles import MAX_NEIGHBORS, few_nearest, tile_side

__all__ = ["Scoring"]

_ELEMENTS_PER_NEIGHBOR = 8
"""Memory of one neighbor in elements of a score's size: index, class, hit and precision."""

_SPARE_CANDIDATES = 8
"""Candidates a query may keep beyond the neighbors it needs; twice the sum is held before pruning."""

_MIN_PAIRS_FOR_TILES = 2**23
"""Pairs of a query and a reference from which on a pass over tiles pays off."""


@dataclass(eq=False)
class Scoring:
    """Scores of all queries; each rank computes its share of them.

    Ranks share rows of tiles, and chunks in turn. Tiles and chunks do not depend on the number of ranks, so neither do
    the scores.
    """

    search: ExactSearch
    x_labels: Tensor  # (Q,)
    y_labels: Tensor  # (G,)
    relevant: Tensor  # R, (Q,)
    chunk_elements: int  # scores held at a time
    group: ProcessGroup | None  # None if this process works alone, even if there are other ranks
    progress: Progress | None  # of the queries scored by all ranks, if they are equally fast

    def __post_init__(self) -> None:
        self._rank, self._ranks = (0, 1) if self.group is None else (own_rank(self.group), world_size(self.group))
        self._total, self._reported = int((self.relevant > 0).sum()), 0
        device = "cpu" if self.relevant.device.type == "mps" else self.relevant.device  # mps has no float64
        self._table = torch.zeros(4, len(self.relevant), dtype=torch.float64, device=device)

    def table(self, needed: Tensor) -> Tensor:
        """Return the metrics of each query, shape (4, Q), float64, NaN for queries without references.

        The rows are the fields of `QueryMetrics`.

        Args:
            needed: Number of neighbors that the metrics of each query need, shape (Q,); 0 for queries that are skipped.
        """
        needed = needed.clamp(max=self.search.available)
        few = (needed > 0) & (needed <= MAX_NEIGHBORS)
        if int(few.sum()) * len(self.y_labels) >= _MIN_PAIRS_FOR_TILES:
            self._score_by_tiles(few, needed)
        self._score_by_chunks(needed)
        table = self._sum_over_ranks(self._table)
        table[:, (self.relevant == 0).to(table.device)] = torch.nan
        return table

    def _score_by_tiles(self, few: Tensor, needed: Tensor) -> None:
        """Score queries that need few neighbors, and set ``needed`` to 0 unless a query has too many near-ties."""
        count = int(few.sum())
        row_of_tiles = torch.arange(len(few), device=few.device) // tile_side(self.search.queries)
        own = few & (row_of_tiles % self._ranks == self._rank)
        wanted = torch.where(own, needed, 0)
        capacity = max(self.chunk_elements, 2 * int((wanted + _SPARE_CANDIDATES)[own].sum()))
        found, undecided = few_nearest(
            self.search, wanted, lambda fraction: self._report(int(fraction * count)), capacity=capacity
        )
        size = max(1, self.chunk_elements // (_ELEMENTS_PER_NEIGHBOR * found.shape[1]))
        for rows in torch.split((own & ~undecided).nonzero()[:, 0], size):
            self._score(rows, found[rows])
        needed[few & (self._sum_over_ranks(undecided.int()) == 0)] = 0

    def _score_by_chunks(self, needed: Tensor) -> None:
        remaining = int((needed > 0).sum())
        for number, (rows, k) in enumerate(self._chunks(needed)):
            if number % self._ranks == self._rank:
                self._score(rows, self.search.nearest(rows, k))
            remaining -= len(rows)
            self._report(self._total - remaining)

    def _chunks(self, needed: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Yield queries, and the largest number of neighbors any of them needs; in falling order of that number."""
        order = needed.argsort(descending=True, stable=True)[: int((needed > 0).sum())]
        while len(order):
            k = int(needed[order[0]])
            size = self.search.rows_per_chunk(self.chunk_elements, _ELEMENTS_PER_NEIGHBOR * k)
            yield order[:size], k
            order = order[size:]

    def _score(self, rows: Tensor, found: Tensor) -> None:
        """Score queries (q,) by their neighbors (q, k), -1 beyond those that a query needs."""
        hits = (self.y_labels[found] == self.x_labels[rows, None]) & (found >= 0)
        hits, relevant, rows = (part.to(self._table.device) for part in (hits, self.relevant[rows], rows))
        self._table[:, rows] = torch.stack(query_metrics(hits, relevant))

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return values if self.group is None else all_reduce_sum(values, self.group)

    def _report(self, done: int) -> None:
        if self.progress is not None and done > self._reported:
            self._reported = done
            self.progress(done, self._total)
