"""What re-ranking, ensembles and smaller rows change in the scores of a run, and what they cost.

Shapes: N images, Q queries, G gallery images, d dimensions, k neighbors.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.data import ImageTable, PackedImage
from ccpml.numbers import as_tuple, check_flags, counted
from ccpml.progress import progress_bar
from ccpml.reranking import METHODS, Codes, join, nearest
from ccpml.retrieval.metrics import query_metrics
from ccpml.runs.images import cached_side, is_query
from ccpml.runs.inference.embedding import embed_normalized
from ccpml.runs.inference.run import Run, open_weights
from ccpml.runs.inference.unseen import leave_out_seen, unseen_images

__all__ = ["Ranking", "compare_rankings", "table_for"]

_MAX_NEIGHBORS: Final = 2**27  # of all queries
_CHUNK: Final = 2**22  # neighbors scored at a time


@dataclass(frozen=True)
class Ranking:
    """The scores of one way to rank, each in [0, 1], and its cost.

    Attributes:
        name: How the images are ranked.
        map_at_r: MAP@R.
        precision_at_1: P@1.
        recall_at_8: R@8.
        milliseconds: Processor time per query, of all threads, without embedding.
        bytes_per_image: Size of what is searched.
    """

    name: str
    map_at_r: float
    precision_at_1: float
    recall_at_8: float
    milliseconds: float
    bytes_per_image: int


def compare_rankings(
    path: str | os.PathLike[str],
    data: str | None = None,
    *,
    rerank: Sequence[str] = (),
    ensemble: Sequence[str | os.PathLike[str]] = (),
    dtypes: Sequence[str] = (),
    all_classes: bool = False,
    **options: Any,
) -> tuple[str, list[Ranking]]:
    """Score the rankings of a run's embeddings: as they are, re-ranked, of smaller rows, and joined with other runs.

    Each is compared with the plain ranking of the first run. Roles are those of the data; a query that is in the
    gallery is not its own neighbor. Images are embedded once by each run.

    Args:
        path: The run directory.
        data: As in `evaluate_run`.
        rerank: Names of `ccpml.reranking.METHODS`.
        ensemble: Directories of other runs; classes that one of them was trained on are left out too.
        dtypes: ``float16`` or ``int8``; each is scored alone, and with candidates re-scored by the float32 rows.
        all_classes: Whether classes that a run was trained on are scored too.
        **options: Further options of `evaluate_run` about the images.

    Returns:
        The number of classes and images in words, and the rankings; the first is the plain one.

    Raises:
        ValueError: As `evaluate_run`, if a name is unknown, or if there are too many neighbors to hold.
    """
    check_flags(all_classes=all_classes)
    rerank, dtypes = _names("rerank", rerank, tuple(METHODS)), _names("dtypes", dtypes, ("float16", "int8"))
    ensemble = as_tuple("ensemble", ensemble, "several run directories")
    runs = [open_weights(path), *map(open_weights, ensemble)]
    table = unseen_images(runs[0], data, all_classes=all_classes, **options)
    for run in runs[1:]:
        table = leave_out_seen(table, run, str(run.path), all_classes)
    embeddings = [embed_normalized(run, table_for(run, runs[0], table)) for run in runs]  # (N, d) each
    roles = is_query(table)
    protocol = _Protocol.of(table.labels, None if roles is None else roles.numpy())
    found = [protocol.plain(str(runs[0].path), embeddings[0])]
    for name in rerank:
        found.append(protocol.reranked(name, embeddings[0]))
    for dtype in dtypes:
        found += protocol.quantized(dtype, embeddings[0])
    if ensemble:
        found += [protocol.plain(str(run.path), x) for run, x in zip(runs[1:], embeddings[1:], strict=True)]
        found.append(protocol.plain(f"ensemble of {len(runs)} runs", join(embeddings)))
    return f"{counted(table.num_classes, 'class')}, {counted(len(table), 'image')}", found


def _names(argument: str, names: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Return names, each of which is known."""
    expected = f"some of {', '.join(known)}"
    names = as_tuple(argument, names, expected)
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{argument}: expected {expected}, got {name!r}")
    return names


