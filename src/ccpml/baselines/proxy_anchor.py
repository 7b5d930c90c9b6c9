"""ProxyAnchor: proxies are the anchors, samples of the batch their positives and negatives."""

import torch
from torch import Tensor, nn

from ccpml.baselines.proxy_loss import ProxyLoss, cosines
from ccpml.method.checks import check_number
from ccpml.pairwise.indices import Indices, sample_weights

__all__ = ["ProxyAnchorLoss"]


class ProxyAnchorLoss(ProxyLoss):
    """ProxyAnchor.

    (1/|P⁺|) Σ_{p ∈ P⁺} log(1 + Σ_{x ∈ X_p⁺} e^{−α(s(x,p) − δ)})
    + (1/|P|) Σ_{p ∈ P} log(1 + Σ_{x ∈ X_p⁻} e^{α(s(x,p) + δ)}),

    with s the cosine, P all proxies, P⁺ those with a sample of their class in the batch, X_p⁺ and X_p⁻ the samples
    of p's class and of others. References replace P and may be several per class. The weight w of a sample adds w − 1
    to its exponents.

    Args:
        num_classes: C.
        embedding_dim: d.
        margin: δ.
        alpha: α.

    Attributes:
        proxies: Shape (C, 1, d), initialized from N(0, 2/C), as by the authors.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> loss = ProxyAnchorLoss(num_classes=10, embedding_dim=4)
        >>> loss(torch.randn(3, 4), torch.tensor([0, 3, 9])).shape
        torch.Size([])

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, equation 4.
    """

    takes_references = True

    def __init__(self, num_classes: int, embedding_dim: int, margin: float = 0.1, alpha: float = 32) -> None:
        super().__init__(num_classes, embedding_dim)
        check_number("margin", margin)
        check_number("alpha", alpha, above=0)
        self.margin, self.alpha = margin, alpha

    def reset_parameters(self) -> None:
        """Draw the proxies from N(0, 2/C)."""
        nn.init.normal_(self.proxies, std=(2 / len(self.proxies)) ** 0.5)

    def compare(
        self, x: Tensor, labels: Tensor, proxies: Tensor, proxy_labels: Tensor | None, indices_tuple: Indices | None
    ) -> Tensor:
        """Compute the loss; see `ProxyLoss.compare`."""
        similarities = cosines(x, proxies)  # (B, M)
        positive = self.same_class(labels, proxy_labels)
        weights = sample_weights(indices_tuple, x, anchors_only=proxy_labels is not None)[:, None] - 1
        pull = _log1p_sum_exp(self.alpha * (self.margin - similarities) + weights, positive)  # (M,)
        push = _log1p_sum_exp(self.alpha * (self.margin + similarities) + weights, ~positive)
        with_positives = positive.any(0).sum().clamp(min=1)
        return pull.sum() / with_positives + push.sum() / max(len(proxies), 1)


def _log1p_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """Compute log(1 + Σ e^x) over the masked rows of each column, without overflow: (B, M) to (M,)."""
    masked = exponents.masked_fill(~mask, -torch.inf)
    one = masked.new_zeros(1, masked.shape[1])
    return torch.logsumexp(torch.cat([one, masked]), dim=0)
