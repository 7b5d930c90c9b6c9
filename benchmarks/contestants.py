"""Implementations of exact retrieval metrics: this library, others, straightforward code, and the matrix product alone.

Each returns MAP@R, or NaN if it does not compute it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Data:
    """Unit vectors and classes: queries, and references if they are different vectors."""

    x: Tensor
    labels: Tensor
    y: Tensor | None = None
    y_labels: Tensor | None = None

    @property
    def gallery(self) -> tuple[Tensor, Tensor]:
        """References and their classes."""
        return (self.x, self.labels) if self.y is None or self.y_labels is None else (self.y, self.y_labels)

    def max_relevant(self) -> int:
        """Return the largest R."""
        return int(self.gallery[1].bincount().max()) - (self.y is None)


def matmul(data: Data) -> float:
    """Compute the whole product in float32, in tiles that fit the cache."""
    buffer = torch.empty(1024, 2048)
    for rows in data.x.split(1024):
        for columns in data.gallery[0].split(2048):
            torch.mm(rows, columns.T, out=buffer[: len(rows), : len(columns)])
    return math.nan


def ours(data: Data) -> float:
    from ccpml.retrieval import evaluate

    return evaluate(data.x, data.labels, data.y, data.y_labels).map_at_r


def torch_topk(data: Data) -> float:
    """Compute the product chunk by chunk, and topk."""
    y, _ = data.gallery
    found, k, rows = [], _num_neighbors(data), max(1, CHUNK_ELEMENTS // len(y))
    half_squares = y.square().sum(dim=1) / 2
    for part in data.x.split(rows):
        found.append(torch.sub(part @ y.T, half_squares).topk(k, dim=1).indices)
    return _map_at_r(data, torch.cat(found))


def faiss_search(data: Data) -> float:
    _faiss(data)
    return math.nan


def faiss_metrics(data: Data) -> float:
    return _map_at_r(data, torch.from_numpy(_faiss(data)))


def _faiss(data: Data) -> Any:
    import faiss

    index = faiss.IndexFlatL2(data.x.shape[1])
    index.add(data.gallery[0].numpy())
    return index.search(data.x.numpy(), _num_neighbors(data))[1]


def pml(data: Data) -> float:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(
            LpDistance(normalize_embeddings=False), batch_size=max(1, CHUNK_ELEMENTS // len(data.gallery[0]))
        ),
    )
    scores = calculator.get_accuracy(data.x, data.labels, data.y, data.y_labels)
    return float(scores["mean_average_precision_at_r"])


def oml(data: Data) -> float:
    """Run its own search and metrics; its map@k is not MAP@R."""
    library = torch.library.Library("torchvision", "DEF")  # its import needs operators that the CPU build lacks
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from oml.functional.metrics import calc_retrieval_metrics
    from oml.retrieval.retrieval_results import batched_knn

    k, queries = data.max_relevant(), torch.arange(len(data.x))
    x, labels, gallery = data.x, data.labels, queries
    if data.y is not None and data.y_labels is not None:
        x, labels = torch.cat([data.x, data.y]), torch.cat([data.labels, data.y_labels])
        gallery = torch.arange(len(data.x), len(x))
    _, found, hits = batched_knn(x, queries, gallery, top_n=k, labels_gt=labels)
    calc_retrieval_metrics(
        found, hits, cmc_top_k=(1, 2, 4, 8), precision_top_k=(1,), map_top_k=(k,), reduce=True, verbose=False
    )
    return math.nan


def _num_neighbors(data: Data) -> int:
    """Return the number of neighbors to search: the largest R or the 8 of Recall@8, and the query itself if present."""
    return min(max(data.max_relevant(), 8) + (data.y is None), len(data.gallery[0]))


def _map_at_r(data: Data, found: Tensor) -> float:
    """Compute MAP@R from neighbors (Q, k), which may include the query itself."""
    _, classes = data.gallery
    relevant = classes.bincount(minlength=int(data.labels.max()) + 1)[data.labels]
    if data.y is None:
        relevant = relevant - 1
        others = found != torch.arange(len(found))[:, None]
        others[others.all(dim=1), -1] = False
        found = found[others].view(len(found), -1)
    hits = classes[found] == data.labels[:, None]
    ranks = torch.arange(1, found.shape[1] + 1)
    precisions = hits.cumsum(dim=1) / ranks.double() * (hits & (ranks <= relevant[:, None]))
    return float((precisions.sum(dim=1) / relevant)[relevant > 0].mean())


@dataclass(frozen=True)
class Contestant:
    """An implementation of the metrics.

    Attributes:
        title: Name in tables.
        run: Function that computes MAP@R.
        package: Package it requires, if any.
    """

    title: str
    run: Callable[[Data], float]
    package: str | None = None


CONTESTANTS = {
    "ours": Contestant("ccpml evaluate", ours),
    "matmul": Contestant("bare product of all pairs, tiled", matmul),
    "faiss": Contestant("faiss flat search, nothing more", faiss_search, "faiss-cpu"),
    "faiss-metrics": Contestant("faiss flat search and MAP@R in torch", faiss_metrics, "faiss-cpu"),
    "topk": Contestant("product in chunks, topk and MAP@R in torch", torch_topk),
    "pml": Contestant("pytorch-metric-learning", pml, "pytorch-metric-learning"),
    "oml": Contestant("open-metric-learning: its cmc, precision and map", oml, "open-metric-learning"),
}
