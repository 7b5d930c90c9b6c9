"""Structures that find candidates among rows faster than all float32 rows are compared: a graph, or smaller rows.

Shapes: N rows, Q queries, d dimensions.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from ccpml.reranking import Codes
from ccpml.reranking.quantization import search_with

__all__ = ["KINDS", "Graph", "Structure", "build", "load"]

_BLOCK: Final = 2048  # rows added at a time
_EDGES: Final = 32  # of a row in the graph

Progress = Callable[[int], Any]


class Structure(Protocol):
    """A structure of the first rows of an index."""

    @property
    def efforts(self) -> tuple[int, ...]:
        """Settings to choose from, the fastest first."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def add(self, rows: NDArray[np.float32], progress: Progress) -> bool:
        """Add rows behind those that it has; return False if it must be built again instead."""

    def candidates(self, queries: NDArray[np.float32], count: int, effort: int) -> NDArray[np.int64]:
        """Return candidates for the ``count`` nearest rows, at least as many if there are: (Q, K), -1 is none."""

    def fits(self, count: int, effort: int) -> bool:
        """Whether ``count`` neighbors are found faster than by exact search."""

    def content(self) -> memoryview:
        """Return the structure as bytes."""

    def facts(self) -> dict[str, Any]:
        """Return what `load` needs beside the bytes."""


class Graph:
    """A graph of neighbors (HNSW) whose rows are int8 codes.

    Measured on vectors like embeddings, 60,000 × 128: an inverted file (IVF) had a recall of 0.83 where the graph had
    1.00 in the same time. With int8 codes in the graph in place of float32 rows, recall was the same, and building took
    half of the time and the file a third less.

    Source: Y. Malkov, D. Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
        Navigable Small World graphs", TPAMI 2020.
    """

    kind = "hnsw"
    efforts: tuple[int, ...] = (64, 128, 256, 512, 1024)  # candidates that a search keeps

    def __init__(self, index: Any, scale: float, mapped: NDArray[np.uint8] | None = None) -> None:
        self.index = index
        self.scale = scale
        self.mapped = mapped  # memory of the index that is not its own: faiss ends the process if rows are added to it

    @classmethod
    def build(cls, rows: NDArray[np.float32], progress: Progress) -> "Graph":
        """Build the graph of rows (N, d)."""
        blocks = range(0, len(rows), 2**16)
        largest = max(float(np.abs(rows[start : start + 2**16]).max(initial=0)) for start in blocks)
        library: Any = faiss  # its stubs lack this constructor
        index = library.IndexHNSWSQ(rows.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, _EDGES)
        graph = cls(index, 127 / largest if largest > 0 else 1.0)
        index.is_trained = True
        graph.add(rows, progress)
        return graph

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, rows: NDArray[np.float32], progress: Progress) -> bool:
        """Add rows; numbers beyond the largest when it was built are cut off, which the re-scoring corrects."""
        if self.mapped is not None:
            self.index, self.mapped = faiss.deserialize_index(faiss.serialize_index(self.index)), None
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK] * np.float32(self.scale)
            self.index.add(np.rint(block).clip(-128, 127).astype(np.float32))
            progress(len(block))
        return True

    def candidates(self, queries: NDArray[np.float32], count: int, effort: int) -> NDArray[np.int64]:
        """Return the rows with the nearest codes, twice as many as neighbors, (Q, 2 · count)."""
        library: Any = faiss  # its stubs lack the arguments that it adds in Python
        options = library.SearchParametersHNSW(efSearch=self._width(count, effort))
        scaled = np.ascontiguousarray(queries * np.float32(self.scale))
        return search_with(self.index, scaled, min(2 * count, len(self)), options)

    def fits(self, count: int, effort: int) -> bool:
        """Whether ``count`` neighbors are found faster than by exact search."""
        return self._width(count, effort) <= max(self.efforts[0], len(self) // 200)

    @staticmethod
    def _width(count: int, effort: int) -> int:
        return max(effort, effort * count // 20, 2 * count)

    def content(self) -> memoryview:
        """Return the graph as bytes."""
        return _serialized(self.index)

    def facts(self) -> dict[str, Any]:
        """Return the scale of its codes."""
        return {"scale": self.scale}


class _Rows:
    """Rows of 16 or 8 bits per number, all of which are compared."""

    efforts: tuple[int, ...] = (1,)

    def __init__(self, codes: Codes, mapped: NDArray[np.uint8] | None = None) -> None:
        self.codes = codes
        self.mapped = mapped  # memory of the codes that is not their own

    def __len__(self) -> int:
        return len(self.codes)

    def add(self, rows: NDArray[np.float32], progress: Progress) -> bool:
        """Return False: the scale of all codes may change."""
        return False

    def candidates(self, queries: NDArray[np.float32], count: int, effort: int) -> NDArray[np.int64]:
        """Return the rows with the nearest codes, four times as many as neighbors, at least 40."""
        return self.codes.candidates(queries, max(40, 4 * count))

    def fits(self, count: int, effort: int) -> bool:
        """Whether ``count`` neighbors are found faster than by exact search."""
        return max(40, 4 * count) <= max(len(self) // 16, 100)

    def content(self) -> memoryview:
        """Return the codes as bytes."""
        return _serialized(self.codes.index)

    def facts(self) -> dict[str, Any]:
        """Return the scale of the codes, and their size."""
        return {"scale": self.codes.scale, "bytes_per_row": self.codes.bytes_per_row}


def _serialized(index: Any) -> memoryview:
    array: Any = faiss.serialize_index(index)
    return memoryview(array)


KINDS: Final = (Graph.kind, "float16", "int8")
"""Kinds of structures."""


def build(kind: str, rows: NDArray[np.float32], progress: Progress) -> Structure:
    """Build a structure of rows (N, d): ``hnsw``, ``float16`` or ``int8``."""
    if kind == Graph.kind:
        return Graph.build(rows, progress)
    found = _Rows(Codes.build(rows, kind))
    progress(len(rows))
    return found


def load(kind: str, facts: dict[str, Any], content: NDArray[np.uint8]) -> Structure:
    """Load a structure from its facts and bytes, which must be as they were written; nothing of them is copied."""
    library: Any = faiss  # its stubs lack this reader
    reader = library.ZeroCopyIOReader(faiss.swig_ptr(content), content.size)
    index: Any = faiss.read_index(reader)
    if kind == Graph.kind:
        return Graph(index, facts["scale"], content)
    return _Rows(Codes(index, facts["scale"]), content)
