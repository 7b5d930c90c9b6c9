"""C1: contrastive loss on cosine."""

from torch import Tensor

from ccpml.method.checks import check_number
from ccpml.method.losses.fast import FastCosineContrastive
from ccpml.method.pair_loss import Normalization, PairLoss
from ccpml.pairwise.equation import Pairs, precise_sum

__all__ = ["CosineContrastiveLoss"]


class CosineContrastiveLoss(PairLoss):
    """C1, contrastive on cosine, as cross-batch memory uses it.

    [ Σ_{P⁺} (1 − S − 1e-5)₊ + Σ_{P⁻} (S − m)₊ ] / n, where n is the number of anchors.

    Args:
        margin: m, an inner product. Negatives less similar than this have no effect.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
        >>> CosineContrastiveLoss(margin=0.5)(x, torch.tensor([0, 0, 1]))  # (2·0.4 + 2·0.3 + 2·0.46) / 3
        tensor(0.7733)

    Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020; Gürbüz et al., WACV 2024.
    """

    fast = FastCosineContrastive

    def __init__(self, margin: float = 0.5, normalize: Normalization = "lipschitz") -> None:
        super().__init__(normalize)
        check_number("margin", margin)
        self.margin = margin

    def accumulate(self, pairs: Pairs) -> Tensor:
        """Return the sum of the terms of each anchor, (B,)."""
        pull = (1 - pairs.values - 1e-5).relu() * pairs.positive
        push = (pairs.values - self.margin).relu() * pairs.negative
        return precise_sum(pull + push, 1)

    def loss(self, sums: Tensor) -> Tensor:
        """Return the mean over anchors."""
        return sums.mean()
