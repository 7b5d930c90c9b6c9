"""Search that is faster than the exact one, with its recall measured on the index itself.

Shapes: N rows, of which the structure has the first n; Q queries, k neighbors, d dimensions.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.files import WriteError, write_json
from ccpml.numbers import counted
from ccpml.reranking import DTYPES
from ccpml.reranking.neighbors import squared_distances
from ccpml.serving.errors import RESTORE, DamagedIndexError
from ccpml.serving.search.cache_file import read_cache, write_cache
from ccpml.serving.search.exact import NotFiniteError, nearest_rows
from ccpml.serving.search.structures import KINDS, Structure, build, load
from ccpml.serving.storage.view import View, rows_file
from ccpml.system_errors import unreadable

__all__ = ["Approximate", "LowRecallError", "Recall", "default_dtype", "open_approximate", "write_default_dtype"]

MIN_ROWS: Final = 20_000
"""Rows from which on a graph is faster than exact search."""

MIN_PASSING: Final = 0.5
"""Fraction of rows that pass a filter below which those that do are searched exactly."""

_QUERIES: Final = 1000  # of a measurement
_K: Final = 10
_MAX_ADDED: Final = 0.1  # fraction of rows that are searched beside the structure
_ELEMENTS: Final = 2**22
_DEFAULTS: Final = "scan.json"


class LowRecallError(ValueError):
    """The measured recall of an approximate search is below what is accepted."""


class Recall(NamedTuple):
    """Recall@10: the mean fraction of the 10 nearest neighbors that a search finds, and its 95 % interval.

    Queries are rows of the index, drawn at random, each without itself. The interval is Wilson's, with each query as
    one trial: rather too wide, as no fraction in [0, 1] varies more than a trial that is 0 or 1.
    """

    value: float
    queries: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end.

        Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
        """
        n, p, z = self.queries, self.value, 1.959964
        center, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (center - width) / (1 + z * z / n)), min(1.0, (center + width) / (1 + z * z / n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"recall@{_K} {self.value:.4f} (95 % interval {low:.4f} to {high:.4f}, {counted(self.queries, 'query')})"


class Approximate:
    """Candidates from a structure, re-scored with the float32 rows, which remain the truth.

    Exact search takes its place for queries where it is as fast or safer: filters that less than half of the rows
    pass, many neighbors, an index that was compacted meanwhile, and queries of which too few candidates pass. Rows that
    were added after the structure was built are searched exactly. Removed rows are dropped from the candidates.

    Attributes:
        structure: The structure of the first rows.
        generation: Of the rows.
        effort: Setting of the structure.
        recall: As measured when the structure was built or extended.
        notes: What was done to open it, a sentence each.
    """

    def __init__(self, structure: Structure, generation: int, effort: int, recall: Recall) -> None:
        self.structure, self.generation, self.effort, self.recall = structure, generation, effort, recall
        self.notes = list[str]()

    def nearest(
        self, view: View, queries: NDArray[np.float32], k: int, passing: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the k nearest rows; see `Scan`."""
        known = len(self.structure)
        total = len(view.rows) - len(view.removed) if passing is None else len(passing)
        k = min(k, total)
        wanted = math.ceil(2 * k * len(view.rows) / max(1, total)) + 8 * (total < len(view.rows))
        if (
            view.snapshot.generation != self.generation
            or total < MIN_PASSING * len(view.rows)
            or k == 0
            or not self.structure.fits(wanted if total < len(view.rows) else k, self.effort)
        ):
            return nearest_rows(queries, view.rows, k, view.removed, passing)
        candidates = self.structure.candidates(queries, wanted if total < len(view.rows) else k, self.effort)
        candidates = np.where(_is_in(candidates, view.removed) | (candidates >= len(view.rows)), -1, candidates)
        if passing is not None:
            candidates = np.where(_is_in(candidates, passing), candidates, -1)
        short = np.flatnonzero((candidates >= 0).sum(axis=1) < min(k, total - _count_from(known, view, passing)))
        if len(view.rows) > known:
            removed = view.removed[np.searchsorted(view.removed, known) :] - known
            rest = None if passing is None else passing[np.searchsorted(passing, known) :] - known
            added = nearest_rows(queries, view.rows[known:], k, removed, rest)[1] + known
            candidates = np.concatenate([candidates, added], axis=1)
        distances, rows = _rescore(view.rows, queries, candidates, k)
        if len(short):
            distances[short], rows[short] = nearest_rows(queries[short], view.rows, k, view.removed, passing)
        return distances, rows


def open_approximate(
    folder: Path,
    view: View,
    kind: str,
    min_recall: float = 0.0,
    progress: Callable[[int], Any] | None = None,
) -> Approximate:
    """Open the structure of an index, from its cache if it has one; build, extend and measure it as necessary.

    The cache is ``cache/<kind>.bin`` in the folder of the index. It can be removed at any time. One that is damaged, of
    another version, or of other rows is built again. If it cannot be written, the structure is used all the same.

    Args:
        folder: The index.
        view: Its present state.
        kind: ``hnsw``: a graph; ``float16`` or ``int8``: rows of 16 or 8 bits per number.
        min_recall: Smallest recall@10 that is accepted.
        progress: Called with the number of rows done since the last call, while the structure is built.

    Raises:
        ValueError: If there is no such kind.
        LowRecallError: If the recall is lower.
        DamagedIndexError: If rows are not finite.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {', '.join(KINDS)}, got {kind!r}")
    progress = progress or (lambda _: None)
    file = folder / "cache" / f"{kind}.bin"
    notes, found = list[str](), read_cache(file, view, kind)
    if isinstance(found, str):
        if found:
            notes.append(f"{file}: {found}; built again")
        structure, measured = _build(folder, view, kind, progress), None
    else:
        structure, measured = load(kind, found.facts, found.content), found.facts["recalls"]
        added = len(view.rows) - len(structure)
        if added > _MAX_ADDED * len(structure):
            if not structure.add(view.rows[len(structure) :], progress):
                structure = _build(folder, view, kind, progress)
            measured = None
        elif added:
            notes.append(f"{added:,} pictures were added since it was built, and are searched exactly")
    if measured is None:
        try:
            measured = _measure(structure, view)
        except NotFiniteError as error:
            raise _damaged(folder, view, error) from error
        try:
            write_cache(file, view, kind, {**structure.facts(), "recalls": measured}, structure.content())
        except WriteError as error:
            notes.append(f"{error}; it is built again next time")
    effort, recall = _choose(measured, min_recall)
    if recall.value < min_recall:
        raise LowRecallError(f"{folder}: expected a recall@{_K} of at least {min_recall:g}, measured {recall}")
    opened = Approximate(structure, view.snapshot.generation, effort, recall)
    opened.notes = notes
    return opened


def _build(folder: Path, view: View, kind: str, progress: Callable[[int], Any]) -> Structure:
    try:
        return build(kind, view.rows, progress)
    except ValueError as error:  # rows that are not finite
        raise _damaged(folder, view, error) from error


def _damaged(folder: Path, view: View, error: ValueError) -> DamagedIndexError:
    return DamagedIndexError(f"{rows_file(folder, view.snapshot.generation)}: damaged ({error}); {RESTORE}")


def default_dtype(folder: Path) -> str:
    """Return the type of rows that an index is scanned by unless another is chosen.

    Raises:
        DamagedIndexError: If the file that says so is damaged.
    """
    file = folder / _DEFAULTS
    try:
        dtype = json.loads(file.read_text(encoding="utf-8"))["dtype"]
    except FileNotFoundError:
        return DTYPES[0]
    except OSError as error:
        raise DamagedIndexError(unreadable(file, error, "choose the type again")) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedIndexError(f"{file}: damaged; choose the type again") from error
    if dtype not in DTYPES:
        raise DamagedIndexError(f"{file}: expected one of {', '.join(DTYPES)}, got {dtype!r}; choose the type again")
    return str(dtype)


def write_default_dtype(folder: Path, dtype: str) -> None:
    """Write the type of rows that an index is scanned by from now on.

    Raises:
        WriteError: If it cannot be written.
    """
    write_json(folder / _DEFAULTS, {"dtype": dtype})


def _measure(structure: Structure, view: View) -> list[tuple[int, int, float, float]]:
    """Return effort, number of queries, and the recalls with two sets of queries: to choose by, and to report."""
    kept = np.setdiff1d(np.arange(len(view.rows)), view.removed, assume_unique=True)
    rng = np.random.default_rng(0)
    own = rng.permutation(len(kept))[: 2 * _QUERIES]
    queries = view.rows[kept[own]]
    if len(kept) < 2:
        return [(effort, max(1, len(kept)), 1.0, 1.0) for effort in structure.efforts]
    k = min(_K, len(kept) - 1)
    exact = nearest_rows(queries, view.rows, k + 1, view.removed)
    limits = np.sort(np.where(exact[1] == kept[own][:, None], np.inf, exact[0]), axis=1)[:, k - 1]  # to the k-th other
    scan, half = Approximate(structure, view.snapshot.generation, 0, Recall(1.0, 1)), (len(own) + 1) // 2
    measured = list[tuple[int, int, float, float]]()
    for scan.effort in structure.efforts:
        if measured and not structure.fits(k + 1, scan.effort):
            break
        distances, rows = scan.nearest(view, queries, k + 1, None)
        hits = (distances <= limits[:, None] * (1 + 1e-6)) & (rows != kept[own][:, None])
        recalls = np.minimum(hits.sum(axis=1), k) / k
        first = float(recalls[:half].mean())
        measured.append((scan.effort, len(own) - half, first, float(recalls[half:].mean())))
        if Recall(first, half).interval[0] > 0.995:
            break
    return measured


def _choose(measured: list[tuple[int, int, float, float]], min_recall: float) -> tuple[int, Recall]:
    """Return the fastest effort whose recall is above the minimum with its whole interval, or the most thorough."""
    enough = [row for row in measured if Recall(row[2], row[1]).interval[0] >= max(min_recall, 0.9)]
    effort, queries, _, second = enough[0] if enough else measured[-1]
    return effort, Recall(second, queries)


def _rescore(
    rows: NDArray[np.float32], queries: NDArray[np.float32], candidates: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and rows of the k nearest candidates, (Q, k) each; -1 is none, at infinite distance."""
    distances, found = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    step = max(1, _ELEMENTS // max(1, candidates.shape[1] * rows.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        columns = candidates[part]  # (B, K)
        squares = squared_distances(queries[part], rows, np.maximum(columns, 0))
        squares[columns < 0] = np.inf
        order = np.lexsort((columns, squares))[:, :k]
        distances[part] = np.sqrt(np.take_along_axis(squares, order, axis=1))
        found[part] = np.take_along_axis(columns, order, axis=1)
    return distances, found


def _is_in(rows: NDArray[np.int64], listed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are in an ascending list."""
    if not len(listed):
        return np.zeros(rows.shape, bool)
    found: NDArray[np.bool_] = listed[np.searchsorted(listed, rows).clip(max=len(listed) - 1)] == rows
    return found


def _count_from(first: int, view: View, passing: NDArray[np.int64] | None) -> int:
    """Return how many of the rows from ``first`` on are searched."""
    if passing is not None:
        return len(passing) - int(np.searchsorted(passing, first))
    return max(0, len(view.rows) - first) - (len(view.removed) - int(np.searchsorted(view.removed, first)))
