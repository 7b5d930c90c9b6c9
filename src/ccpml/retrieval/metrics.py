"""The retrieval metrics of one query each, from its ranked neighbors.

Shapes: q queries, k neighbors. R is the number of references of a query's class, the query itself not counted.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["QueryMetrics", "query_metrics"]


class QueryMetrics(NamedTuple):
    """The metrics of some queries, each of shape (q,), float64.

    Attributes:
        map_at_r: (1/R) Σ_{j≤R} P@j · [the j-th neighbor is of the query's class].
        precision_at_1: P@1.
        r_precision: P@R.
        misses_before_first_hit: Number of neighbors of other classes before the first of the query's class. Recall@k is
            1 if it is less than k, else 0.
    """

    map_at_r: Tensor
    precision_at_1: Tensor
    r_precision: Tensor
    misses_before_first_hit: Tensor


def query_metrics(hits: Tensor, relevant: Tensor) -> QueryMetrics:
    """Compute the metrics of queries from their ranked neighbors.

    Args:
        hits: Whether the j-th nearest neighbor is of the query's class, shape (q, k), k at least the largest R.
        relevant: R, shape (q,), each at least 1.

    Example:
        >>> metrics = query_metrics(torch.tensor([[True, False, True, True]]), relevant=torch.tensor([3]))
        >>> metrics.map_at_r  # (1/1 + 2/3) / 3
        tensor([0.5556], dtype=torch.float64)

    Source: K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020, Section 3.2.
    """
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    hit_count = hits.cumsum(dim=1, dtype=torch.int32)  # (q, k)
    precision = hit_count / ranks.double()  # P@j, (q, k)
    precision_at_1 = hits[:, 0].double()
    r_precision = precision.gather(1, relevant[:, None] - 1)[:, 0]
    counted = hits & (ranks <= relevant[:, None])
    map_at_r = _sum_rows(precision.mul_(counted)) / relevant  # (1/R) Σ_{j≤R} P@j · [the j-th is a hit]
    misses_before_first_hit = (hit_count == 0).sum(dim=1).double()
    return QueryMetrics(map_at_r, precision_at_1, r_precision, misses_before_first_hit)


def _sum_rows(terms: Tensor) -> Tensor:
    """Sum rows pairwise: trailing zeros change no rounding, so the number of neighbors changes no score."""
    while terms.shape[1] > 1:
        terms = pad(terms, (0, terms.shape[1] % 2))
        terms = terms[:, 0::2] + terms[:, 1::2]
    return terms[:, 0]
