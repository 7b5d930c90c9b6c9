"""The four pair losses ℓ of the paper.

Each takes a batch and its references: the batch itself, or proxies. D are Euclidean distances and S inner
products, both of φ-normalised vectors; P⁺ and P⁻ are the pairs (anchor, reference) of one class and of
different classes. A sample is never paired with itself. The anchor is the sample, the reference the proxy.
A mean over no terms is 0, with zero gradient.

Each loss is written as `ccpml.pairwise.pairs` asks for it: sums over a block of references, its value from all sums,
and its slopes, the derivatives by D or S. Time and memory grow with B · M, memory only up to a limit.

Shapes: B anchors (the batch), M references, m of a block of them, d dimensions, P positives of an anchor at most.
"""

import math

import torch
from torch import Tensor

from ccpml.method.checks import check_number
from ccpml.method.pair_loss import Normalization, PairLoss
from ccpml.pairwise.pairs import NEGATIVE_FILL, Pairs, fill_where_zero

__all__ = [
    "ContrastiveLoss",
    "CosineContrastiveLoss",
    "MultiSimilarityLoss",
    "TripletMarginLoss",
]

_SEARCH_THRESHOLD = 16
"""Up to so many positives of an anchor, comparing with one after the other is faster than a search among them."""


def _total(terms: Tensor) -> Tensor:
    """Sum all terms, in float64 where the device has it."""
    return terms.sum(dtype=None if terms.device.type == "mps" else torch.float64)


def _above(values: Tensor, bound: float) -> Tensor:
    """Give 1 where a value exceeds a bound, else 0, in the values' dtype."""
    return torch.gt(values, bound, out=torch.empty_like(values))


def _mean_of_nonzero(total: Tensor, count: Tensor) -> Tensor:
    """Give Σ / n, and 0 where there are no terms."""
    return total / count.clamp(min=1)