def table_for(run: Run, first: Run, table: ImageTable) -> ImageTable:
    """Return the table as a run embeds it: from the files, if the cache is too small for it."""
    if isinstance(table.images, np.ndarray) or cached_side(run.settings) <= cached_side(first.settings):
        return table
    return replace(table, images=tuple(x.path if isinstance(x, PackedImage) else x for x in table.images))


@dataclass(frozen=True, eq=False)
class _Protocol:
    """Which images are queries, which are searched, and which are right."""

    queries: NDArray[np.int64]  # rows of the table, (Q,)
    gallery: NDArray[np.int64]  # (G,)
    own: NDArray[np.int64] | None  # of the queries in the gallery
    labels: NDArray[np.int64]  # (N,)
    relevant: NDArray[np.int64]  # R, (Q,)
    k: int

    @classmethod
    def of(cls, labels: NDArray[np.int64], roles: NDArray[np.bool_] | None) -> "_Protocol":
        rows = np.arange(len(labels))
        queries, gallery = (rows, rows) if roles is None else (rows[roles], rows[~roles])
        sizes = np.bincount(labels[gallery], minlength=int(labels.max()) + 1)
        relevant = sizes[labels[queries]] - int(roles is None)
        queries, relevant = queries[relevant > 0], relevant[relevant > 0]
        if not len(queries):
            raise ValueError("labels: expected a query whose class has another image, got none")
        k = int(min(max(8, relevant.max()), len(gallery) - (roles is None)))
        if len(queries) * k > _MAX_NEIGHBORS:
            raise ValueError(
                f"rankings: expected at most {_MAX_NEIGHBORS:,} neighbors, got {len(queries):,} queries with {k:,}; "
                "score fewer images"
            )
        return cls(queries, gallery, queries if roles is None else None, labels, relevant, k)

    def plain(self, name: str, x: NDArray[np.float32]) -> Ranking:
        """Score the ranking by distance."""
        queries, gallery = x[self.queries], x[self.gallery]
        return self._timed(name, lambda: nearest(queries, gallery, self.k, self.own).indices, 4 * x.shape[1])

    def reranked(self, name: str, x: NDArray[np.float32]) -> Ranking:
        """Score a method of re-ranking."""
        method, queries, gallery = METHODS[name], x[self.queries], x[self.gallery]
        with progress_bar(len(queries), "query", name, delay=1.0) as bar:
            return self._timed(
                name,
                lambda: method(queries, gallery, self.k, self.own, progress=bar.update).indices,
                4 * x.shape[1],
            )

    def quantized(self, dtype: str, x: NDArray[np.float32]) -> list[Ranking]:
        """Score rows of fewer bits, alone and re-scored."""
        rows, queries = x[self.gallery], x[self.queries]
        codes = Codes.build(rows, dtype)

        def alone() -> NDArray[np.int64]:
            found = codes.candidates(queries, self.k + (self.own is not None))
            if self.own is None:
                return found
            others = found != self.own[:, None]
            others[others.all(axis=1), -1] = False
            rest: NDArray[np.int64] = found[others].reshape(len(found), -1)
            return rest

        size = codes.bytes_per_row
        again = self._timed(f"{dtype}, re-scored", lambda: codes.search(rows, queries, self.k, self.own).indices, size)
        return [self._timed(dtype, alone, size), again]

    def _timed(self, name: str, search: Callable[[], NDArray[np.int64]], size: int) -> Ranking:
        start = time.process_time()
        indices = search()  # (Q, k)
        milliseconds = 1e3 * (time.process_time() - start) / len(self.queries)
        return Ranking(name, *self._scores(indices), milliseconds, size)

    def _scores(self, indices: NDArray[np.int64]) -> tuple[float, float, float]:
        tables, step = list[Tensor](), max(1, _CHUNK // indices.shape[1])
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            classes = self.labels[self.gallery[indices[part]]]  # (B, k)
            hits = torch.from_numpy(classes == self.labels[self.queries[part]][:, None])
            metrics = query_metrics(hits, torch.from_numpy(self.relevant[part]))
            tables.append(torch.stack([metrics.map_at_r, metrics.precision_at_1, metrics.misses_before_first_hit]))
        map_at_r, precision_at_1, misses = torch.cat(tables, dim=1)
        return float(map_at_r.mean()), float(precision_at_1.mean()), float((misses < 8).double().mean())
