"""ArcFace and its variant with several centers per class."""

import math

from torch import Tensor, nn

from ccpml.baselines.proxy_loss import ProxyLoss
from ccpml.method.checks import check_number
from ccpml.numbers import is_finite
from ccpml.pairwise.indices import Indices

__all__ = ["ArcFaceLoss", "SubCenterArcFaceLoss"]


class SubCenterArcFaceLoss(ProxyLoss):
    """SubCenter-ArcFace: ArcFace with K centers per class; the angle to a class is that to its nearest center.

    Mean over samples of −log( e^{s a(θ_y)} / (e^{s a(θ_y)} + Σ_{c ≠ y} e^{s cos θ_c}) ), with θ_c the smallest angle
    between the embedding and a center of class c, and a(θ) = cos(θ + m), or cos θ − m sin m where θ + m > π.
    Computed by pytorch-metric-learning; cosines are kept away from ±1, where the gradient is infinite.

    Args:
        num_classes: C.
        embedding_dim: d.
        margin: m, an angle in radians: 0.5 is 28.6 degrees.
        scale: s.
        centers_per_class: K.

    Attributes:
        proxies: The centers, shape (C, K, d), initialized from N(0, 0.01²), as by the authors.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> import torch
        >>> loss = SubCenterArcFaceLoss(num_classes=10, embedding_dim=4)
        >>> loss(torch.randn(3, 4), torch.tensor([0, 3, 9])).shape
        torch.Size([])

    Source: Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", ECCV 2020.
    """

    def __init__(
        self, num_classes: int, embedding_dim: int, margin: float = 0.5, scale: float = 64, centers_per_class: int = 3
    ) -> None:
        super().__init__(num_classes, embedding_dim, centers_per_class)
        check_number("scale", scale, above=0)
        if not (is_finite(margin) and 0 <= margin < math.pi):
            raise ValueError(f"margin: expected an angle in radians, 0 <= margin < π, got {margin!r}")
        from ccpml.baselines.pml import arcface

        self.classification = arcface(num_classes, embedding_dim, centers_per_class, margin, scale)

    def reset_parameters(self) -> None:
        """Draw the centers from N(0, 0.01²)."""
        nn.init.normal_(self.proxies, std=0.01)

    def compare(
        self, x: Tensor, labels: Tensor, proxies: Tensor, proxy_labels: Tensor | None, indices_tuple: Indices | None
    ) -> Tensor:
        """Compute the loss; see `ProxyLoss.compare`."""
        loss: Tensor = self.classification(x, labels, proxies, indices_tuple)
        return loss


class ArcFaceLoss(SubCenterArcFaceLoss):
    """ArcFace: softmax over classes, with a margin added to the angle to the sample's own class.

    It is `SubCenterArcFaceLoss` with one center per class, and has its other arguments: proxies are (C, 1, d).

    Example:
        >>> import torch
        >>> loss = ArcFaceLoss(num_classes=10, embedding_dim=4)
        >>> loss(torch.randn(3, 4), torch.tensor([0, 3, 9])).shape
        torch.Size([])

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.
    """

    def __init__(self, num_classes: int, embedding_dim: int, margin: float = 0.5, scale: float = 64) -> None:
        super().__init__(num_classes, embedding_dim, margin, scale, centers_per_class=1)
