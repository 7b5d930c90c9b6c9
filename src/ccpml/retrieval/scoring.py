"""Metrics of all queries: by tiles for queries that need few neighbors, chunk by chunk for the others.

Shapes: Q queries, G references, q queries of a chunk, k neighbors. R is the number of references of a query's class,
the query itself not counted.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ccpml.distributed import all_reduce_sum, own_rank, world_size
from ccpml.retrieval.metrics import query_metrics
from ccpml.retrieval.neighbors import ExactSearch
from ccpml.retrieval.tiles import MAX_NEIGHBORS, few_nearest, tile_side

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Scoring"]

_ELEMENTS_PER_NEIGHBOR = 8
"""Memory of one neighbor in elements of a score's size: index, class, hit and precision."""

_SPARE_CANDIDATES = 8
"""Candidates a query may keep beyond the neighbors it needs; twice the sum is held before pruning."""

_MIN_PAIRS_FOR_TILES = 2**23
"""Pairs of a query and a reference from which on a pass over tiles pays off."""


class Scoring:
    """Scores of all queries; each rank computes its share of them.

    Ranks share rows of tiles, and chunks in turn. Tiles and chunks do not depend on the number of ranks, so neither do
    the scores.

    Args:
        search: Queries and references.
        x_classes: Classes of the queries, shape (Q,), -1 where no reference has the class.
        y_classes: Classes of the references, shape (G,).
        relevant: R, shape (Q,).
        group: Ranks that share the work; None if this process works alone, even if there are other ranks.
        progress: Called with the number of queries scored (by all ranks, if they are equally fast) and the number of
            queries that count.
    """

    def __init__(
        self,
        search: ExactSearch,
        x_classes: Tensor,
        y_classes: Tensor,
        relevant: Tensor,
        group: "ProcessGroup | None",
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.search, self.group, self.progress = search, group, progress
        self._rank, self._ranks = (0, 1) if group is None else (own_rank(group), world_size(group))
        self.x_classes, self.y_classes, self.relevant = x_classes, y_classes, relevant
        self._total, self._reported = int((relevant > 0).sum()), 0
        self._table = torch.zeros(4, len(relevant), dtype=torch.float64, device=_float64_device(relevant))

    def table(self, needed: Tensor, chunk_elements: int) -> Tensor:
        """Return the metrics of each query, shape (4, Q), float64, NaN for queries without references.

        The rows are the fields of `QueryMetrics`.

        Args:
            needed: Number of neighbors that the metrics of each query need, shape (Q,); 0 for queries that are skipped.
            chunk_elements: Scores held at a time.
        """
        needed = needed.clamp(max=self.search.available)
        few = (needed > 0) & (needed <= MAX_NEIGHBORS)
        if int(few.sum()) * len(self.y_classes) >= _MIN_PAIRS_FOR_TILES:
            self._score_by_tiles(few, needed, chunk_elements)
        self._score_by_chunks(needed, chunk_elements)
        table = self._sum_over_ranks(self._table)
        table[:, (self.relevant == 0).to(table.device)] = torch.nan
        return table

    def _score_by_tiles(self, few: Tensor, needed: Tensor, chunk_elements: int) -> None:
        """Score queries that need few neighbors, and set ``needed`` to 0 unless a query has too many near-ties."""
        count = int(few.sum())
        row_of_tiles = torch.arange(len(few), device=few.device) // tile_side(self.search.queries)
        own = few & (row_of_tiles % self._ranks == self._rank)
        wanted = torch.where(own, needed, 0)
        capacity = max(chunk_elements, 2 * int((wanted + _SPARE_CANDIDATES)[own].sum()))
        found, undecided = few_nearest(
            self.search, wanted, lambda fraction: self._report(int(fraction * count)), capacity=capacity
        )
        size = max(1, chunk_elements // (_ELEMENTS_PER_NEIGHBOR * found.shape[1]))
        for rows in torch.split((own & ~undecided).nonzero()[:, 0], size):
            self._score(rows, found[rows])
        needed[few & (self._sum_over_ranks(undecided.int()) == 0)] = 0

    def _score_by_chunks(self, needed: Tensor, chunk_elements: int) -> None:
        remaining = int((needed > 0).sum())
        for number, (rows, k) in enumerate(self._chunks(needed, chunk_elements)):
            if number % self._ranks == self._rank:
                self._score(rows, self.search.nearest(rows, k))
            remaining -= len(rows)
            self._report(self._total - remaining)

    def _chunks(self, needed: Tensor, chunk_elements: int) -> Iterator[tuple[Tensor, int]]:
        """Yield queries, and the largest number of neighbors any of them needs; in falling order of that number."""
        order = needed.argsort(descending=True, stable=True)[: int((needed > 0).sum())]
        done = 0
        while done < len(order):
            k = int(needed[order[done]])
            size = self.search.rows_per_chunk(chunk_elements, _ELEMENTS_PER_NEIGHBOR * k)
            yield order[done : done + size], k
            done += size

    def _score(self, rows: Tensor, found: Tensor) -> None:
        """Score queries (q,) by their neighbors (q, k), -1 beyond those that a query needs."""
        hits = (self.y_classes[found] == self.x_classes[rows, None]) & (found >= 0)
        device = self._table.device
        metrics = query_metrics(hits.to(device), self.relevant[rows].to(device))
        self._table[:, rows.to(device)] = torch.stack(metrics)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return values if self.group is None else all_reduce_sum(values, self.group)

    def _report(self, done: int) -> None:
        if self.progress is not None and done > self._reported:
            self._reported = done
            self.progress(done, self._total)


def _float64_device(tensor: Tensor) -> torch.device:
    """Return the tensor's device, or the CPU if the device has no float64."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device
