"""Exact retrieval scores of a set of embeddings; the metrics are defined in `ccpml.retrieval.metrics`.

Shapes: Q queries, G references, d dimensions. R is the number of references of a query's class other than the query.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed import ProcessGroup

from ccpml.distributed import check_identical
from ccpml.numbers import as_int, check_flags, counted
from ccpml.retrieval.inputs import ArrayLike, Progress, as_embeddings, as_labels
from ccpml.retrieval.neighbors import CHUNK_ELEMENTS, ExactSearch
from ccpml.retrieval.scoring import Scoring

__all__ = ["PerQuery", "RetrievalScores", "evaluate"]


@dataclass(frozen=True, eq=False)
class PerQuery:
    """Scores of each query, shape (Q,), in the order of the input; NaN for skipped queries.

    Attributes:
        map_at_r: MAP@R.
        precision_at_1: P@1.
        r_precision: P@R.
        misses_before_first_hit: Number of neighbors of other classes before the first of the query's class.
    """

    map_at_r: npt.NDArray[np.float64]
    precision_at_1: npt.NDArray[np.float64]
    r_precision: npt.NDArray[np.float64]
    misses_before_first_hit: npt.NDArray[np.float64]

    def recall_at(self, k: int) -> npt.NDArray[np.float64]:
        """Return Recall@k of each query, 0 or 1; exact for k up to the largest that was evaluated."""
        misses, k = self.misses_before_first_hit, min(as_int("k", k, 1), sys.maxsize)
        return np.where(np.isnan(misses), np.nan, misses < k)


@dataclass(frozen=True)
class RetrievalScores:
    """Mean retrieval scores, each in [0, 1].

    Attributes:
        map_at_r: Mean over queries of (1/R) Σ_{j≤R} P@j · [the j-th nearest reference is of the query's class].
        precision_at_1: Fraction of queries whose nearest reference is of their class.
        r_precision: Mean over queries of P@R, the fraction of their class among the R nearest references.
        recall_at: For each k, the fraction of queries with a reference of their class among the k nearest.
        num_queries: Number of queries in the means.
        num_skipped: Number of queries whose class has no other reference; they are left out of every mean.
        per_query: Scores of each query, if requested.

    Example:
        >>> scores = RetrievalScores(0.5, 0.75, 0.625, {1: 0.75}, num_queries=4, num_skipped=0)
        >>> print(scores)
        MAP@R 0.5000, P@1 0.7500, P@R 0.6250, R@1 0.7500 (4 queries, 0 skipped)
        >>> scores.as_dict()["recall_at_1"]
        0.75
    """

    map_at_r: float
    precision_at_1: float
    r_precision: float
    recall_at: Mapping[int, float]
    num_queries: int
    num_skipped: int
    per_query: PerQuery | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        recalls = "".join(f", R@{k} {value:.4f}" for k, value in self.recall_at.items())
        return (
            f"MAP@R {self.map_at_r:.4f}, P@1 {self.precision_at_1:.4f}, P@R {self.r_precision:.4f}{recalls} "
            f"({counted(self.num_queries, 'query')}, {self.num_skipped} skipped)"
        )

    def as_dict(self) -> dict[str, float | int]:
        """Return scores and counts as one flat mapping for JSON and loggers; Recall@k is ``recall_at_<k>``."""
        return {
            "map_at_r": self.map_at_r,
            "precision_at_1": self.precision_at_1,
            "r_precision": self.r_precision,
            **{f"recall_at_{k}": value for k, value in self.recall_at.items()},
            "num_queries": self.num_queries,
            "num_skipped": self.num_skipped,
        }


def evaluate(
    embeddings: ArrayLike,
    labels: ArrayLike,
    gallery_embeddings: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    recall_at: Iterable[int] = (1, 2, 4, 8),
    *,
    per_query: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
    progress: Progress | None = None,
    group: ProcessGroup | None = None,
) -> RetrievalScores:
    """Compute exact retrieval scores, each embedding a query against all others or against a gallery.

    Neighbors are ranked by Euclidean distance between the vectors as given (for unit vectors: by cosine); among equal
    distances the lower index comes first. Without a gallery a query is never its own neighbor: it is excluded by its
    index, so an equal vector elsewhere in the set counts. Nothing is excluded from a gallery. Queries whose class has
    no other reference have no MAP@R; they are counted and left out of the means.

    The ranking is that of float64 (float32 on mps, which has no float64), computed on the device of the embeddings.
    For queries that need few neighbors a float32 product chooses the candidates: see `ccpml.retrieval.tiles`. Memory is
    a small multiple of ``chunk_elements``, whatever Q and G, plus copies of the embeddings in float64 and float32 and a
    few hundred bytes per query: a million vectors of 128 dimensions need less than 4 GB. Time grows with Q · G and with
    the sum of R over the queries.

    Args:
        embeddings: Queries, shape (Q, d), floating point, NumPy or torch.
        labels: Classes of the queries, shape (Q,), any integer dtype, any values.
        gallery_embeddings: References, shape (G, d); by default the queries themselves.
        gallery_labels: Classes of the references, shape (G,); required with ``gallery_embeddings``.
        recall_at: The k of Recall@k, each at least 1. Recall@k is 1 if k exceeds the number of references.
        per_query: Whether to return the scores of each query too.
        chunk_elements: Scores held at a time. It does not change the result, except where a matrix product of another
            shape rounds differently.
        progress: Called repeatedly with the number of queries scored and the number of queries that count.
        group: Ranks that share the work, such as ``torch.distributed.group.WORLD``. Each rank passes the same
            embeddings and labels, scores its share of the queries, and returns the scores of all. They equal those of
            one process bit for bit, unless very many vectors are nearer to each other than float32 can resolve.

    Returns:
        The scores as plain floats.

    Raises:
        ValueError: On a wrong dtype, shape or length, on values that are NaN or infinite, on k below 1, if only
            one of ``gallery_embeddings`` and ``gallery_labels`` is given, if no query has a reference of its class,
            or if the ranks of the group pass different embeddings or labels.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
        >>> scores = evaluate(embeddings, torch.tensor([7, 7, 7, 5]), recall_at=(1, 2))
        >>> scores.map_at_r, scores.num_queries, scores.num_skipped
        (1.0, 3, 1)
        >>> print(scores)
        MAP@R 1.0000, P@1 1.0000, P@R 1.0000, R@1 1.0000, R@2 1.0000 (3 queries, 1 skipped)

    Source: K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020, Section 3.2.
    """
    check_flags(per_query=per_query)
    if (gallery_embeddings is None) != (gallery_labels is None):
        names = ("gallery_embeddings", "gallery_labels")
        missing, given = names if gallery_embeddings is None else names[::-1]
        raise ValueError(f"{missing}: expected together with {given}, got None")
    if not isinstance(recall_at, Iterable):
        raise ValueError(f"recall_at: expected integers, such as (1, 2, 4), got {recall_at!r}")
    recall_at = tuple(dict.fromkeys(as_int("recall_at", k, 1) for k in recall_at))
    chunk_elements = min(as_int("chunk_elements", chunk_elements, 1), sys.maxsize)
    x = as_embeddings("embeddings", embeddings)
    y_labels = x_labels = as_labels("labels", labels, "embeddings", x)
    y = None
    if gallery_embeddings is not None and gallery_labels is not None:
        y = as_embeddings("gallery_embeddings", gallery_embeddings, like=x)
        y_labels = as_labels("gallery_labels", gallery_labels, "gallery_embeddings", y)
    if group is not None:
        gallery = x if y is None else y
        check_identical(group, embeddings=x, labels=x_labels, gallery_embeddings=gallery, gallery_labels=y_labels)
    known, classes = torch.unique(torch.cat([x_labels, y_labels]), return_inverse=True)
    sizes = classes[len(x) :].bincount(minlength=len(known))  # references of each class
    relevant = sizes[classes[: len(x)]] - int(y is None)  # R, (Q,)
    if not relevant.any():
        raise ValueError(f"labels: expected a query whose class has another reference, got none among {len(x)} queries")
    search = ExactSearch(x, y)
    largest = min(max(recall_at, default=1), search.available)
    needed = torch.where(relevant > 0, relevant.clamp(min=largest), 0)
    scoring = Scoring(search, x_labels, y_labels, relevant, chunk_elements, group, progress)
    return _mean_scores(scoring.table(needed).cpu().numpy(), recall_at, per_query)


def _mean_scores(table: npt.NDArray[np.float64], recall_at: tuple[int, ...], per_query: bool) -> RetrievalScores:
    """Average a table (4, Q) over the queries that count."""
    counted = table[:, ~np.isnan(table[0])]
    map_at_r, precision_at_1, r_precision, misses_before_first_hit = counted
    return RetrievalScores(
        map_at_r=float(map_at_r.mean()),
        precision_at_1=float(precision_at_1.mean()),
        r_precision=float(r_precision.mean()),
        recall_at={k: float((misses_before_first_hit < min(k, sys.maxsize)).mean()) for k in recall_at},
        num_queries=counted.shape[1],
        num_skipped=table.shape[1] - counted.shape[1],
        per_query=PerQuery(*table) if per_query else None,
    )
