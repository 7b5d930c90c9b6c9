"""C2: contrastive loss with a positive margin."""

import math

import torch
from torch import Tensor

from ccpml.method.checks import check_number
from ccpml.method.losses.fast import FastContrastive
from ccpml.method.pair_loss import Normalization, PairLoss
from ccpml.pairwise.equation import Pairs, mean_of_nonzero, sum_and_count

__all__ = ["ContrastiveLoss"]


class ContrastiveLoss(PairLoss):
    """C2, contrastive with positive margin.

    Mean over its non-zero terms of (D − m⁺)₊ on P⁺, plus mean over its non-zero terms of (m⁻ − D)₊ on P⁻.

    Args:
        pos_margin: m⁺, a distance. Positives closer than this have no effect.
        neg_margin: m⁻, a distance. Negatives farther than this have no effect.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> loss = ContrastiveLoss(pos_margin=0.0, neg_margin=0.5)
        >>> x = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.0, 0.1]])
        >>> loss(x, torch.tensor([0, 0, 1]))  # 0.5 on P⁺; 0.4, 0.4 and 0.0757, 0.0757 on P⁻
        tensor(0.7379)

    Source: Gürbüz et al., WACV 2024, supplement; the parameters per data set are in its experiments.
    """

    uses_distances = True
    fast = FastContrastive

    def __init__(
        self, pos_margin: float = 0.0, neg_margin: float = 0.3841, normalize: Normalization = "lipschitz"
    ) -> None:
        super().__init__(normalize)
        check_number("pos_margin", pos_margin)
        check_number("neg_margin", neg_margin)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    @property
    def starting_length(self) -> float:
        """The mean length at which unrelated embeddings are at a distance of m⁻, unless only directions are compared.

        The loss pushes them no further apart, while the first proxies hold them as far apart as they start. Centered
        embeddings in many dimensions are almost orthogonal, so their distance is √2 times their length.
        """
        if self.normalize == "l2" or self.neg_margin <= 0:
            return super().starting_length
        return self.neg_margin / math.sqrt(2)

    def accumulate(self, pairs: Pairs) -> Tensor:
        """Return Σ and number of the non-zero terms on P⁺ and on P⁻, (2, 2)."""
        pull = (pairs.values - self.pos_margin).relu()  # (D − m⁺)₊
        push = (self.neg_margin - pairs.values).relu()  # (m⁻ − D)₊
        return torch.stack([sum_and_count(pull, pairs.positive), sum_and_count(push, pairs.negative)])

    def loss(self, sums: Tensor) -> Tensor:
        """Return the mean on P⁺ plus the mean on P⁻."""
        return mean_of_nonzero(*sums[0]) + mean_of_nonzero(*sums[1])
