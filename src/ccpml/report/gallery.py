"""A few test queries and what they found, from the worst to the best."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.report.embedded import Embedded
from ccpml.report.images import Images
from ccpml.report.style import Picture, legible, shorten
from ccpml.report.tiles import Row, Tile, draw_rows
from ccpml.retrieval import nearest_neighbors

__all__ = ["choose_queries", "draw_gallery"]

_QUERIES: Final = 8
_NEIGHBORS: Final = 9


def choose_queries(map_at_r: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Choose queries whose MAP@R spread evenly from the worst to the best; the seed decides among equals.

    Args:
        map_at_r: Of each image, (N,), NaN for what is no query.
        seed: The run's.

    Returns:
        Rows, from the lowest score to the highest, at most 8.
    """
    rows = np.flatnonzero(np.isfinite(map_at_r))
    rows = np.random.default_rng(seed).permutation(rows)
    rows = rows[np.argsort(map_at_r[rows], kind="stable")]
    places = np.linspace(0, len(rows) - 1, min(_QUERIES, len(rows))).round().astype(np.int64)
    return rows[places]


def draw_gallery(test: Embedded, map_at_r: NDArray[np.float64], images: Images, seed: int) -> Picture | None:
    """Draw queries and their nearest neighbors; None if no query has anything to find."""
    chosen = choose_queries(map_at_r, seed)
    if not chosen.size:
        return None
    found = _neighbors(test, chosen)
    rows = [
        _row(test, query, neighbors, float(map_at_r[query]), images)
        for query, neighbors in zip(chosen, found, strict=True)
    ]
    right = [
        int((test.labels[neighbors] == test.labels[query]).sum())
        for query, neighbors in zip(chosen, found, strict=True)
    ]
    alt = f"{len(rows)} test queries, each with its {len(found[0])} nearest neighbors, of which are of its class: "
    return Picture.of(draw_rows(rows, 1 + _NEIGHBORS), "gallery.png", alt + ", ".join(map(str, right)) + ".")


def _neighbors(test: Embedded, chosen: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Find the nearest of each chosen query, itself left out: rows."""
    gallery = test.gallery()
    k = min(_NEIGHBORS + (not test.has_roles), len(gallery))
    indices = nearest_neighbors(test.embeddings[chosen], test.embeddings[gallery], k)[1].numpy()
    return [gallery[near][gallery[near] != query][:_NEIGHBORS] for query, near in zip(chosen, indices, strict=True)]


def _row(test: Embedded, query: int, neighbors: NDArray[np.int64], score: float, images: Images) -> Row:
    own = test.class_names[test.labels[query]]
    tiles = [Tile(images.small(test.paths[query]), "query")]
    for row in neighbors:
        label = test.labels[row]
        tiles.append(Tile(images.small(test.paths[row]), test.class_names[label], bool(label == test.labels[query])))
    return Row(f"{shorten(legible(own), 90)}   MAP@R {score:.3f}", tiles, lead=1)
