"""Nearest neighbors among pictures that are no copies of each other."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.serving.search.exact import nearest_rows

__all__ = ["Neighbors", "find_neighbors"]

_QUERIES: Final = 1024  # between two reports of progress
_NONE_REMOVED: Final = np.empty(0, np.int64)


class Neighbors(NamedTuple):
    """The nearest neighbors of N pictures, nearest first.

    Attributes:
        distances: Euclidean distances, infinite where there are fewer than k: float64, (N, k).
        rows: Rows of the neighbors, −1 where there are fewer: int64, (N, k).
    """

    distances: NDArray[np.float64]
    rows: NDArray[np.int64]

    def first(self, k: int) -> "Neighbors":
        """Return the k nearest."""
        return Neighbors(self.distances[:, :k], self.rows[:, :k])


def find_neighbors(
    embeddings: NDArray[np.float32],
    gallery: NDArray[np.int64],
    group: NDArray[np.int64],
    k: int,
    progress: Callable[[int], object] | None = None,
) -> Neighbors:
    """Return the k nearest rows of a gallery that are of another group, for each row.

    Args:
        embeddings: float32, (N, d).
        gallery: Rows that can be neighbors, ascending: int64, (G,).
        group: Group of each row, such as its copies: int64, (N,).
        k: Number of neighbors.
        progress: Called with the number of rows that were searched since the last call.

    Example:
        >>> x = np.float32([[0], [0], [1], [3]])  # the first two are copies
        >>> find_neighbors(x, np.array([0, 2, 3]), np.array([0, 0, 2, 3]), k=1).rows.tolist()
        [[2], [2], [0], [2]]
    """
    count = len(embeddings)
    distances, rows = np.full((count, k), np.inf), np.full((count, k), -1)
    searched = np.ascontiguousarray(embeddings[gallery])
    for start in range(0, count, _QUERIES):
        left, wanted = np.arange(start, min(start + _QUERIES, count)), min(k + 1, len(gallery))
        while len(left):
            near, found = nearest_rows(embeddings[left], searched, wanted, _NONE_REMOVED)
            found = gallery[found]  # (q, wanted)
            own = group[found] == group[left, None]
            order = np.argsort(own, axis=1, kind="stable")[:, :k]
            near = np.take_along_axis(np.where(own, np.inf, near), order, 1)
            found = np.take_along_axis(np.where(own, -1, found), order, 1)
            distances[left, : near.shape[1]], rows[left, : found.shape[1]] = near, found
            if wanted == len(gallery):
                break
            left, wanted = left[(~own).sum(axis=1) < k], min(4 * wanted, len(gallery))
        if progress is not None:
            progress(min(_QUERIES, count - start))
    return Neighbors(distances, rows)
