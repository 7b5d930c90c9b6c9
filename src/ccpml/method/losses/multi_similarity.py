"""MS: the multi-similarity loss."""

import torch
from torch import Tensor

from ccpml.method.checks import check_number
from ccpml.method.losses.fast import FastMultiSimilarity
from ccpml.method.pair_loss import Normalization, PairLoss
from ccpml.pairwise.equation import NEGATIVE_FILL, Pairs

__all__ = ["MultiSimilarityLoss"]


class MultiSimilarityLoss(PairLoss):
    """MS, multi-similarity (without mining).

    Mean over anchors of (1/α) log(1 + Σ_{P⁺} e^{α(λ−S)}) + (1/β) log(1 + Σ_{P⁻} e^{β(S−λ)}).

    Args:
        alpha: α, the sharpness on positives: how strongly the least similar ones dominate.
        beta: β, the sharpness on negatives: how strongly the most similar ones dominate.
        base: λ, the inner product that both exponents are measured from.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
        >>> MultiSimilarityLoss(alpha=2, beta=40, base=0.5)(x, torch.tensor([0, 0, 1]))
        tensor(0.6061)

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019; Gürbüz et al., WACV 2024.
    """

    fast = FastMultiSimilarity

    def __init__(
        self, alpha: float = 2.0, beta: float = 40.0, base: float = 0.5, normalize: Normalization = "lipschitz"
    ) -> None:
        super().__init__(normalize)
        check_number("alpha", alpha, above=0)
        check_number("beta", beta, above=0)
        check_number("base", base)
        self.alpha, self.beta, self.base = alpha, beta, base

    def accumulate(self, pairs: Pairs) -> Tensor:
        """Return log Σ e^{α(λ−S)} on P⁺ and log Σ e^{β(S−λ)} on P⁻ of each anchor, (2, B)."""
        pull = torch.where(pairs.positive > 0, self.alpha * (self.base - pairs.values), NEGATIVE_FILL)
        push = torch.where(pairs.negative > 0, self.beta * (pairs.values - self.base), NEGATIVE_FILL)
        return torch.stack([pull.logsumexp(1), push.logsumexp(1)])

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the logarithm of the sum of both."""
        return torch.logaddexp(one, other)

    def loss(self, sums: Tensor) -> Tensor:
        """Return the mean over anchors of (1/α) log(1 + Σ) + (1/β) log(1 + Σ)."""
        pull, push = torch.logaddexp(sums, torch.zeros_like(sums))  # log(1 + Σ)
        return torch.mean(pull / self.alpha + push / self.beta)
