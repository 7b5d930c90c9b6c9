"""Covers of classes by k centers, and pictures that would improve them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ccpml.method import greedy_k_center

__all__ = ["Additions", "ClassCover", "choose_additions", "measure_covers"]

_LISTED: Final = 5
"""Pictures of a class that are listed."""


class ClassCover(NamedTuple):
    """The cover of a class by k of its pictures.

    Attributes:
        label: The class.
        pictures: Number of pictures n.
        radius: Covering radius: the largest distance of a picture to its nearest center.
        centers: Number of centers k.
        needed: The smallest number of centers with which the radius is at most the median over classes; 0 if it is so
            with k.
        farthest: Rows of the pictures that are farthest from their centers, and those distances.
    """

    label: int
    pictures: int
    radius: float
    centers: int
    needed: int
    farthest: Sequence[tuple[int, float]]


class Additions(NamedTuple):
    """Pictures without a label that would improve the cover of a class.

    Attributes:
        label: The class that they are probably of.
        radius: The largest distance of one of them to the nearest picture of the class, before one is added.
        chosen: Rows in the order in which to add them, with the distance that is left after each.
    """

    label: int
    radius: float
    chosen: Sequence[tuple[int, float]]


def measure_covers(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], rows: NDArray[np.int64], centers: int
) -> list[ClassCover]:
    """Return the covers of the classes that have more pictures than centers, the worst first.

    Centers are chosen as proxies are when training starts: greedily, each the farthest from those before, the first the
    farthest from the origin.

    Args:
        embeddings: φ-normalized, float32 (N, d).
        labels: Labels, −1 for none: int64, (N,).
        rows: Rows that count, ascending: without copies, probable label errors and outliers.
        centers: Number of centers k.

    Example:
        >>> x = np.float32([[1], [0.5], [0.4], [0.1]])
        >>> [cover] = measure_covers(x, np.zeros(4, np.int64), np.arange(4), centers=2)
        >>> round(cover.radius, 6), cover.farthest[0][0]
        (0.4, 3)

    Source:
        Gürbüz et al., WACV 2024, Section 4 and Proposition 4.1.
    """
    found = []
    for label, own in _by_label(labels, rows):
        if len(own) > centers:
            found.append((label, own, *_radii(embeddings[own], centers)))
    usual = float(np.median([radii[centers - 1] for _, _, radii, _ in found])) if found else 0.0
    covers = []
    for label, own, radii, apart in found:
        radius = float(radii[centers - 1])
        enough = np.flatnonzero(radii <= usual)
        needed = int(enough[0]) + 1 if radius > usual and len(enough) else 0
        order = np.argsort(-apart, kind="stable")[: min(_LISTED, len(own) - centers)]  # centers are at distance 0
        farthest = [(int(own[place]), float(apart[place])) for place in order.tolist()]
        covers.append(ClassCover(label, len(own), radius, centers, needed, farthest))
    return sorted(covers, key=lambda cover: (-cover.radius, cover.label))


def choose_additions(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    candidates: NDArray[np.int64],
    suggested: NDArray[np.int64],
) -> list[Additions]:
    """Return for each class pictures without a label that its own pictures cover badly, those that gain most first.

    The pictures of a class and the candidates that are probably of it are covered by the pictures of the class. Each
    addition is the candidate farthest from them and from those added before (a core-set). Candidates nearer than the
    pictures of the class usually are to the nearest other one gain nothing, and those more than twice as far as any of
    them are probably of no class; neither are listed.

    Args:
        embeddings: φ-normalized, float32 (N, d).
        labels: Labels, −1 for none: int64, (N,).
        rows: Rows of the pictures with labels that count.
        candidates: Rows without a label.
        suggested: Their probable classes, int64 (N,).

    Source:
        O. Sener and S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
    """
    own_rows, found = dict(_by_label(labels, rows)), []
    for label, pool in _by_label(suggested, candidates):
        if label in own_rows and (one := _additions_of(label, embeddings, own_rows[label], pool)):
            found.append(one)
    return sorted(found, key=lambda one: (-one.radius, one.label))


def _additions_of(
    label: int, embeddings: NDArray[np.float32], own: NDArray[np.int64], pool: NDArray[np.int64]
) -> Additions | None:
    """Choose pictures of a pool for one class."""
    apart = np.full(len(pool), np.inf)
    for row in own.tolist():  # one at a time: no matrix of all distances
        apart = np.minimum(apart, _distances(embeddings[pool], embeddings[row]))
    usual, largest = _spacing(embeddings[own])
    near = apart <= 2 * largest
    left, apart = pool[near], apart[near]
    radius, chosen = float(apart.max(initial=0.0)), list[tuple[int, float]]()
    while len(chosen) < min(_LISTED, len(left)) and apart.max() > usual:
        place = int(apart.argmax())
        apart = np.minimum(apart, _distances(embeddings[left], embeddings[left[place]]))
        chosen.append((int(left[place]), float(apart.max())))
    return Additions(label, radius, chosen) if chosen else None


def _by_label(labels: NDArray[np.int64], rows: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Return each label of some rows, −1 excepted, with these rows."""
    rows = rows[labels[rows] >= 0]
    rows = rows[np.argsort(labels[rows], kind="stable")]
    found, starts = np.unique(labels[rows], return_index=True)
    return list(zip(found.tolist(), np.split(rows, starts[1:]), strict=True)) if len(rows) else []


def _radii(points: NDArray[np.float32], centers: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the radii of covers by 1, 2, … of n points, (m,), and each point's distance to the first k, (n,)."""
    count = min(len(points), 8 * centers)
    x = torch.from_numpy(points)[None]  # (1, n, d)
    order = greedy_k_center(x, x.new_zeros(1, 1, x.shape[2]), count)[0].tolist()
    nearest, radii, apart = np.full(len(points), np.inf), [], np.empty(0)
    for number, center in enumerate(order, 1):
        nearest = np.minimum(nearest, _distances(points, points[center]))
        radii.append(nearest.max())
        if number == centers:
            apart = nearest
    return np.array(radii), apart


def _distances(points: NDArray[np.float32], center: NDArray[np.float32]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.linalg.norm(points.astype(np.float64) - center, axis=1)
    return distances


def _spacing(points: NDArray[np.float32]) -> tuple[float, float]:
    """Return the median and the largest distance of points, of the first 500, to the nearest other one."""
    some = points[:500].astype(np.float64)
    if len(some) < 2:
        return 0.0, 0.0
    apart = np.stack([np.linalg.norm(some - point, axis=1) for point in some])
    np.fill_diagonal(apart, np.inf)
    nearest = apart.min(axis=1)
    return float(np.median(nearest)), float(nearest.max())
