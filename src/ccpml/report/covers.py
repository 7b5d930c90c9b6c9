"""The classes with the largest covering radius, and some of their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.method import average_covering_radius, covering_radius, lipschitz_normalize
from ccpml.report.embedded import Embedded, evenly_spaced
from ccpml.report.images import Images
from ccpml.report.style import Picture
from ccpml.report.tiles import Row, Tile, draw_rows

__all__ = ["MAX_CLASSES", "MAX_SAMPLES", "ClassCover", "cover_rows", "draw_covers", "worst_classes"]

_MAX_SHOWN: Final = 10
MAX_CLASSES: Final = 5000
MAX_SAMPLES: Final = 100
"""Numbers of classes, and of images of a class, that are measured; of more, as many are chosen evenly."""


@dataclass(frozen=True)
class ClassCover:
    """How well a class is covered."""

    name: str
    label: int
    images: int  # number of its images
    radius: float
    map_at_r: float | None  # mean over its queries; None if it has none


def worst_classes(split: Embedded, map_at_r: NDArray[np.float64], proxies: Tensor | None = None) -> list[ClassCover]:
    """Return the classes with the largest covering radius, largest first.

    Args:
        split: Images of the classes.
        map_at_r: Score of each image, (N,).
        proxies: Not normalized, (C, K, d), indexed by label. With them, the radius of a class is the distance of its
            farthest sample from the nearest proxy; without, it is the average covering radius of its own samples.
    """

    def radius(rows: NDArray[np.int64], label: int) -> float:
        if proxies is not None:
            points = torch.from_numpy(split.embeddings[rows])
            return covering_radius(points[None], lipschitz_normalize(proxies[None, label])).item()
        points = torch.from_numpy(split.embeddings[rows[evenly_spaced(len(rows), MAX_SAMPLES)]])
        return average_covering_radius(points, torch.zeros(len(points), dtype=torch.int64, device=points.device))

    order = np.argsort(split.labels, kind="stable")
    labels, starts = np.unique(split.labels[order], return_index=True)
    rows = np.split(order, starts[1:])
    measured = [(radius(rows[i], int(labels[i])), int(i)) for i in evenly_spaced(len(labels), MAX_CLASSES)]
    measured.sort(key=lambda pair: -pair[0])
    return [
        ClassCover(split.class_names[labels[i]], int(labels[i]), len(rows[i]), value, _mean(map_at_r[rows[i]]))
        for value, i in measured[:_MAX_SHOWN]
    ]


def cover_rows(worst: Sequence[ClassCover], split: Embedded, images: Images) -> list[Row]:
    """Return a row of images for each class."""
    rows = []
    for cover in worst:
        own = np.flatnonzero(split.labels == cover.label)
        own = own[evenly_spaced(len(own), _MAX_SHOWN)]
        score = "" if cover.map_at_r is None else f", MAP@R {cover.map_at_r:.3f}"
        rows.append(
            Row(cover.name, f"radius {cover.radius:.3f}{score}", [Tile(images.small(split.paths[row])) for row in own])
        )
    return rows


def draw_covers(name: str, what: str, rows: Sequence[Row]) -> Picture:
    """Draw a row of images for each class."""
    names = ", ".join(row.name for row in rows)
    return Picture.of(draw_rows(rows, _MAX_SHOWN), name, f"Images of {what}: {names}.")


def _mean(scores: NDArray[np.float64]) -> float | None:
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else None
