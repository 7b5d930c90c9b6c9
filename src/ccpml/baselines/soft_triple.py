"""SoftTriple: several centers per class; the similarity to a class is a soft maximum over its centers."""

import torch
from torch import Tensor, nn

from ccpml.baselines.proxy_loss import ProxyLoss
from ccpml.method.checks import check_number
from ccpml.method.normalize import l2_normalize
from ccpml.pairwise.indices import Indices

__all__ = ["SoftTripleLoss"]


class SoftTripleLoss(ProxyLoss):
    """SoftTriple.

    Mean over samples of −log( e^{λ(S_y − δ)} / (e^{λ(S_y − δ)} + Σ_{c ≠ y} e^{λ S_c}) ), where the similarity to a
    class is S_c = Σ_k softmax_k(s(x, w_ck)/γ) s(x, w_ck) over its centers, s the cosine; plus τ times the regularizer

        Σ_c Σ_{j<k} √(2 + 1e-5 − 2 s(w_cj, w_ck)) / (C K (K − 1)),

    which pulls the centers of a class together. The first part is computed by pytorch-metric-learning, the second
    within each class, in O(C K²) memory.

    Args:
        num_classes: C.
        embedding_dim: d.
        scale: λ.
        gamma: γ.
        tau: τ.
        margin: δ.
        centers_per_class: K.

    Attributes:
        proxies: The centers, shape (C, K, d), initialized uniformly from ±1/√(C K), as by the authors.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> loss = SoftTripleLoss(num_classes=10, embedding_dim=4, centers_per_class=2)
        >>> loss(torch.randn(3, 4), torch.tensor([0, 3, 9])).shape
        torch.Size([])

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019, equations 6 to 9.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        scale: float = 20,
        gamma: float = 0.1,
        tau: float = 0.2,
        margin: float = 0.01,
        centers_per_class: int = 10,
    ) -> None:
        super().__init__(num_classes, embedding_dim, centers_per_class)
        check_number("scale", scale, above=0)
        check_number("gamma", gamma, above=0)
        check_number("margin", margin)
        check_number("tau", tau)
        if tau < 0:
            raise ValueError(f"tau: expected a finite number of at least 0, got {tau!r}")
        from ccpml.baselines.pml import soft_triple

        self.tau = tau
        self.classification = soft_triple(num_classes, embedding_dim, centers_per_class, scale, gamma, margin)

    def reset_parameters(self) -> None:
        """Draw the centers uniformly from ±1/√(C K)."""
        classes, centers, _ = self.proxies.shape
        bound = (classes * centers) ** -0.5
        nn.init.uniform_(self.proxies, -bound, bound)

    def compare(
        self, x: Tensor, labels: Tensor, proxies: Tensor, proxy_labels: Tensor | None, indices_tuple: Indices | None
    ) -> Tensor:
        """Compute the loss; see `ProxyLoss.compare`."""
        loss: Tensor = self.classification(x, labels, proxies, indices_tuple)
        if self.tau and self.proxies.shape[1] > 1:
            loss = loss + self.tau * self._spread(proxies.view(self.proxies.shape))
        return loss

    def _spread(self, centers: Tensor) -> Tensor:
        """Compute the regularizer, half the mean distance between two centers of a class: (C, K, d) to a scalar."""
        classes, per_class, _ = centers.shape
        unit = l2_normalize(centers)
        one, other = torch.triu_indices(per_class, per_class, offset=1, device=centers.device)
        similarities = (unit @ unit.mT)[:, one, other]  # (C, K (K − 1) / 2)
        return (2 + 1e-5 - 2 * similarities).sqrt().sum() / (classes * per_class * (per_class - 1))
