"""A few test queries with their nearest neighbors, from the worst query to the best."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.report.embedded import Embedded, evenly_spaced
from ccpml.report.images import Images
from ccpml.report.style import Picture, legible, shorten
from ccpml.report.tiles import Row, Tile, draw_rows
from ccpml.retrieval import nearest_neighbors

__all__ = ["choose_queries", "draw_gallery", "neighbors_of"]

_QUERIES: Final = 8
_NEIGHBORS: Final = 9


def choose_queries(map_at_r: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return the rows of at most 8 queries at even ranks between the worst and the best MAP@R, the worst first.

    Args:
        map_at_r: Score of each image, (N,); NaN for images that are no query.
        seed: Random seed of the order of queries with equal scores.
    """
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(map_at_r)))
    rows = rows[np.argsort(map_at_r[rows], kind="stable")]
    return rows[evenly_spaced(len(rows), _QUERIES)]


def neighbors_of(test: Embedded, queries: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of the nearest neighbors of each query, without the query itself, at most 9."""
    gallery = test.rows("gallery")
    k = min(_NEIGHBORS + (not test.has_roles), len(gallery))
    indices = nearest_neighbors(test.embeddings[queries], test.embeddings[gallery], k)[1].numpy()
    return [gallery[near][gallery[near] != query][:_NEIGHBORS] for query, near in zip(queries, indices, strict=True)]


def draw_gallery(test: Embedded, map_at_r: NDArray[np.float64], images: Images, seed: int) -> Picture | None:
    """Draw queries and their nearest neighbors; None if no query has a reference."""
    queries = choose_queries(map_at_r, seed)
    if not queries.size:
        return None
    rows, correct = [], []
    for query, neighbors in zip(queries, neighbors_of(test, queries), strict=True):
        right = test.labels[neighbors] == test.labels[query]
        names = [test.class_names[label] for label in test.labels[neighbors]]
        tiles = [Tile(images.small(test.paths[query]), "query")]
        tiles += [
            Tile(images.small(test.paths[row]), name, bool(is_right))
            for row, name, is_right in zip(neighbors, names, right, strict=True)
        ]
        title = f"{shorten(legible(test.class_names[test.labels[query]]), 90)}   MAP@R {map_at_r[query]:.3f}"
        rows.append(Row(title, tiles, lead=1))
        correct.append(f"{right.sum()} of {len(right)}")
    alt = f"{len(rows)} test queries and their nearest neighbors. Neighbors of the query's class: {', '.join(correct)}."
    return Picture.of(draw_rows(rows, 1 + _NEIGHBORS), "gallery.png", alt)
