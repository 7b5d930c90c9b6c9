"""Exact search among the rows of an index."""

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest_rows"]


def nearest_rows(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, removed: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k nearest rows of each query.

    Args:
        queries: float32, (Q, d).
        rows: float32, (N, d).
        k: Number of neighbors.
        removed: Rows that are left out, ascending: int64, (R,).

    Returns:
        Euclidean distances, float32, and row numbers, int64, both (Q, min(k, N − R)), ascending by distance.
    """
    kept = np.delete(np.arange(len(rows)), removed)  # (N - R,)
    k = min(k, len(kept))
    if k == 0 or not len(queries):
        return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    squared, columns = faiss.knn(queries, rows if not len(removed) else rows[kept], k)  # (Q, k) each
    return np.sqrt(np.maximum(squared, 0)), kept[columns]
