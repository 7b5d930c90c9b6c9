"""How well proxies cover classes, and how often pairs with them violate the constraint of the paper.

Shapes: N images, C classes, K proxies of a class, d dimensions. All vectors are φ-normalized.

Source: Gürbüz et al., WACV 2024, Section 4: ℓ(z_i, z_j) = (y_ij (‖f(x_i) − f(x_j)‖ − β) + α)₊, and Propositions 4.1
and 4.2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.calibration.bounds import upper_bound

__all__ = [
    "Constraint",
    "Covered",
    "balanced_constraint",
    "cover_by_images",
    "cover_by_proxies",
    "generalization_terms",
]

MAX_CLASSES: Final = 500
MAX_IMAGES: Final = 20
"""Numbers of classes, and of images of a class, that are measured; of more, as many are chosen evenly."""

_DISTANCES: Final = np.linspace(0.0, 2.0, 401)


class Constraint(NamedTuple):
    """The constraint of a pair: within β − α for one class, beyond β + α for two."""

    beta: float
    alpha: float


@dataclass(frozen=True, eq=False)
class Covered:
    """Images of some classes, and proxies of each."""

    points: NDArray[np.float64]  # those that are measured, (N, d)
    labels: NDArray[np.int64]  # 0..C − 1, (N,)
    proxies: tuple[NDArray[np.float64], ...]  # C arrays (K, d)

    def distances(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Iterate over classes: distances of its images and of all others from its proxies, (n, K) and (N − n, K)."""
        squares = np.square(self.points).sum(1)[:, None]
        for label, proxies in enumerate(self.proxies):
            products = self.points @ proxies.T
            distances = np.sqrt((squares + np.square(proxies).sum(1) - 2 * products).clip(min=0))
            own = self.labels == label
            yield distances[own], distances[~own]

    def measure(self, constraint: Constraint, confidence: float) -> dict[str, Any]:
        """Return covering radii and violations, their mean over classes, and upper bounds for classes like these."""
        beta, alpha = constraint
        rows = []
        for own, others in self.distances():
            losses = [(own - beta + alpha).clip(min=0), (beta - others + alpha).clip(min=0)]
            rates = [float((part > 0).mean()) for part in losses]
            rows.append((float(own.min(1).max()), *rates, sum(float(part.mean()) for part in losses) / 2))
        radii, same, different, loss = np.array(rows).T  # (C,) each
        return {
            "classes": len(rows),
            "images": len(self.points),
            "proxies": max(map(len, self.proxies)),
            "radius": round(float(radii.mean()), 4),
            "radius_at_most": round(2 * upper_bound(radii / 2, confidence), 4),
            "largest_radius": round(float(radii.max()), 4),
            "same_class": round(float(same.mean()), 4),
            "same_class_at_most": round(upper_bound(same, confidence), 4),
            "other_classes": round(float(different.mean()), 4),
            "other_classes_at_most": round(upper_bound(different, confidence), 4),
            "loss": round(float(loss.mean()), 4),
        }


def cover_by_proxies(points: NDArray[Any], labels: NDArray[np.int64], proxies: NDArray[Any]) -> Covered:
    """Return images with the trained proxies of their classes, (C, K, d), indexed by label."""
    x, y, known = _some(points, labels)
    return Covered(x, y, tuple(_normalize(proxies[known].astype(np.float64))))


def cover_by_images(points: NDArray[Any], labels: NDArray[np.int64], count: int) -> Covered:
    """Return images with other images of their classes as proxies: ``count``, at most half, by greedy k-center.

    The images that serve as proxies are not measured. Classes of one image are left out.
    """
    x, y, _ = _some(points, labels)
    kept, proxies = [], list[NDArray[np.float64]]()
    for label in range(int(y.max()) + 1):
        rows = np.flatnonzero(y == label)
        if len(rows) > 1:
            chosen = _greedy_k_center(x[rows], min(count, len(rows) // 2))
            rest = np.delete(rows, chosen)
            kept.append((rest, np.full(len(rest), len(proxies))))
            proxies.append(x[rows[chosen]])
    if len(proxies) < 2:
        raise ValueError(f"classes: expected two or more with two or more images, got {len(proxies)}")
    rows, numbers = (np.concatenate(part) for part in zip(*kept, strict=True))
    return Covered(x[rows], numbers, tuple(proxies))


def balanced_constraint(covered: Covered) -> Constraint:
    """Return α = 0 and the β at which pairs of one class and pairs of two violate their constraint equally often."""
    same, different = np.zeros(len(_DISTANCES)), np.zeros(len(_DISTANCES))
    for own, others in covered.distances():
        same += 1 - np.searchsorted(np.sort(own, axis=None), _DISTANCES, "right") / own.size
        different += np.searchsorted(np.sort(others, axis=None), _DISTANCES, "left") / others.size
    return Constraint(round(float(_DISTANCES[np.abs(same - different).argmin()]), 4), 0.0)


def generalization_terms(
    training: dict[str, Any], unseen: dict[str, Any], images: int, constraint: Constraint, confidence: float
) -> dict[str, float]:
    """Return the terms of Proposition 4.2 that can be estimated: ζ δ_s + training error + L √(log(1/γ) / n).

    δ_s is measured; for fixed embeddings, ζ is 1, as ℓ changes by no more than an embedding moves. The last term is
    without the constants that the proposition leaves open; L is the largest value of ℓ, and γ = 1 − confidence. The
    gap that was observed on unseen classes is for comparison.

    Args:
        training: Measures of the training classes.
        unseen: Those of classes that were not trained on.
        images: n, number of training images.
        constraint: β and α.
        confidence: 1 − γ.
    """
    largest = max(2 - constraint.beta + constraint.alpha, constraint.beta + constraint.alpha)
    return {
        "covering_radius": training["radius"],
        "training_error": training["loss"],
        "sampling": round(largest * math.sqrt(-math.log1p(-confidence) / images), 4),
        "observed_gap": round(unseen["loss"] - training["loss"], 4),
    }


def _some(
    points: NDArray[Any], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return images of some classes, their labels 0..C − 1, and the classes that these are."""
    known = np.unique(labels)
    known = known[_evenly(len(known), MAX_CLASSES)]
    order = np.argsort(labels, kind="stable")
    starts, ends = np.searchsorted(labels[order], known), np.searchsorted(labels[order], known, "right")
    rows = [order[start:end][_evenly(end - start, MAX_IMAGES)] for start, end in zip(starts, ends, strict=True)]
    chosen = np.concatenate(rows)
    numbers = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    return _normalize(points[chosen].astype(np.float64)), numbers, known


def _evenly(count: int, limit: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def _normalize(x: NDArray[np.float64]) -> NDArray[np.float64]:
    normalized: NDArray[np.float64] = x / np.linalg.norm(x, axis=-1, keepdims=True).clip(min=1)
    return normalized


def _greedy_k_center(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the points that are farthest from the origin and from those chosen before, one after another."""
    nearest, chosen = np.linalg.norm(points, axis=1), list[int]()
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)
