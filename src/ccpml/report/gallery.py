"""A few test queries with their nearest neighbors, from the worst query to the best."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import counted
from ccpml.report.embedded import Embedded, evenly_spaced
from ccpml.report.images import Images
from ccpml.report.style import Picture
from ccpml.report.tiles import Row, Tile, draw_rows
from ccpml.retrieval import nearest_neighbors

__all__ = ["choose_queries", "draw_gallery", "gallery_rows", "neighbors_of"]

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


def gallery_rows(test: Embedded, map_at_r: NDArray[np.float64], images: Images, seed: int) -> list[Row]:
    """Return queries and their nearest neighbors; none if no query has a reference.

    Only the R nearest neighbors count, R being the number of references of the query's class. Those beyond are faded,
    and marked only if they are of its class.
    """
    rows, queries = [], choose_queries(map_at_r, seed)
    gallery = test.labels[test.rows("gallery")]
    for query, neighbors in zip(queries, neighbors_of(test, queries) if queries.size else [], strict=True):
        tiles = [Tile(images.small(test.paths[query]), "query")]
        references = int((gallery == test.labels[query]).sum()) - (not test.has_roles)
        for rank, row in enumerate(neighbors):
            right, beyond = bool(test.labels[row] == test.labels[query]), rank >= references
            name = test.class_names[test.labels[row]]
            tiles.append(Tile(images.small(test.paths[row]), name, None if beyond and not right else right, beyond))
        rows.append(Row(test.class_names[test.labels[query]], f"MAP@R {map_at_r[query]:.3f}", tiles, lead=1))
    return rows


def draw_gallery(rows: Sequence[Row]) -> Picture:
    """Draw queries and their nearest neighbors."""
    right = [f"{sum(tile.right is True for tile in row.tiles)} of {len(row.tiles) - 1}" for row in rows]
    queries = f"{counted(len(rows), 'test query')} and the nearest neighbors of each"
    alt = f"{queries}. Neighbors of the query's class: {', '.join(right)}."
    return Picture.of(draw_rows(rows, 1 + _NEIGHBORS), "gallery.png", alt)
