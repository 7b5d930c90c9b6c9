"""What the method does to the classes, measured while it trains: covers, distances, and a few classes to look at."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ccpml.data import ImageTable, pool_rows
from ccpml.method import (
    average_covering_radius,
    average_interclass_distance,
    covering_radius,
    lipschitz_normalize,
)
from ccpml.runs.build import evaluation_batches
from ccpml.runs.settings import ResolvedSettings
from ccpml.training import embed

__all__ = ["GeometrySet", "set_geometry"]

_CLASSES, _PER_CLASS = 32, 8


def set_geometry(embeddings: Tensor, labels: Tensor, prefix: str) -> dict[str, float]:
    """Measure a labelled set as the paper does, after φ: average covering radius and inter-class distance.

    Large sets are measured on their first 200 classes.
    """
    some = labels < 200
    normalized = lipschitz_normalize(embeddings[some])
    return {
        f"{prefix}_covering_radius": average_covering_radius(normalized, labels[some]),
        f"{prefix}_interclass_distance": average_interclass_distance(normalized, labels[some]),
    }


@dataclass(frozen=True)
class Snapshot:
    """The geometry set as the network sees it at some step.

    Attributes:
        embeddings: φ-normalised, (n, d).
        labels: Classes of the training table, (n,).
    """

    embeddings: Tensor
    labels: Tensor


class GeometrySet:
    """Some training images, the same ones throughout a run: up to 8 of each of up to 32 classes.

    Args:
        settings: The run's settings.
        table: The training images.
        channels: Of the images.
    """

    def __init__(self, settings: ResolvedSettings, table: ImageTable, channels: int) -> None:
        count = min(_CLASSES, table.num_classes)
        self.classes = np.unique(np.linspace(0, table.num_classes - 1, count).round().astype(np.int64))
        rows = pool_rows(table.labels, _PER_CLASS, settings.seed, 0)[self.classes]
        self.table = table.select(np.unique(rows))
        self._batches = evaluation_batches(settings, self.table, channels)

    def embed(self, module: nn.Module, device: Any) -> Snapshot:
        """Embed the set by the network as it is."""
        embeddings, labels = embed(module, self._batches, device)
        return Snapshot(lipschitz_normalize(embeddings), torch.from_numpy(self.classes)[labels])

    def measure(self, snapshot: Snapshot) -> dict[str, float]:
        """Measure the set by itself."""
        compact = torch.from_numpy(np.searchsorted(self.classes, snapshot.labels.numpy()))
        return set_geometry(snapshot.embeddings, compact, "train")

    def measure_proxies(self, snapshot: Snapshot, proxies: Tensor) -> dict[str, float]:
        """Measure the proxies: the radius at which they cover their classes, and how far a class's are apart.

        Args:
            snapshot: The set.
            proxies: As they are stored, (C, K, d).
        """
        normalized = lipschitz_normalize(proxies.detach().float().cpu())
        radii = [
            covering_radius(snapshot.embeddings[None, snapshot.labels == label], normalized[None, label])
            for label in self.classes.tolist()
        ]
        centre = normalized.mean(1, keepdim=True)
        return {
            "proxy_covering_radius": torch.cat(radii).mean().item(),
            "proxy_spread": (normalized - centre).norm(dim=2).mean().item(),
        }


def picture_classes(labels: Tensor, count: int = 6) -> Tensor:
    """Choose a few classes to draw, spread over the set."""
    classes = torch.unique(labels)
    chosen: Tensor = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).round().long()]
    return chosen
