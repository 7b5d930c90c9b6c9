"""The base class of losses with their own proxies: the proxies, the checks and the precision.

Shapes: B samples (the batch), C classes, K proxies per class, M references, d dimensions.
"""

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_call
from ccpml.method.metric_loss import MetricLoss, working_dtype
from ccpml.method.normalize import l2_normalize
from ccpml.numbers import as_int
from ccpml.pairwise.indices import Indices, check_indices
from ccpml.pairwise.inputs import check_device

__all__ = ["ProxyLoss", "cosines"]


class ProxyLoss(MetricLoss):
    """A loss between the batch and trainable proxies, by cosines.

    The proxies are a parameter of this module; pass it to the optimizer together with the model. They are stored as
    they are; each loss compares ℓ₂-normalized vectors. A loss over no terms is 0, with zero gradient.

    Args:
        num_classes: C, the number of training classes, labeled 0..C − 1.
        embedding_dim: d.
        centers_per_class: K.

    Attributes:
        proxies: A parameter of shape (C, K, d), as in `CCPLoss`; K = 1 for a loss with one proxy per class.

    Raises:
        ValueError: If a size is not a positive integer.
    """

    takes_references = False

    def __init__(self, num_classes: int, embedding_dim: int, centers_per_class: int = 1) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "centers_per_class": centers_per_class, "embedding_dim": embedding_dim}
        self.proxies = nn.Parameter(torch.empty([as_int(name, size, 1) for name, size in sizes.items()]))  # (C, K, d)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the proxies again, as the authors of the loss do."""
        raise NotImplementedError  # abstract: each paper has its own

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch; see `MetricLoss`.

        As the loss compares samples with proxies, pairs or triplets weight the samples: by how often each occurs, over
        the largest count, as in pytorch-metric-learning. References are used instead of the proxies, where the loss is
        defined for that: `ProxyAnchorLoss` and `ProxyNCALoss`; labels may then be any integers.
        """
        classes, _, dim = self.proxies.shape
        check_call(embeddings, labels, ref_emb, ref_labels, dim, classes if ref_emb is None else None)
        if ref_emb is not None and not self.takes_references:
            raise ValueError(f"ref_emb: expected none, since {type(self).__name__} compares only with its own proxies")
        if indices_tuple is not None:
            check_indices(indices_tuple, len(embeddings), len(embeddings if ref_emb is None else ref_emb))
        proxies = self.proxies.flatten(0, 1) if ref_emb is None else ref_emb  # (C · K, d) or (M, d)
        check_device("proxies", proxies, embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            dtype = working_dtype(embeddings, proxies)
            x, proxies = embeddings.to(dtype), proxies.to(dtype)
            return self.compare(x, labels.long(), proxies, ref_labels, indices_tuple)

    def compare(
        self, x: Tensor, labels: Tensor, proxies: Tensor, proxy_labels: Tensor | None, indices_tuple: Indices | None
    ) -> Tensor:
        """Compute the loss.

        Args:
            x: The batch, shape (B, d), not normalized.
            labels: Classes of the batch, shape (B,).
            proxies: Proxies, class by class, shape (C · K, d), or references instead; not normalized.
            proxy_labels: Classes of the references; None for the proxies of the loss.
            indices_tuple: Pairs or triplets that weight the samples, if any.
        """
        raise NotImplementedError  # abstract: each loss has its own equation

    def same_class(self, labels: Tensor, proxy_labels: Tensor | None) -> Tensor:
        """Return which proxies are of a sample's class: bool, shape (B, C · K) or (B, M)."""
        if proxy_labels is None:
            classes, per_class, _ = self.proxies.shape
            proxy_labels = torch.arange(classes, device=labels.device).repeat_interleave(per_class)
        return labels[:, None] == proxy_labels

    def extra_repr(self) -> str:
        """Return sizes and parameters for ``repr``."""
        return f"proxies={tuple(self.proxies.shape)}, {super().extra_repr()}"


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosine of each row of ``x`` with each row of ``y``: (B, d) and (M, d) to (B, M)."""
    return l2_normalize(x) @ l2_normalize(y).T
