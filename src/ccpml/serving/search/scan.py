"""How the rows of an index are searched: all of them exactly, unless another way is chosen."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ccpml.serving.search.exact import nearest_rows
from ccpml.serving.storage.view import View

__all__ = ["Exact", "Scan"]


class Scan(Protocol):
    """A way to find the rows of an index that are nearest to queries, or rank highest."""

    def nearest(
        self, view: View, queries: NDArray[np.float32], k: int, passing: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the k best rows of each query.

        Args:
            view: The state of the index.
            queries: φ-normalized, float32, (Q, d).
            k: Number of rows.
            passing: Rows that pass the filter, ascending, none of them removed: int64, (P,); None without a filter.

        Returns:
            Euclidean distances to the queries, float64, and row numbers, int64, both (Q, k) or narrower, best first.
        """


class Exact:
    """Exact search of the float32 rows."""

    def nearest(
        self, view: View, queries: NDArray[np.float32], k: int, passing: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the k nearest rows; see `Scan`."""
        return nearest_rows(queries, view.rows, k, view.removed, passing)
