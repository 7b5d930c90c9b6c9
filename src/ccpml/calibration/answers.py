"""The answers of a gallery to queries whose classes are known.

Shapes: Q queries, G gallery images, q queries of a chunk, k answers, d dimensions, C classes, T thresholds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["THRESHOLDS", "Answers", "find_answers"]

THRESHOLDS: Final = np.linspace(0.0, 2.0, 1001)
"""The distances that may become thresholds, (T,): fixed before any data are seen. No distance of two embeddings of at
most unit length is larger."""

_CHUNK_ELEMENTS: Final = 2**22


@dataclass(frozen=True, eq=False)
class Answers:
    """What a gallery answers to each query whose class has another image in it."""

    classes: NDArray[np.int64]  # of each query: 0..C − 1, (Q,)
    names: tuple[str, ...]  # of the classes, (C,)
    distances: NDArray[np.float64]  # of the k nearest images, (Q, k)
    right: NDArray[np.bool_]  # whether they show the query's class, (Q, k)
    absent: NDArray[np.float64]  # distance of the nearest image if the query's class had none, (Q,)
    sizes: NDArray[np.int64]  # number of nearest images that hold a right one, (Q,)
    skipped: int = 0  # queries whose class has no other image

    @property
    def one_per_class(self) -> bool:
        """Whether each class has one query."""
        return len(self.classes) == len(self.names)

    def losses(self) -> NDArray[np.float64]:
        """Return the fraction of wrong answers of each class at each threshold, (C, T); NaN without answers."""
        right, all_answers = self._counts(self.right), self._counts(np.ones_like(self.right))
        with np.errstate(invalid="ignore"):
            return 1 - right / all_answers

    def answered(self) -> NDArray[np.float64]:
        """Return the fraction of the queries of each class with an answer at each threshold, (C, T)."""
        return self.fractions(self.distances[:, 0])

    def fractions(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fraction of the queries of each class whose distance is within each threshold, (C, T)."""
        counts = _count(self.classes, distances, len(self.names))
        return counts / np.bincount(self.classes, minlength=len(self.names))[:, None]

    def of(self, chosen: NDArray[np.int64]) -> "Answers":
        """Return the answers to the queries of some classes, in the given order of classes."""
        number = np.full(len(self.names), -1)
        number[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(number[self.classes] >= 0)
        names = tuple(self.names[label] for label in chosen)
        parts = (self.distances[rows], self.right[rows], self.absent[rows], self.sizes[rows])
        return Answers(number[self.classes[rows]], names, *parts)

    def _counts(self, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        distances = np.where(counted, self.distances, np.inf)
        classes = np.repeat(self.classes, distances.shape[1])
        return _count(classes, distances.reshape(-1), len(self.names))


def find_answers(
    queries: NDArray[Any],
    labels: NDArray[np.int64],
    gallery: NDArray[Any],
    gallery_labels: NDArray[np.int64],
    own: NDArray[np.int64] | None,
    names: tuple[str, ...],
    count: int = 1,
    progress: Callable[[int], object] = lambda done: None,
) -> Answers:
    """Search a gallery for queries, exactly, in float64; of equal distances, a wrong answer comes first.

    Args:
        queries: φ-normalized embeddings, (Q, d).
        labels: Their classes, (Q,).
        gallery: φ-normalized embeddings, (G, d).
        gallery_labels: Their classes, (G,).
        own: Index of each query in the gallery, where it is not its own answer, (Q,); None if it is not in there.
        names: Names of the classes by label.
        count: k, answers of a query.
        progress: Called with the number of queries of each chunk.

    Returns:
        The answers to the queries whose class has another image in the gallery.

    Raises:
        ValueError: If there is no such query, or all images are of one class.
    """
    sizes = np.bincount(gallery_labels, minlength=len(names))
    others = sizes[labels] - (own is not None)  # images that would be right, (Q,)
    kept = np.flatnonzero(others > 0)
    if not len(kept) or np.count_nonzero(sizes) < 2:
        what = "one image each" if not len(kept) else "one class"
        raise ValueError(f"gallery: expected two or more classes with two or more images, got {what}")
    count = min(count, len(gallery) - 1)
    y = gallery.astype(np.float64)
    lengths = np.square(y).sum(1)
    parts = []
    for rows in np.array_split(kept, -(-len(kept) * len(y) // _CHUNK_ELEMENTS)):
        x = queries[rows].astype(np.float64)
        squares = np.square(x).sum(1)[:, None] + lengths - 2 * x @ y.T
        distances = np.sqrt(squares.clip(min=0))  # (q, G)
        if own is not None:
            distances[np.arange(len(rows)), own[rows]] = np.inf
        parts.append(_nearest(distances, labels[rows, None] == gallery_labels, count))
        progress(len(rows))
    known, classes = np.unique(labels[kept], return_inverse=True)
    distances, right, absent, needed = (np.concatenate(part) for part in zip(*parts, strict=True))
    shown = tuple(names[label] for label in known)
    return Answers(classes, shown, distances, right, absent, needed, len(labels) - len(kept))


def _nearest(distances: NDArray[np.float64], is_right: NDArray[np.bool_], k: int) -> tuple[NDArray[Any], ...]:
    """Return the distances and rightness of the k nearest (q, k), the nearest wrong one (q,), and the sizes (q,)."""
    wrong, right = (_smallest(np.where(of, distances, np.inf), k) for of in (~is_right, is_right))  # (q, k)
    both = np.concatenate([wrong, right], 1)
    order = np.argsort(both, axis=1, kind="stable")[:, :k]
    sizes = 1 + np.count_nonzero((distances <= right[:, :1]) & ~is_right, axis=1)
    return np.take_along_axis(both, order, 1), order >= k, wrong[:, 0], sizes


def _smallest(distances: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    return distances.min(1, keepdims=True) if k == 1 else np.sort(np.partition(distances, k - 1, axis=1)[:, :k], axis=1)


def _count(classes: NDArray[np.int64], distances: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """Return how many distances of each class are within each threshold, (C, T)."""
    first = np.searchsorted(THRESHOLDS, distances)  # the first threshold that they are within
    inside = first < len(THRESHOLDS)
    counts = np.zeros((num_classes, len(THRESHOLDS)))
    np.add.at(counts, (classes[inside], first[inside]), 1)
    return counts.cumsum(1)
