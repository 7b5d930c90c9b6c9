"""The nearest items in one state of an index."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.numbers import as_int
from ccpml.serving.filters.tree import Filter, unknown_field
from ccpml.serving.items import Hit
from ccpml.serving.search.exact import NotFiniteError, check_queries
from ccpml.serving.search.scan import Exact, Scan
from ccpml.serving.storage.snapshot import Snapshot
from ccpml.serving.storage.view import View

__all__ = ["check_fields", "passing_rows", "search"]


_LONGEST: Final = 10.0
"""Length of a row from which on it is damaged, with a wide margin: embeddings are no longer than 1."""


def search(
    view: View, queries: ArrayLike, k: int, where: Filter | str | None = None, scan: Scan | None = None
) -> list[list[Hit]]:
    """Return the k nearest items of each query, exactly unless a scan does otherwise; see `Index.search`."""
    vectors = check_queries(queries, view.rows.shape[1])  # (Q, d)
    k = as_int("k", k, 0)
    passing = passing_rows(view.snapshot, where)
    distances, rows = (scan or Exact()).nearest(view, vectors, k, passing)  # (Q, k) each
    if (distances > _LONGEST * (1 + np.linalg.norm(vectors, axis=1, keepdims=True))).any():
        raise NotFiniteError(
            f"rows: expected vectors of length 1 or less, got one at a distance of {distances.max():.3g}"
        )
    items = view.snapshot.items_of_rows(np.unique(rows).tolist())
    return [
        [Hit(items[row], distance, rank) for rank, (row, distance) in enumerate(zip(found, near, strict=True), 1)]
        for found, near in zip(rows.tolist(), distances.tolist(), strict=True)
    ]


def passing_rows(snapshot: Snapshot, where: Filter | str | None) -> NDArray[np.int64] | None:
    """Return the rows of items that pass a filter, ascending: int64, (P,); None without a filter.

    Raises:
        FilterError: If the filter cannot be understood, or names a field that no item has.
    """
    if where is None:
        return None
    condition = where if isinstance(where, Filter) else Filter.parse(where)
    check_fields(snapshot, condition)
    return snapshot.rows_where(*condition.sql())


def check_fields(snapshot: Snapshot, condition: Filter) -> None:
    """Check that items have, or had, the fields of a filter; those of an empty index could have any.

    Raises:
        UnknownFieldError: If no item had one of them since the last compaction.
    """
    fields = [field for field in condition.fields() if field.is_metadata] if snapshot.num_items else []
    columns = snapshot.columns() if fields else []
    for field in fields:
        if field.name not in columns:
            raise unknown_field(field, columns)
