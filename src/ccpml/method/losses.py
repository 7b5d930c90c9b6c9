"""The four pair losses ℓ of the paper.

Each takes a batch and its references: the batch itself, or proxies. D are Euclidean distances and S inner
products, both of φ-normalised vectors; P⁺ and P⁻ are the pairs (anchor, reference) of one class and of
different classes. A sample is never paired with itself. The anchor is the sample, the reference the proxy.
A mean over no terms is 0, with zero gradient.

Shapes: B anchors (the batch), M references, d dimensions.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_embeddings, check_labels, check_number, check_references
from ccpml.method.distances import euclidean_distances
from ccpml.method.normalize import lipschitz_normalize

__all__ = [
    "ContrastiveLoss",
    "CosineContrastiveLoss",
    "MultiSimilarityLoss",
    "Normalization",
    "PairLoss",
    "TripletMarginLoss",
]

Normalization = Literal["lipschitz", "l2"] | None


class PairLoss(nn.Module):
    """What the four losses share: normalisation, and which pairs are positive or negative.

    The calling convention is pytorch-metric-learning's, so either library's losses work in the other's place.
    Computed in float32 (float64 for float64 input), under autocast too.

    Args:
        normalize: How embeddings and references are normalised before they are compared: ``"lipschitz"`` (φ,
            the paper's), ``"l2"``, or ``None`` to take them as they are.

    Raises:
        ValueError: If ``normalize`` is none of these.

    Source: Gürbüz et al., WACV 2024, Section 3 and supplement.
    """

    def __init__(self, normalize: Normalization = "lipschitz") -> None:
        super().__init__()
        if normalize not in ("lipschitz", "l2", None):
            raise ValueError(f"normalize: expected 'lipschitz', 'l2' or None, got {normalize!r}")
        self.normalize = normalize

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch against references.

        Args:
            embeddings: The anchors, shape (B, d), un-normalised, floating point.
            labels: Their classes, shape (B,), integer.
            ref_emb: The references, shape (M, d); by default the batch itself, a sample never paired with itself.
            ref_labels: Their classes, shape (M,); given if and only if ``ref_emb`` is.

        Returns:
            The loss, a scalar tensor in float32 (float64 for float64 input).

        Raises:
            ValueError: On a wrong shape or dtype, or if only one of ``ref_emb`` and ``ref_labels`` is given.
        """
        check_embeddings("embeddings", embeddings)
        check_labels("labels", labels, len(embeddings))
        check_references(ref_emb, ref_labels, dim=embeddings.shape[1])
        within_batch = ref_emb is None or ref_emb is embeddings
        ref_emb = embeddings if ref_emb is None else ref_emb
        ref_labels = labels if ref_labels is None else ref_labels
        with torch.autocast(embeddings.device.type, enabled=False):
            dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
            x, y = self._normalized(embeddings.to(dtype)), self._normalized(ref_emb.to(dtype))
            same = labels[:, None] == ref_labels  # (B, M)
            different = ~same
            if within_batch:
                same = same.fill_diagonal_(False)
            return self.compare(x, y, same, different)

    def compare(self, x: Tensor, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compute ℓ from normalised anchors and references; each loss defines it.

        Args:
            x: Normalised anchors, shape (B, d).
            y: Normalised references, shape (M, d).
            positive: P⁺ as a mask, shape (B, M).
            negative: P⁻ as a mask, shape (B, M).
        """
        raise NotImplementedError  # abstract: each loss is its own equation

    def _normalized(self, x: Tensor) -> Tensor:
        if self.normalize == "lipschitz":
            return lipschitz_normalize(x)
        return nn.functional.normalize(x, dim=1) if self.normalize == "l2" else x

    def extra_repr(self) -> str:
        """Show the parameters in ``repr``."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


def _mean_of_nonzero(total: Tensor, count: Tensor) -> Tensor:
    """Give Σ / n, and 0 with zero gradient where there are no terms."""
    return total / count.clamp(min=1).to(total.dtype)


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

    def __init__(
        self, pos_margin: float = 0.0, neg_margin: float = 0.3841, normalize: Normalization = "lipschitz"
    ) -> None:
        super().__init__(normalize)
        check_number("pos_margin", pos_margin)
        check_number("neg_margin", neg_margin)
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin

    def compare(self, x: Tensor, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss.compare`."""
        distances = euclidean_distances(x, y)
        pull = (distances - self.pos_margin).relu() * positive
        push = (self.neg_margin - distances).relu() * negative
        return _mean_of_nonzero(pull.sum(), pull.count_nonzero()) + _mean_of_nonzero(push.sum(), push.count_nonzero())


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

    def compare(self, x: Tensor, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss.compare`."""
        similarities = x @ y.T
        pull = ((1 - 1e-5 - similarities).relu() * positive).sum()
        push = ((similarities - self.margin).relu() * negative).sum()
        return (pull + push) / max(len(x), 1)


class TripletMarginLoss(PairLoss):
    """Triplet: mean over non-zero terms of (D_ap − D_an + m)₊ over all triplets.

    No triplet is ever built. A positive p takes part in c_p violated triplets, the negatives nearer to the
    anchor than D_ap + m; a negative n in c_n of them, the positives with D_ap + m beyond it. So

        Σ (D_ap − D_an + m)₊ = Σ_p c_p (D_ap + m) − Σ_n c_n D_an,

    with the counts read off the anchor's sorted positives. Exact, gradients included (the counts are piecewise
    constant), in O(B · M) memory however many positives a class has.

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

    def __init__(self, margin: float = 0.0961, normalize: Normalization = "lipschitz") -> None:
        super().__init__(normalize)
        check_number("margin", margin)
        self.margin = margin

    def compare(self, x: Tensor, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss.compare`."""
        distances = euclidean_distances(x, y)
        with torch.no_grad():
            by_positive, by_negative, violated = self._counts(distances, positive, negative)
        weight = (by_positive - by_negative).to(distances.dtype)  # (B, M): a pair is positive or negative
        total = torch.sum(weight * distances, dtype=torch.float64 if x.device.type != "mps" else None)
        total = total + self.margin * violated.to(total.dtype)
        return _mean_of_nonzero(total, violated).to(distances.dtype)

    def _counts(self, distances: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count each pair's violated triplets: as positive (B, M), as negative (B, M), and all of them."""
        reach = torch.where(positive, distances + self.margin, -torch.inf)  # (B, M)
        most = int(positive.sum(1).max()) if len(positive) else 0
        reach, column = reach.topk(most, dim=1)  # (B, P), farthest first; −∞ where an anchor has fewer
        reach, column = reach.flip(1).contiguous(), column.flip(1)
        # A negative at D is violated by the positives whose reach exceeds D: those behind its place among them.
        place = torch.searchsorted(reach, distances.contiguous(), right=True)  # (B, M), 0..P
        by_negative = (most - place) * negative
        at_place = place.new_zeros(len(place), most + 1).scatter_add_(1, place, negative.to(place.dtype))
        by_positive = torch.zeros_like(place).scatter_(1, column, at_place.cumsum(1)[:, :most])
        return by_positive * positive, by_negative, by_negative.sum()


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

    def compare(self, x: Tensor, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compute the loss; see `PairLoss.compare`."""
        similarities = x @ y.T
        pull = _log1p_sum_exp(self.alpha * (self.base - similarities), positive) / self.alpha
        push = _log1p_sum_exp(self.beta * (similarities - self.base), negative) / self.beta
        return (pull + push).sum() / max(len(x), 1)


def _log1p_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """Compute log(1 + Σ e^x) over the masked columns of each row, without overflow: (B, M) to (B,)."""
    masked = exponents.masked_fill(~mask, -torch.inf)
    one = masked.new_zeros(len(masked), 1)
    return torch.logsumexp(torch.cat([one, masked], dim=1), dim=1)
