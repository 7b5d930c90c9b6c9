"""Groups of copies: files with the same bytes, the same picture in other files, and pictures that are merely similar.

Groups are written as the row of one of their pictures, the leader, for each row; a picture alone leads itself.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.neighbors import Neighbors

__all__ = ["candidate_pairs", "group_equal", "group_same", "group_similar", "members_of"]

_MAX_BITS: Final = 10  # in which perceptual hashes of candidates differ
_BY_HASH: Final = 16  # candidates of a picture at most
_BY_EMBEDDING: Final = 8
_QUERIES: Final = 4096


def group_equal(keys: Sequence[Hashable], ranks: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each row the one of the lowest rank with an equal key, (N,).

    Example:
        >>> group_equal(["a", "b", "a"], np.array([2, 1, 0])).tolist()
        [2, 1, 2]
    """
    first = dict[Hashable, int]()
    for row in np.argsort(ranks, kind="stable").tolist():
        first.setdefault(keys[row], row)
    return np.array([first[key] for key in keys], dtype=np.int64)


def members_of(leaders: NDArray[np.int64], min_size: int = 2) -> dict[int, list[int]]:
    """Return the rows of each group of at least some size, by leader, ascending.

    Example:
        >>> members_of(np.array([0, 1, 0, 3]))
        {0: [0, 2]}
    """
    order = np.argsort(leaders, kind="stable")
    found, starts = np.unique(leaders[order], return_index=True)
    parts = zip(found.tolist(), np.split(order, starts[1:]), strict=True)
    return {leader: rows.tolist() for leader, rows in parts if len(rows) >= min_size}


def candidate_pairs(
    rows: NDArray[np.int64], hashes: NDArray[np.uint64] | None, neighbors: Neighbors
) -> NDArray[np.int64]:
    """Return pairs of rows that could be the same picture, by perceptual hash or embedding, sorted: int64, (P, 2).

    Args:
        rows: Rows to compare, ascending.
        hashes: Perceptual hashes of all rows, (N,); None: pairs are found by embedding alone.
        neighbors: Neighbors of all rows.
    """
    near = neighbors.first(_BY_EMBEDDING).rows[rows]  # (R, k)
    parts = [np.stack([np.repeat(rows, near.shape[1]), near.ravel()], 1)]
    if hashes is not None and len(rows) > 1:
        bits = np.ascontiguousarray(hashes[rows]).view(np.uint8).reshape(len(rows), 8)
        index = faiss.IndexBinaryFlat(64)
        index.add(bits)
        for start in range(0, len(rows), _QUERIES):
            apart, found = index.search(bits[start : start + _QUERIES], min(_BY_HASH, len(rows)))
            query, column = np.nonzero(apart <= _MAX_BITS)
            parts.append(np.stack([rows[start + query], rows[found[query, column]]], 1))
    pairs = np.sort(np.concatenate(parts), axis=1)
    pairs = pairs[(pairs[:, 0] >= 0) & (pairs[:, 0] != pairs[:, 1])]
    unique: NDArray[np.int64] = np.unique(pairs, axis=0)
    return unique


def group_same(
    pairs: Iterable[Sequence[int]], same: Callable[[int, int], float], ranks: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return groups of pictures each of which is the same as the leader, which has the lowest rank.

    Args:
        pairs: Pairs of rows that could be the same.
        same: How alike two rows are; 0 if they are not the same.
        ranks: Rank of each picture, (N,).

    Returns:
        Leaders, (N,), and how alike each row is to its leader, (N,).
    """
    leaders, scores = np.arange(len(ranks)), np.ones(len(ranks))
    found = dict[tuple[int, int], float]()
    for first, second in pairs:
        if score := same(int(first), int(second)):
            found[int(first), int(second)] = score
    for component in _components(found):
        heads = list[int]()
        for row in sorted(component, key=lambda one: (ranks[one], one)):
            for head in heads:
                pair = min(head, row), max(head, row)
                score = found[pair] if pair in found else same(*pair)
                if score:
                    leaders[row], scores[row] = head, score
                    break
            else:
                heads.append(row)
    return leaders, scores


def group_similar(
    neighbors: Neighbors, rows: NDArray[np.int64], embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return groups of pictures that are much nearer to each other than pictures usually are to the nearest one.

    Distances to the nearest neighbor are compared in logarithms: those three robust standard deviations below the
    median are unusual. All distances within a group are; nearest pairs are joined first.

    Returns:
        Leaders, the lowest row of each group, (N,), and the distance of each row to the nearest of its group, (N,).
    """
    nearest = neighbors.distances[rows, 0]
    leaders, distances = np.arange(len(embeddings)), np.full(len(embeddings), np.inf)
    positive = nearest[np.isfinite(nearest) & (nearest > 0)]
    if len(positive) < _MIN_DISTANCES:
        return leaders, distances
    logs = np.log(positive)
    middle = np.median(logs)
    limit = float(np.exp(middle - 3 * 1.4826 * np.median(np.abs(logs - middle))))
    near = neighbors.first(_BY_EMBEDDING)
    query, column = np.nonzero(near.distances[rows] < limit)
    pairs = np.stack([rows[query], near.rows[rows[query], column]], 1)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    apart = np.linalg.norm(embeddings[pairs[:, 0]].astype(np.float64) - embeddings[pairs[:, 1]], axis=1)
    groups = dict[int, list[int]]()
    for number in np.argsort(apart, kind="stable").tolist():
        first, second = (leaders[row] for row in pairs[number])
        if first == second:
            continue
        one, other = groups.get(first, [first]), groups.get(second, [second])
        across = np.linalg.norm(embeddings[one][:, None].astype(np.float64) - embeddings[other], axis=2)
        if across.max() >= limit:
            continue
        joined = [*one, *other]
        for row in pairs[number]:
            distances[row] = min(distances[row], apart[number])
        leaders[joined] = min(first, second)
        groups[min(first, second)] = joined
    return leaders, distances


_MIN_DISTANCES: Final = 20
"""Pictures below which it is not known what is usual."""


def _components(pairs: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """Yield the rows that pairs connect, a list for each component."""
    parent = dict[int, int]()

    def find(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for first, second in pairs:
        parent[find(second)] = find(first)
    components = dict[int, list[int]]()
    for row in parent:
        components.setdefault(find(row), []).append(row)
    yield from components.values()
