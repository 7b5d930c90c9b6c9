"""Rows of 16 or 8 bits per number: candidates are chosen among them, and re-scored with the float32 rows."""

from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import as_int
from ccpml.reranking.neighbors import Neighbors, first_k, squared_distances, stack
from ccpml.reranking.vectors import as_array, as_own, as_rows, check_finite

__all__ = ["DTYPES", "Codes", "search_with"]

DTYPES: Final = ("float32", "float16", "int8")

CANDIDATES_PER_NEIGHBOR: Final = 4
"""Candidates that are re-scored for each neighbor."""

_MIN_CANDIDATES: Final = 40
_BLOCK: Final = 2**16  # rows encoded at a time
_ELEMENTS: Final = 2**23  # numbers held at a time


def search_with(index: Any, queries: NDArray[np.float32], count: int, parameters: Any) -> NDArray[np.int64]:
    """Return the nearest rows of queries (Q, d) in a faiss index, searched with parameters, (Q, count).

    pytorch-metric-learning imports ``faiss.contrib.torch_utils``, which replaces ``search`` of all indexes by a method
    that takes no parameters, and keeps the original as ``search_numpy``.
    """
    search = getattr(index, "search_numpy", index.search)
    found: NDArray[np.int64] = search(queries, count, params=parameters)[1]
    return found


class Codes:
    """The codes of some rows, and the search among them.

    float16 rounds each number. int8 rounds s · x, where s = 127 / max |x| over all rows, so that none is cut off;
    distances are those of the rounded rows to the query as it is.

    Example:
        >>> rows = np.eye(4, dtype=np.float32)
        >>> codes = Codes.build(rows, "int8")
        >>> codes.search(rows, rows[:1], 2).indices.tolist()
        [[0, 1]]
    """

    def __init__(self, index: Any, scale: float) -> None:
        self.index = index  # a faiss.IndexScalarQuantizer
        self.scale = scale  # of the rows

    @classmethod
    def build(cls, rows: NDArray[np.float32], dtype: str) -> "Codes":
        """Encode rows (N, d).

        Raises:
            ValueError: If the dtype is neither float16 nor int8, or a value is NaN, infinite, or beyond what it can be.
        """
        kinds = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit_direct_signed}
        if not isinstance(dtype, str) or dtype not in kinds:
            raise ValueError(f"dtype: expected float16 or int8, got {dtype!r}")
        rows = as_array("rows", rows)
        blocks = range(0, len(rows), _BLOCK)
        for start in blocks:
            check_finite("rows", rows[start : start + _BLOCK], start)
        largest = max((float(np.abs(rows[start : start + _BLOCK]).max(initial=0)) for start in blocks), default=0.0)
        limit = float(np.finfo(np.float16 if dtype == "float16" else np.float32).max)
        if largest > limit:
            raise ValueError(f"rows: expected numbers up to {limit:g} for {dtype}, got {largest:g}; normalize them")
        finite = float(np.finfo(np.float32).max)
        scale = min(127 / largest, finite) if dtype == "int8" and largest > 0 else 1.0
        index = faiss.IndexScalarQuantizer(rows.shape[1], kinds[dtype])
        for start in blocks:
            index.add(scaled(rows[start : start + _BLOCK], scale, rounded=dtype == "int8"))
        return cls(index, scale)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def bytes_per_row(self) -> int:
        """Size of the code of a row."""
        return int(self.index.code_size)

    def candidates(
        self, queries: NDArray[np.float32], count: int, passing: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the rows with the nearest codes, (Q, count); -1 where there are fewer.

        Args:
            queries: float32, (Q, d).
            count: Number of rows.
            passing: Which rows are searched, (N,); all by default.
        """
        if not len(self):
            return np.empty((len(queries), 0), np.int64)
        parameters = None
        if passing is not None:
            library: Any = faiss  # its stubs lack the arguments that it adds in Python
            selector = library.IDSelectorBitmap(np.packbits(passing, bitorder="little"))
            parameters = library.SearchParameters(sel=selector)
        return search_with(self.index, scaled(queries, self.scale), min(count, len(self)), parameters)

    def search(
        self, rows: NDArray[np.float32], queries: NDArray[np.float32], k: int, own: NDArray[np.int64] | None = None
    ) -> Neighbors:
        """Return the k nearest rows of each query: of 4 k candidates, at least 40, re-scored with the float32 rows.

        Args:
            rows: The rows that were encoded, (N, d).
            queries: float32, (Q, d).
            k: Number of neighbors.
            own: The row of each query, which is not its neighbor, (Q,).

        Raises:
            ValueError: If ``rows`` have another shape than those that were encoded, or as in `nearest`.
        """
        rows = as_array("rows", rows, self.index.d)
        if len(rows) != len(self):
            raise ValueError(f"rows: expected the {len(self)} that were encoded, got {len(rows)}")
        queries = as_rows("queries", queries, rows.shape[1])
        own = as_own(own, len(queries), len(rows))
        k = max(0, min(as_int("k", k, 0), len(rows) - (own is not None)))
        chosen = self.candidates(queries, max(_MIN_CANDIDATES, CANDIDATES_PER_NEIGHBOR * k) + (own is not None))
        return rescore(rows, queries, chosen, k, own)


def rescore(
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    k: int,
    own: NDArray[np.int64] | None = None,
) -> Neighbors:
    """Return the k nearest of each query's candidates (Q, K), by the float32 rows; -1 is none, at infinite distance."""
    found, step = [], max(1, _ELEMENTS // max(1, candidates.shape[1] * rows.shape[1]))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        columns = candidates[block]  # (B, K)
        squares = squared_distances(queries[block], rows, np.maximum(columns, 0))
        squares[columns < 0] = np.inf
        if own is not None:
            squares[columns == own[block, None]] = np.inf
        found.append(first_k(squares, columns, k))
    return stack(found, min(k, candidates.shape[1]))


def scaled(vectors: NDArray[np.float32], scale: float, rounded: bool = False) -> NDArray[np.float32]:
    """Return scaled vectors for faiss, float32 and contiguous; rounded to integers if requested."""
    found = np.ascontiguousarray(vectors, dtype=np.float32) * np.float32(scale)
    return np.rint(found) if rounded else found