class ContrastiveLoss(PairLoss):
    """C2, contrastive with positive margin.

    Mean over its non-zero terms of (D − m⁺)₊ on P⁺, plus mean over its non-zero terms of (m⁻ − D)₊ on P⁻.

    Args:
        pos_margin: m⁺, a distance; positives nearer than this are left alone.
        neg_margin: m⁻, a distance; negatives farther than this are left alone.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of its range.

    Example:
        >>> loss = ContrastiveLoss(pos_margin=0.0, neg_margin=0.5)
        >>> x = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.0, 0.1]])
        >>> loss(x, torch.tensor([0, 0, 1]))  # 0.5 on P⁺; 0.4, 0.4 and 0.0757, 0.0757 on P⁻
        tensor(0.7379)

    Source: Gürbüz et al., WACV 2024, supplement; the parameters per data set are in its experiments.
    """

    distances = True

    def __init__(
        self, pos_margin: float = 0.0, neg_margin: float = 0.3841, normalize: Normalization = "lipschitz"
    ) -> None:
        super().__init__(normalize)
        check_number("pos_margin", pos_margin)
        check_number("neg_margin", neg_margin)
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin

    def accumulate(self, pairs: Pairs, positive_distances: Tensor) -> Tensor:
        """Take Σ and number of the non-zero terms on P⁺ and on P⁻, (4,)."""
        pull = (pairs.values - self.pos_margin).relu_().mul_(pairs.positive)
        push = (self.neg_margin - pairs.values).relu_().mul_(pairs.negative)
        sums = _total(pull), pull.count_nonzero(), _total(push), push.count_nonzero()
        return torch.stack([x.to(sums[0].dtype) for x in sums])

    def loss(self, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss`."""
        return _mean_of_nonzero(sums[0], sums[1]) + _mean_of_nonzero(sums[2], sums[3])

    def gradient(self, pairs: Pairs, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute 1 / n⁺ on the non-zero terms of P⁺, −1 / n⁻ on those of P⁻."""
        each = 1 / sums[1::2].clamp(min=1).to(pairs.values.dtype)
        pull = _above(pairs.values, self.pos_margin).mul_(pairs.positive).mul_(each[0])
        push = _above(-pairs.values, -self.neg_margin).mul_(pairs.negative).mul_(each[1])
        return pull.sub_(push)


class CosineContrastiveLoss(PairLoss):
    """C1, contrastive on inner products, as cross-batch memory uses it.

    [ Σ_{P⁺} (1 − S − 1e-5)₊ + Σ_{P⁻} (S − m)₊ ] / n, n the number of anchors.

    Args:
        margin: m, an inner product; negatives less similar than this are left alone.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of its range.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
        >>> CosineContrastiveLoss(margin=0.5)(x, torch.tensor([0, 0, 1]))  # (2·0.4 + 2·0.3 + 2·0.46) / 3
        tensor(0.7733)

    Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020; Gürbüz et al., WACV 2024.
    """

    def __init__(self, margin: float = 0.5, normalize: Normalization = "lipschitz") -> None:
        super().__init__(normalize)
        check_number("margin", margin)
        self.margin = margin

    def accumulate(self, pairs: Pairs, positive_distances: Tensor) -> Tensor:
        """Take the sum of all terms, ()."""
        pull = (1 - 1e-5 - pairs.values).relu_().mul_(pairs.positive)
        push = (pairs.values - self.margin).relu_().mul_(pairs.negative)
        return _total(pull.add_(push))

    def loss(self, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss`."""
        return sums / max(len(positive_distances), 1)

    def gradient(self, pairs: Pairs, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute −1 / n on the non-zero terms of P⁺, 1 / n on those of P⁻."""
        pull = _above(-pairs.values, 1e-5 - 1).mul_(pairs.positive)
        push = _above(pairs.values, self.margin).mul_(pairs.negative)
        return push.sub_(pull).div_(max(len(positive_distances), 1))


class TripletMarginLoss(PairLoss):
    """Triplet: mean over non-zero terms of (D_ap − D_an + m)₊ over all triplets.

    No triplet is ever stored. A positive p takes part in c_p violated triplets, the negatives nearer to the
    anchor than its reach D_ap + m; a negative n in c_n of them, the positives whose reach exceeds D_an. So
    ∂Σ/∂D_ap = c_p and ∂Σ/∂D_an = −c_n: exact, in O(B · M) memory however many positives a class has.

    Args:
        margin: m, a distance.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of its range.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.0, 0.5]])
        >>> TripletMarginLoss(margin=0.1)(x, torch.tensor([0, 0, 1]))  # (0.1, and 0.5 − 0.3162 + 0.1) / 2
        tensor(0.1919)

    Source: Gürbüz et al., WACV 2024, supplement.
    """

    distances = True
    ranks_positives = True

    def __init__(self, margin: float = 0.0961, normalize: Normalization = "lipschitz") -> None:
        super().__init__(normalize)
        check_number("margin", margin)
        self.margin = margin

    def accumulate(self, pairs: Pairs, positive_distances: Tensor) -> Tensor:
        """Take Σ and number of the non-zero terms of each positive, (2, B, P)."""
        reach = positive_distances + self.margin
        negatives = fill_where_zero(pairs.negative, pairs.values, -NEGATIVE_FILL)
        precise = reach.dtype if reach.device.type == "mps" else torch.float64
        if reach.shape[1] <= _SEARCH_THRESHOLD:
            sums = reach.new_empty(2, *reach.shape, dtype=precise)
            for one, (total, count) in zip(reach.unbind(1), sums.unbind(2), strict=True):
                terms = (one[:, None] - negatives).relu_()
                total.copy_(terms.sum(1))
                count.copy_(terms.sign_().sum(1))
            return sums
        place = torch.searchsorted(reach, negatives, right=True)  # (B, m), 0..P
        weights = torch.stack([pairs.values * pairs.negative, pairs.negative]).to(precise)
        sums = weights.new_zeros(2, len(reach), reach.shape[1] + 1)
        near, count = sums.scatter_add_(2, place.expand(2, -1, -1), weights).cumsum(2)[:, :, :-1]  # (B, P)
        return torch.stack([torch.where(count > 0, count * reach - near, 0), count])

    def loss(self, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss`."""
        return _mean_of_nonzero(*sums.sum((1, 2)))

    def gradient(self, pairs: Pairs, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute c_p / n on P⁺ and −c_n / n on P⁻, n the number of violated triplets."""
        reach, negatives = (
            positive_distances + self.margin,
            fill_where_zero(pairs.negative, pairs.values, -NEGATIVE_FILL),
        )
        slopes = self._violations(negatives, reach).neg_()
        if slopes.shape[1]:
            counts = sums[1].to(slopes.dtype) * (pairs.positive_columns >= 0)  # (B, P)
            slopes.scatter_add_(1, pairs.positive_columns.clamp(min=0), counts)
        return slopes.mul_(1 / sums[1].sum().clamp(min=1).to(slopes.dtype))

    @staticmethod
    def _violations(negatives: Tensor, reach: Tensor) -> Tensor:
        """Count the positives of the anchor whose reach D_ap + m exceeds each negative's distance, (B, m)."""
        if reach.shape[1] > _SEARCH_THRESHOLD:
            return (reach.shape[1] - torch.searchsorted(reach, negatives, right=True)).to(negatives.dtype)
        counts, nearer = torch.zeros_like(negatives), torch.empty_like(negatives)
        for one in reach.unbind(1):
            counts += torch.lt(negatives, one[:, None], out=nearer)
        return counts


class MultiSimilarityLoss(PairLoss):
    """MS, multi-similarity (without mining).

    Mean over anchors of (1/α) log(1 + Σ_{P⁺} e^{α(λ−S)}) + (1/β) log(1 + Σ_{P⁻} e^{β(S−λ)}).

    Args:
        alpha: α, how sharply the least similar positives count.
        beta: β, how sharply the most similar negatives count.
        base: λ, the inner product from which both are measured.
        normalize: See `PairLoss`.

    Raises:
        ValueError: If a parameter is out of its range.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
        >>> MultiSimilarityLoss(alpha=2, beta=40, base=0.5)(x, torch.tensor([0, 0, 1]))
        tensor(0.6061)

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019; Gürbüz et al., WACV 2024.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 40.0,
        base: float = 0.5,
        normalize: Normalization = "lipschitz",
    ) -> None:
        super().__init__(normalize)
        check_number("alpha", alpha, above=0)
        check_number("beta", beta, above=0)
        check_number("base", base)
        self.alpha = alpha
        self.beta = beta
        self.base = base

    def accumulate(self, pairs: Pairs, positive_distances: Tensor) -> Tensor:
        """Take log Σ over P⁺ and over P⁻ of each anchor, (2, B); −∞ where there are no terms."""
        found = []
        for exponents, mask in self._exponents(pairs):
            largest = (exponents.relu() * mask).amax(1) if exponents.shape[1] else exponents.sum(1)
            found.append(_exp(exponents - largest[:, None], mask).sum(1).log() + largest)
        return torch.stack(found)

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Put together the sums of two blocks, as logarithms."""
        return torch.logaddexp(one, other)

    def loss(self, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss`."""
        pull, push = _log1p_exp(sums)
        total: Tensor = (pull / self.alpha + push / self.beta).sum()
        return total / max(len(positive_distances), 1)

    def gradient(self, pairs: Pairs, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute −e^{α(λ−S)} / (1 + Σ) on P⁺ and e^{β(S−λ)} / (1 + Σ) on P⁻, over the number of anchors."""
        pull, push = (
            _exp(exponents - whole[:, None], mask)
            for (exponents, mask), whole in zip(self._exponents(pairs), _log1p_exp(sums), strict=True)
        )
        return push.sub_(pull).div_(max(len(positive_distances), 1))

    def _exponents(self, pairs: Pairs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Give α(λ−S) and where P⁺ is, β(S−λ) and where P⁻ is, (B, m) each."""
        pull, push = self.alpha * (self.base - pairs.values), self.beta * (pairs.values - self.base)
        return (pull, pairs.positive), (push, pairs.negative)


def _log1p_exp(x: Tensor) -> Tensor:
    """Compute log(1 + e^x) without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """Compute e^x, x ≤ 0, where a mask is 1; in place. Results too small to be precise, and slow, are left out."""
    least = math.log(torch.finfo(exponents.dtype).tiny) + 8
    return exponents.clamp_(least, 0).exp_().mul_(mask)
