"""ProxyNCA++: softmax over all proxies."""

import torch
from torch import Tensor, nn

from ccpml.baselines.proxy_loss import ProxyLoss, cosines
from ccpml.method.checks import check_number
from ccpml.pairwise.indices import Indices, sample_weights

__all__ = ["ProxyNCALoss"]


class ProxyNCALoss(ProxyLoss):
    """ProxyNCA++.

    Mean over samples of −log( Σ_{p ∈ P_y} e^{s(x,p)/T} / Σ_{p ∈ P} e^{s(x,p)/T} ), with s the cosine, P all proxies and
    P_y those of the sample's class: a softmax, with the positive in its denominator. Since ‖x − p‖² = 2 − 2s, a
    temperature T of the cosine is a temperature 2T of the squared distance. References replace P and may be several per
    class; a sample whose class has none is left out of the mean.

    Args:
        num_classes: C.
        embedding_dim: d.
        temperature: T, of the cosine, as in the code of CCP's authors. ProxyNCA++'s authors divide the squared distance
            by 1/9, which is T = 1/18 here.

    Attributes:
        proxies: Shape (C, 1, d), initialized from N(0, 1/64), as by the authors.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> loss = ProxyNCALoss(num_classes=10, embedding_dim=4)
        >>> loss(torch.randn(3, 4), torch.tensor([0, 3, 9])).shape
        torch.Size([])

    Source: Teh et al., "ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component Analysis", ECCV 2020.
    """

    takes_references = True

    def __init__(self, num_classes: int, embedding_dim: int, temperature: float = 0.1) -> None:
        super().__init__(num_classes, embedding_dim)
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def reset_parameters(self) -> None:
        """Draw the proxies from N(0, 1/64)."""
        nn.init.normal_(self.proxies, std=1 / 8)

    def compare(
        self, x: Tensor, labels: Tensor, proxies: Tensor, proxy_labels: Tensor | None, indices_tuple: Indices | None
    ) -> Tensor:
        """Compute the loss; see `ProxyLoss.compare`."""
        if not len(proxies):
            return (x * 0).sum()  # no terms
        logits = cosines(x, proxies) / self.temperature  # (B, M)
        positive = self.same_class(labels, proxy_labels)
        counted = positive.any(1)  # (B,)
        near = positive | ~counted[:, None]  # all proxies for a sample without positives: −log 1, without gradient
        nearby = logits.masked_fill(~near, -torch.inf).logsumexp(1)
        weights = sample_weights(indices_tuple, x, anchors_only=True)
        return (weights * (logits.logsumexp(1) - nearby)).sum() / counted.sum().clamp(min=1)
