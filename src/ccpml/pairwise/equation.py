"""What a pair loss defines: its equation as sums over blocks of pairs, and the loss from their total.

Shapes: B anchors (the batch), m references of a block, P positives of an anchor at most.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "NEGATIVE_FILL",
    "FastEquation",
    "PairEquation",
    "Pairs",
    "fill_where_zero",
    "mean_of_nonzero",
    "precise_sum",
    "sum_and_count",
]

NEGATIVE_FILL = -1e30
"""Below every value; not −∞, since 0 · (−∞) is NaN."""


class Pairs(NamedTuple):
    """Pairs of all anchors with a block of references.

    Attributes:
        values: Distances D or inner products S, shape (B, m).
        positive: P⁺: 1 where anchor and reference are of one class, else 0, (B, m). A sample is never paired with
            itself. For pairs given by index, how often each was given.
        negative: P⁻, pairs of different classes, likewise. Numbers rather than a bool mask: multiplying is several
            times faster than selecting.
        positive_distances: Values of the anchor's positives (inner products unless ``uses_distances``) among the
            references of all blocks, ascending, (B, P); `NEGATIVE_FILL` where an anchor has fewer than P. Shape (B, 0)
            unless ``uses_positive_distances``.
        positive_columns: Columns of those positives within the block, (B, P); −1 where in another block.
    """

    values: Tensor
    positive: Tensor
    negative: Tensor
    positive_distances: Tensor
    positive_columns: Tensor


class PairEquation:
    """ℓ = loss(Σ over blocks of accumulate(block)).

    Both methods are plain differentiable PyTorch, and these two are enough: gradients follow by autograd, block by
    block, in bounded memory, whether the references are the batch, proxies, or shards of proxies on several ranks.
    """

    uses_distances: bool = False
    """Whether ``pairs.values`` are Euclidean distances D; otherwise inner products S."""

    uses_positive_distances: bool = False
    """Whether ``pairs.positive_distances`` is needed, as by losses over triplets."""

    def accumulate(self, pairs: Pairs) -> Tensor:
        """Compute the sums over a block of pairs that the loss depends on, of any fixed shape."""
        raise NotImplementedError(f"{type(self).__name__}: accumulate(pairs) is not defined")

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Combine the sums of two blocks; by default, add them."""
        return one + other

    def loss(self, sums: Tensor) -> Tensor:
        """Compute ℓ, a scalar, from the sums over all references."""
        raise NotImplementedError(f"{type(self).__name__}: loss(sums) is not defined")


class FastEquation(PairEquation):
    """The equation of a pair loss (its definition) and B anchors, with the derivative in closed form.

    It needs no graph and may compute in place.
    """

    def __init__(self, definition: PairEquation, anchors: int) -> None:
        self.definition = definition
        self.uses_distances = definition.uses_distances
        self.uses_positive_distances = definition.uses_positive_distances
        self.anchors = anchors

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Combine the sums of two blocks as the definition does."""
        return self.definition.merge(one, other)

    def loss(self, sums: Tensor) -> Tensor:
        """Compute ℓ as the definition does, if its sums are of the same form."""
        return self.definition.loss(sums)

    def gradient(self, pairs: Pairs, sums: Tensor) -> Tensor:
        """Compute ∂ℓ/∂values of a block, (B, m), given the sums over all references."""
        raise NotImplementedError  # abstract: each loss has its own derivative


def fill_where_zero(mask: Tensor, values: Tensor, fill: float = NEGATIVE_FILL) -> Tensor:
    """Return values where a mask is 1 and about ``fill``, `NEGATIVE_FILL` or its opposite, where it is 0."""
    return torch.add(values, 1 - mask, alpha=fill)


def precise_sum(terms: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Sum terms in float64 where the device supports it."""
    return terms.sum(dim, dtype=None if terms.device.type == "mps" else torch.float64)


def sum_and_count(terms: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of terms ≥ 0 and the weighted number of non-zero ones, shape (2,)."""
    return torch.stack([precise_sum(terms * weights), precise_sum((terms > 0) * weights)])


def mean_of_nonzero(total: Tensor, count: Tensor) -> Tensor:
    """Return total / count, or 0 without terms."""
    return total / count.clamp(min=1)
