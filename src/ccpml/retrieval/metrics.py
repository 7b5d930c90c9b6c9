"""Retrieval scores: MAP@R, P@1, R-precision and Recall@k, by their published definitions.

Shapes: Q queries, G references, d dimensions. R is the number of references
of a query's class, itself not counted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccpml.retrieval.inputs import ArrayLike, as_embeddings, as_labels, at_least_one
from ccpml.retrieval.neighbors import CHUNK_ELEMENTS, ExactSearch
from ccpml.retrieval.scoring import Scoring
from ccpml.retrieval.share import Share

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["PerQuery", "RetrievalScores", "evaluate"]


@dataclass(frozen=True, eq=False)
class PerQuery:
    """The scores of each query, in the order of the input; NaN where the query is skipped.

    Attributes:
        map_at_r: MAP@R, shape (Q,), float64.
        precision_at_1: P@1, shape (Q,), float64.
        r_precision: P@R, shape (Q,), float64.
    """

    map_at_r: npt.NDArray[np.float64]
    precision_at_1: npt.NDArray[np.float64]
    r_precision: npt.NDArray[np.float64]


@dataclass(frozen=True)
class RetrievalScores:
    """How well references of the right class are found; every score is in 0..1.

    Attributes:
        map_at_r: Mean over queries of (1/R) Σ_{j≤R} P@j · [the j-th nearest is of the query's class].
        precision_at_1: Share of queries whose nearest reference is of their class.
        r_precision: Mean over queries of r/R, r the references of the query's class among its R nearest.
        recall_at: For each k the share of queries with a reference of their class among the k nearest.
        num_queries: The queries that count.
        num_skipped: The queries whose class has no other reference: left out of every mean.
        per_query: The scores of each query, where asked for.
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
            f"({self.num_queries} queries, {self.num_skipped} skipped)"
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
    progress: Callable[[int, int], None] | None = None,
    group: "ProcessGroup | None" = None,
) -> RetrievalScores:
    """Score retrieval exactly, each embedding a query against all others or against a gallery.

    The metrics are those of K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check" (ECCV 2020),
    section 3.2. Nearest is the smallest Euclidean distance between the vectors as given (for unit vectors: the
    highest cosine); among equal distances the lower index comes first. A query is never its own neighbour: it is
    excluded by its index, so an equal vector elsewhere in the set counts. A gallery that is given is taken as it
    is, nothing excluded. Queries whose class has no other reference have no MAP@R: they are left out of the
    means and counted.

    The order is that of float64, on the device of the embeddings (mps has no float64: that of float32 there). For
    queries that need few neighbours a float32 product, within a set half of one, chooses the candidates: see
    `ccpml.retrieval.tiles`. Memory is a small multiple of ``chunk_elements``, whatever Q and G, plus copies of the
    embeddings in float64 and float32 and some hundred bytes for each query: a million vectors of 128 dimensions stay
    below 4 GB. Time grows with Q · G and with the sum of R over the queries.

    Args:
        embeddings: The queries, shape (Q, d), floating point, NumPy or torch.
        labels: Their classes, shape (Q,), any integer dtype, any values.
        gallery_embeddings: The references, shape (G, d); by default the queries themselves.
        gallery_labels: Their classes, shape (G,); given if and only if ``gallery_embeddings`` is.
        recall_at: The k of Recall@k, each at least 1. With k beyond the number of references Recall@k is 1.
        per_query: Whether to return the scores of each query too.
        chunk_elements: Scores held at a time. It does not change the result (that of float arithmetic's
            rounding apart: a matrix product may round differently in another shape).
        progress: Called now and then with the queries done and the queries that count.
        group: Ranks that share the work, such as ``torch.distributed.group.WORLD``: each calls this with the same
            embeddings and labels, searches for a share of the queries, and returns the scores of all: those of one
            process, bit for bit unless masses of vectors are nearer to each other than float32 can tell.

    Returns:
        The scores, plain floats in 0..1.

    Raises:
        ValueError: On a wrong dtype, shape or length, on values that are NaN or infinite, on k below 1, if only
            one of ``gallery_embeddings`` and ``gallery_labels`` is given, if no query has a reference of its class,
            or if ranks of the group hold different embeddings or labels.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
        >>> scores = evaluate(embeddings, torch.tensor([7, 7, 7, 5]), recall_at=(1, 2))
        >>> scores.map_at_r, scores.num_queries, scores.num_skipped
        (1.0, 3, 1)
        >>> print(scores)
        MAP@R 1.0000, P@1 1.0000, P@R 1.0000, R@1 1.0000, R@2 1.0000 (3 queries, 1 skipped)
    """
    if (gallery_embeddings is None) != (gallery_labels is None):
        given, lacking = "gallery_embeddings", "gallery_labels"
        given, lacking = (lacking, given) if gallery_embeddings is None else (given, lacking)
        raise ValueError(f"{lacking}: expected together with {given}, got None")
    recall_at = tuple(dict.fromkeys(at_least_one("recall_at", k) for k in recall_at))
    chunk_elements = at_least_one("chunk_elements", chunk_elements)
    x = as_embeddings("embeddings", embeddings)
    y_labels = x_labels = as_labels("labels", labels, "embeddings", x)
    y = None
    if gallery_embeddings is not None and gallery_labels is not None:
        y = as_embeddings("gallery_embeddings", gallery_embeddings, like=x)
        y_labels = as_labels("gallery_labels", gallery_labels, "gallery_embeddings", y)
    share = Share(group)
    share.check_identical(
        embeddings=x, labels=x_labels, gallery_embeddings=x if y is None else y, gallery_labels=y_labels
    )
    x_classes, y_classes, relevant = _match(x_labels, y_labels, within=y is None)
    if not relevant.any():
        raise ValueError(f"labels: expected a query whose class has another reference, got none among {len(x)} queries")
    needed = torch.where(relevant > 0, relevant.clamp(min=max(recall_at, default=1)), 0)
    scoring = Scoring(ExactSearch(x, y), x_classes, y_classes, relevant, share, progress)
    table = scoring.table(needed, chunk_elements).cpu().numpy()
    return _summary(table, recall_at, per_query)


def _match(x_labels: Tensor, y_labels: Tensor, *, within: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Number the classes of the references, and count each query's references.

    Returns:
        The queries' classes, shape (Q,), −1 where no reference has theirs; the references' classes, shape (G,);
        R, shape (Q,).
    """
    known, y_classes, sizes = torch.unique(y_labels, return_inverse=True, return_counts=True)
    nearest = torch.searchsorted(known, x_labels).clamp_(max=len(known) - 1)
    found = known[nearest] == x_labels
    x_classes = torch.where(found, nearest, -1)
    relevant = torch.where(found, sizes[nearest] - int(within), 0)
    return x_classes, y_classes, relevant


def _summary(table: npt.NDArray[np.float64], recall_at: tuple[int, ...], per_query: bool) -> RetrievalScores:
    """Take the means of a table of (4, Q), leaving out the queries that were skipped."""
    counting = table[:, ~np.isnan(table[0])]
    map_at_r, precision_at_1, r_precision = (float(row.mean()) for row in counting[:3])
    return RetrievalScores(
        map_at_r=map_at_r,
        precision_at_1=precision_at_1,
        r_precision=r_precision,
        recall_at={k: float((counting[3] < k).mean()) for k in recall_at},
        num_queries=counting.shape[1],
        num_skipped=table.shape[1] - counting.shape[1],
        per_query=PerQuery(*table[:3]) if per_query else None,
    )
