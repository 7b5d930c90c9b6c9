"""Re-ranking of the candidates of a search."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.reranking import METHODS
from ccpml.reranking.neighbors import squared_distances
from ccpml.serving.search.scan import Scan
from ccpml.serving.storage.view import View

__all__ = ["Reranked"]

MIN_CANDIDATES: Final = 500
"""Nearest rows of a query that are re-ranked together with it."""


class Reranked:
    """A scan whose answers are ranked again by a method of `ccpml.reranking`.

    The set in which neighbors are sought is that of the query and its candidates, the 500 rows nearest to it, at least
    5 k: what a query is answered does not depend on other queries, and the time not on the size of the index. With
    query-expansion, the mean of the query and its neighbors is searched for among them. Distances remain those to the
    query itself, so that they do not rise along the ranks.

    Args:
        scan: Finds the candidates.
        method: Name of the method.

    Raises:
        ValueError: If there is no such method.
    """

    def __init__(self, scan: Scan, method: str) -> None:
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method}")
        self.scan = scan
        self.method = METHODS[method]

    def nearest(
        self, view: View, queries: NDArray[np.float32], k: int, passing: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the k best rows; see `Scan`."""
        _, candidates = self.scan.nearest(view, queries, max(MIN_CANDIDATES, 5 * k), passing)  # (Q, K)
        k = min(k, candidates.shape[1])
        rows = np.empty((len(queries), k), np.int64)
        for number, listed in enumerate(candidates if k else ()):
            query, gallery = queries[number : number + 1], np.asarray(view.rows)[listed]  # (1, d), (K, d)
            rows[number] = listed[self.method(query, gallery, k).indices[0]]
        return np.sqrt(squared_distances(queries, view.rows, rows)), rows
