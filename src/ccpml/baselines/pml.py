"""Adapters for pytorch-metric-learning losses that match the baseline papers, called with the baseline's proxies.

The losses of that library own their proxies: each under another name, transposed, renamed between versions, and cast in
place to the dtype of the batch. Here the baseline owns the proxies and passes them to each call, so that checkpoints
and precision do not depend on the library. This module is imported only when such a loss is built.
"""

import math
from typing import Any

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor, nn
from torch.func import functional_call

from ccpml.method.normalize import l2_normalize
from ccpml.pairwise.derivatives import check_no_transform
from ccpml.pairwise.indices import Indices

__all__ = ["ExternalProxyLoss", "arcface", "soft_triple"]


class ExternalProxyLoss(nn.Module):
    """A loss of pytorch-metric-learning whose proxies are an argument: it has no parameters and no state.

    Raises RuntimeError unless ``name``, that of its proxies, of shape (d, C · K), is its only parameter.
    """

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        found = [own for own, _ in loss.named_parameters()]
        if found != [name]:
            raise RuntimeError(
                f"{type(loss).__name__} of pytorch-metric-learning: expected {name!r} as its only parameter, "
                f"got {found}; install pytorch-metric-learning<3"
            )
        loss.register_parameter(name, None)
        self.loss = loss
        self.name = name

    def forward(self, x: Tensor, labels: Tensor, proxies: Tensor, indices_tuple: Indices | None = None) -> Tensor:
        """Compute the loss of a batch (B, d) with these proxies (C · K, d), of the same dtype."""
        check_no_transform(type(self.loss).__name__)  # the library assigns to ``.data``
        if not len(x):
            return (x.sum() + proxies.sum()) * 0  # no terms
        loss: Tensor = functional_call(self.loss, {self.name: proxies.T}, (x, labels, indices_tuple))
        return loss


class _Cosine(CosineSimilarity):  # type: ignore[misc]  # the library is untyped
    """The cosine, also of vectors whose squared length overflows: the library's own would be 0."""

    def normalize(self, embeddings: Tensor, dim: int = 1, **options: Any) -> Tensor:
        return l2_normalize(embeddings)


class _OpenCosine(_Cosine):
    """The cosine, clamped to (−1, 1): at ±1 the gradient of the angle is infinite, and NaN once multiplied by 0."""

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        cosines: Tensor = super().compute_mat(query_emb, ref_emb)
        limit = 1 - torch.finfo(cosines.dtype).eps
        return cosines.clamp(-limit, limit)


def arcface(
    num_classes: int, embedding_dim: int, centers_per_class: int, margin: float, scale: float
) -> ExternalProxyLoss:
    """Build (SubCenter-)ArcFace; ``margin`` in radians."""
    options: dict[str, Any] = {"margin": math.degrees(margin), "scale": scale, "distance": _OpenCosine()}
    if centers_per_class > 1:
        options["sub_centers"] = centers_per_class
    kind = losses.SubCenterArcFaceLoss if centers_per_class > 1 else losses.ArcFaceLoss
    return ExternalProxyLoss(kind(num_classes=num_classes, embedding_size=embedding_dim, **options), "W")


def soft_triple(
    num_classes: int, embedding_dim: int, centers_per_class: int, scale: float, gamma: float, margin: float
) -> ExternalProxyLoss:
    """Build SoftTriple without the regularizer of the centers."""
    options: dict[str, Any] = {"centers_per_class": centers_per_class, "la": scale, "gamma": gamma, "margin": margin}
    options["distance"] = _Cosine()
    return ExternalProxyLoss(losses.SoftTripleLoss(num_classes, embedding_dim, **options), "fc")
