"""Covering radii and distances of classes and proxies, measured while a run trains."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccpml.data import ImageTable, pool_rows
from ccpml.method import average_covering_radius, average_interclass_distance, covering_radius, lipschitz_normalize
from ccpml.runs.build import evaluation_batches
from ccpml.runs.settings import ResolvedSettings
from ccpml.training import MetricLearning, embed

__all__ = ["GeometrySet", "set_geometry"]

_CLASSES, _PER_CLASS = 32, 8


def set_geometry(embeddings: Tensor, labels: Tensor, prefix: str) -> dict[str, float]:
    """Compute the paper's measures of a labeled set, after φ: average covering radius and inter-class distance.

    Sets of more than 200 classes are measured on the first 200.
    """
    some = labels < 200
    normalized = lipschitz_normalize(embeddings[some])
    return {
        f"{prefix}_covering_radius": average_covering_radius(normalized, labels[some]),
        f"{prefix}_interclass_distance": average_interclass_distance(normalized, labels[some]),
    }


class Snapshot(NamedTuple):
    """Embeddings of the geometry set at some step."""

    embeddings: Tensor  # φ-normalized, (n, d)
    labels: Tensor  # classes of the training table, (n,)


class GeometrySet:
    """Training images on which a run is measured, fixed throughout: up to 8 of each of up to 32 classes."""

    def __init__(self, settings: ResolvedSettings, table: ImageTable, channels: int) -> None:
        count = min(_CLASSES, table.num_classes)
        self.classes = np.unique(np.linspace(0, table.num_classes - 1, count).round().astype(np.int64))
        rows = pool_rows(table.labels, _PER_CLASS, settings.seed, 0)[self.classes]
        self.table = table.select(np.unique(rows))
        self.batches = evaluation_batches(settings, self.table, channels)

    def embed(self, module: MetricLearning, device: Any) -> Snapshot:
        """Embed the set with the current weights."""
        embeddings, labels = embed(module, self.batches, device, forward=module.embed_again)
        return Snapshot(lipschitz_normalize(embeddings), torch.from_numpy(self.classes)[labels])

    def measure(self, snapshot: Snapshot) -> dict[str, float]:
        """Compute covering radius and inter-class distance of the set."""
        compact = torch.from_numpy(np.searchsorted(self.classes, snapshot.labels.numpy()))
        return set_geometry(snapshot.embeddings, compact, "train")

    def measure_proxies(self, snapshot: Snapshot, proxies: Tensor) -> dict[str, float]:
        """Compute the radius at which proxies cover their classes, and their mean distance to their class's center."""
        normalized = lipschitz_normalize(proxies.detach().float().cpu())  # (C, K, d)
        radii = [
            covering_radius(snapshot.embeddings[None, snapshot.labels == label], normalized[None, label])
            for label in self.classes.tolist()
        ]
        center = normalized.mean(1, keepdim=True)
        return {
            "proxy_covering_radius": torch.cat(radii).mean().item(),
            "proxy_spread": (normalized - center).norm(dim=2).mean().item(),
        }


def picture_classes(labels: Tensor, count: int = 6) -> Tensor:
    """Return a few classes to draw, spread over the set."""
    classes = torch.unique(labels)
    chosen: Tensor = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).round().long()]
    return chosen
