"""The triplet loss."""

import math

from torch import Tensor

from ccpml.method.checks import check_number
from ccpml.method.losses.fast import FastTriplet
from ccpml.method.pair_loss import Normalization, PairLoss
from ccpml.pairwise.equation import Pairs, mean_of_nonzero, sum_and_count

__all__ = ["TripletMarginLoss"]


class TripletMarginLoss(PairLoss):
    """Triplet: mean over non-zero terms of (D_ap − D_an + m)₊ over all triplets.

    Args:
        margin: m, a distance.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.0, 0.5]])
        >>> TripletMarginLoss(margin=0.1)(x, torch.tensor([0, 0, 1]))  # (0.1, and 0.5 − 0.3162 + 0.1) / 2
        tensor(0.1919)

    Source: Gürbüz et al., WACV 2024, supplement.
    """

    uses_distances = True
    uses_positive_distances = True
    fast = FastTriplet

    def __init__(self, margin: float = 0.0961, normalize: Normalization = "lipschitz") -> None:
        super().__init__(normalize)
        check_number("margin", margin)
        self.margin = margin

    @property
    def starting_length(self) -> float:
        """That of normalized embeddings; without normalization, unrelated ones are at a distance of 4 m.

        The margin is a difference of distances, which asks for no length. The factor is that of the paper's parameters
        for CUB, where m⁻ of C2 is 4 m.
        """
        if self.normalize is not None or self.margin <= 0:
            return super().starting_length
        return 4 * self.margin / math.sqrt(2)

    def accumulate(self, pairs: Pairs) -> Tensor:
        """Return Σ and number of the non-zero terms, (2,)."""
        d_ap, d_an = pairs.positive_distances[:, :, None], pairs.values[:, None, :]
        terms = (d_ap - d_an + self.margin).relu()  # (B, P, m)
        return sum_and_count(terms, pairs.negative[:, None, :])

    def loss(self, sums: Tensor) -> Tensor:
        """Return the mean over the non-zero terms."""
        return mean_of_nonzero(*sums)
