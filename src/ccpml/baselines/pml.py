"""Losses of pytorch-metric-learning that compute what a rival's paper does, given the proxies by the rival.

The library's losses own their proxies: each under another name, transposed, renamed between versions, and cast in
place to the dtype of whatever batch comes. Here the proxies are the rival's, lent to the loss for each call, so
that checkpoints and precision do not depend on the library. Imported only where such a loss is built.
"""

import math
from typing import Any

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["ExternalProxyLoss", "arcface", "soft_triple"]


class ExternalProxyLoss(nn.Module):
    """A loss of pytorch-metric-learning without proxies of its own: it has no parameters and no state.

    Args:
        loss: The loss.
        name: What it calls its proxies, stored as (d, C · K).

    Raises:
        RuntimeError: If the loss has no such parameter, or others beside it.
    """

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        if [own for own, _ in loss.named_parameters()] != [name]:
            raise RuntimeError(
                f"{type(loss).__name__} of this pytorch-metric-learning does not keep its proxies as {name!r}; "
                "install pytorch-metric-learning<3"
            )
        loss.register_parameter(name, None)
        self.loss = loss
        self.name = name

    def forward(self, x: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
        """Compute the loss of a batch (B, d) with these proxies (C · K, d), of the same dtype."""
        if not len(x):
            return (x.sum() + proxies.sum()) * 0  # no terms
        loss: Tensor = functional_call(self.loss, {self.name: proxies.T}, (x, labels))
        return loss


class _OpenCosine(CosineSimilarity):  # type: ignore[misc]  # the library is untyped
    """The cosine, kept within (−1, 1): at ±1 the angle's gradient is infinite, and NaN once multiplied by 0."""

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        cosines: Tensor = super().compute_mat(query_emb, ref_emb)
        most = 1 - torch.finfo(cosines.dtype).eps
        return cosines.clamp(-most, most)


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
    """Build SoftTriple without the centres' regulariser."""
    options = {"centers_per_class": centers_per_class, "la": scale, "gamma": gamma, "margin": margin}
    return ExternalProxyLoss(losses.SoftTripleLoss(num_classes, embedding_dim, **options), "fc")
