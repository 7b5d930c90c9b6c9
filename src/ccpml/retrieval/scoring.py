"""Scores of single queries from their exact neighbours: by tiles where few are needed, else chunk by chunk.

Shapes: Q queries, G references, q queries of a chunk, k neighbours. R is the number of references of a query's class,
itself not counted.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ccpml.retrieval.neighbors import ExactSearch
from ccpml.retrieval.share import Share
from ccpml.retrieval.tiles import MOST_NEIGHBORS, few_nearest, tile_side

__all__ = ["Scoring"]

_ELEMENTS_PER_NEIGHBOR = 8
"""What a neighbour costs beside its score: index, class, hit and precision, in elements of a score's size."""

_SPARE_CANDIDATES = 8
"""How many candidates a query may keep beside those it needs: twice as many are held before they are sifted."""

_PAIRS_WORTH_TILES = 2**23
"""From this many pairs of a query and a reference on, a pass over tiles pays."""


class Scoring:
    """The scores of all queries, this process's share of them computed here.

    Tiles are shared by their rows, chunks as they come. They are the same whatever the number of ranks, so that a
    score is the same number wherever it is computed.

    Args:
        search: Queries and gallery.
        x_classes: Classes of the queries, shape (Q,), -1 where no reference has theirs.
        y_classes: Classes of the references, shape (G,).
        relevant: R, shape (Q,).
        share: Which of the work is this process's.
        progress: Called with the queries done, by all ranks if they are as fast, and the queries that count.
    """

    def __init__(
        self,
        search: ExactSearch,
        x_classes: Tensor,
        y_classes: Tensor,
        relevant: Tensor,
        share: Share,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.search, self.share, self.progress = search, share, progress
        self.x_classes, self.y_classes, self.relevant = x_classes, y_classes, relevant
        self._total, self._reported = int((relevant > 0).sum()), 0
        self._table = torch.zeros(4, len(relevant), dtype=torch.float64, device=_home_of_float64(relevant))

    def table(self, needed: Tensor, chunk_elements: int) -> Tensor:
        """Score each query: a table of shape (4, Q), float64, NaN for queries without references.

        Its rows are MAP@R, P@1, P@R, and how many wrong references come before the first right one (among as many
        neighbours as are needed).

        Args:
            needed: How many neighbours the metrics need of each query, shape (Q,); 0 where it does not count.
            chunk_elements: Scores held at a time.
        """
        needed = needed.clamp(max=self.search.available)
        few = (needed > 0) & (needed <= MOST_NEIGHBORS)
        if int(few.sum()) * len(self.y_classes) >= _PAIRS_WORTH_TILES:
            self._by_tiles(few, needed, chunk_elements)
        self._by_chunks(needed, chunk_elements)
        table = self.share.all_reduce_sum(self._table)
        table[:, (self.relevant == 0).to(table.device)] = torch.nan
        return table

    def _by_tiles(self, few: Tensor, needed: Tensor, chunk_elements: int) -> None:
        """Score queries that need few neighbours, save those in a crowd; none is needed any more of those scored."""
        count = int(few.sum())
        own = few & self.share.owns(torch.arange(len(few), device=few.device) // tile_side(self.search.queries))
        wanted = torch.where(own, needed, 0)
        room = max(chunk_elements, 2 * int((wanted + _SPARE_CANDIDATES)[own].sum()))
        found, left_out = few_nearest(
            self.search, wanted, lambda share: self._report(int(share * count)), capacity=room
        )
        size = max(1, chunk_elements // (_ELEMENTS_PER_NEIGHBOR * found.shape[1]))
        for rows in torch.split((own & ~left_out).nonzero()[:, 0], size):
            self._take(rows, found[rows])
        needed[few & (self.share.all_reduce_sum(left_out.int()) == 0)] = 0

    def _by_chunks(self, needed: Tensor, chunk_elements: int) -> None:
        """Score the queries that need neighbours still."""
        waiting = int((needed > 0).sum())
        for number, (rows, k) in enumerate(_chunks(self.search, needed, chunk_elements)):
            if self.share.owns(number):
                self._take(rows, self.search.nearest(rows, k))
            waiting -= len(rows)
            self._report(self._total - waiting)

    def _take(self, rows: Tensor, found: Tensor) -> None:
        """Score queries (q,) by their neighbours (q, k), -1 beyond those that a query needs."""
        hits = (self.y_classes[found] == self.x_classes[rows, None]) & (found >= 0)
        self._table[:, rows.to(self._table.device)] = _score_hits(hits, self.relevant[rows])

    def _report(self, done: int) -> None:
        if self.progress is not None and done > self._reported:
            self._reported = done
            self.progress(done, self._total)


def _home_of_float64(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


def _chunks(search: ExactSearch, needed: Tensor, chunk_elements: int) -> Iterator[tuple[Tensor, int]]:
    """Give the queries that need neighbours, and how many those of a chunk need at most.

    In falling order of that number, so that each chunk asks for few neighbours more than its queries need.
    """
    order = needed.argsort(descending=True, stable=True)[: int((needed > 0).sum())]
    done = 0
    while done < len(order):
        k = int(needed[order[done]])
        rows = order[done : done + search.rows_per_chunk(chunk_elements, _ELEMENTS_PER_NEIGHBOR * k)]
        yield rows, k
        done += len(rows)


def _score_hits(hits: Tensor, relevant: Tensor) -> Tensor:
    """Score ranked neighbours.

    Args:
        hits: Whether the j-th nearest is of the query's class, shape (q, k), k at least the largest R.
        relevant: R, shape (q,), each at least 1.

    Returns:
        Shape (4, q), float64: MAP@R, P@1, P@R, number of wrong neighbours before the first right one.
    """
    if hits.device.type == "mps":  # has no float64
        hits, relevant = hits.cpu(), relevant.cpu()
    found = hits.cumsum(dim=1, dtype=torch.int32)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    counted = hits & (ranks <= relevant[:, None])
    precisions = _row_sums((found / ranks.double()).mul_(counted))
    wrong_first = (found == 0).sum(dim=1)
    right_of_r = found.gather(1, relevant[:, None] - 1)[:, 0]
    return torch.stack(
        [precisions / relevant, hits[:, 0].double(), right_of_r / relevant.double(), wrong_first.double()]
    )


def _row_sums(terms: Tensor) -> Tensor:
    """Sum rows pair by pair: zeros to the right change no rounding, so a chunk's width changes no score."""
    while terms.shape[1] > 1:
        terms = functional.pad(terms, (0, terms.shape[1] % 2))
        terms = terms[:, 0::2] + terms[:, 1::2]
    return terms[:, 0]
