"""The classes that are covered worst, with a few of their images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.method import average_covering_radius, covering_radius, lipschitz_normalize
from ccpml.report.embedded import Embedded
from ccpml.report.images import Images
from ccpml.report.style import Picture, legible, shorten
from ccpml.report.tiles import Row, Tile, draw_rows

__all__ = ["ClassCover", "draw_covers", "worst_by_proxies", "worst_by_samples"]

_WORST: Final = 10
_IMAGES: Final = 10
MOST_CLASSES: Final = 5000
MOST_SAMPLES: Final = 100
"""Of larger sets as many classes, evenly spaced, and of larger classes as many images, are measured."""


@dataclass(frozen=True)
class ClassCover:
    """How a class is covered.

    Attributes:
        name: The class's.
        label: The class's.
        images: How many of its images are known.
        radius: Its covering radius, by the measure of its table.
        map_at_r: Mean over its queries; None if none of them has anything to find.
    """

    name: str
    label: int
    images: int
    radius: float
    map_at_r: float | None


def worst_by_samples(split: Embedded, map_at_r: NDArray[np.float64]) -> list[ClassCover]:
    """Find the classes with the largest average covering radius of their own samples."""

    def radius(rows: NDArray[np.int64], _: int) -> float:
        points = torch.from_numpy(split.embeddings[_evenly(rows, MOST_SAMPLES)])
        return average_covering_radius(points, torch.zeros(len(points), dtype=torch.int64))

    return _worst(split, map_at_r, radius)


def worst_by_proxies(split: Embedded, map_at_r: NDArray[np.float64], proxies: Tensor) -> list[ClassCover]:
    """Find the classes whose farthest sample is farthest from its nearest proxy.

    Args:
        split: Training images; their labels number the proxies.
        map_at_r: Of each image.
        proxies: As they are stored, (C, K, d).
    """
    normalized = lipschitz_normalize(proxies)

    def radius(rows: NDArray[np.int64], label: int) -> float:
        points = torch.from_numpy(split.embeddings[rows])
        return covering_radius(points[None], normalized[None, label]).item()

    return _worst(split, map_at_r, radius)


def draw_covers(name: str, what: str, worst: Sequence[ClassCover], split: Embedded, images: Images) -> Picture:
    """Draw the classes, a row of images for each."""
    rows = []
    for cover in worst:
        own = _evenly(np.flatnonzero(split.labels == cover.label), _IMAGES)
        score = "" if cover.map_at_r is None else f"   MAP@R {cover.map_at_r:.3f}"
        title = f"{shorten(legible(cover.name), 80)}   radius {cover.radius:.3f}{score}"
        rows.append(Row(title, [Tile(images.small(split.paths[row])) for row in own]))
    names = ", ".join(cover.name for cover in worst)
    return Picture.of(draw_rows(rows, _IMAGES), name, f"Images of {what}: {names}.")


def _worst(
    split: Embedded, map_at_r: NDArray[np.float64], radius: Callable[[NDArray[np.int64], int], float]
) -> list[ClassCover]:
    """Measure each class by its rows and label, and keep those with the largest radius, the largest first."""
    order = np.argsort(split.labels, kind="stable")
    labels, first, sizes = np.unique(split.labels[order], return_index=True, return_counts=True)
    measured = [
        (radius(order[first[i] : first[i] + sizes[i]], int(labels[i])), int(i))
        for i in _evenly(np.arange(len(labels)), MOST_CLASSES)
    ]
    measured.sort(key=lambda pair: -pair[0])
    return [
        ClassCover(
            name=split.class_names[labels[i]],
            label=int(labels[i]),
            images=int(sizes[i]),
            radius=value,
            map_at_r=_mean(map_at_r[order[first[i] : first[i] + sizes[i]]]),
        )
        for value, i in measured[:_WORST]
    ]


def _mean(scores: NDArray[np.float64]) -> float | None:
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else None


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Keep as many rows at most, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
