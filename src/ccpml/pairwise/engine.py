"""All pairs of a batch and its references, a block of references at a time.

A pair loss is a function of the values of its pairs, distances or inner products, through a few sums over the
references. One pass over blocks of references accumulates the sums, a second one the gradient. Up to
`MAX_CACHED_VALUES` values are kept in between; beyond that they are computed again. Ranks that hold a part of the
references each exchange only the sums and the gradient of the anchors.

Shapes: B anchors (the batch), M references, m references of a block, d dimensions, P positives of an anchor at most.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ccpml.distributed import own_rank
from ccpml.pairwise.derivatives import ByAutograd, check_first_order, check_no_transform, parts_of_ranks, sum_over_ranks
from ccpml.pairwise.distances import euclidean_distances
from ccpml.pairwise.equation import NEGATIVE_FILL, FastEquation, PairEquation, Pairs, fill_where_zero

__all__ = ["ReferenceSet", "pair_loss"]

MAX_CACHED_VALUES = 2**25
"""Maximum number of pair values cached for the backward pass: 128 MiB in float32."""

_BLOCK = {"cpu": 2**17, "cuda": 2**24}
"""Pairs of a block: few enough for a CPU's cache, enough to keep a GPU busy."""


@dataclass(frozen=True)
class ReferenceSet:
    """The references a batch is compared with.

    Attributes:
        labels: Classes of the anchors, (B,).
        ref_labels: Classes of the references, (M,).
        normalize: Normalizes a block of references, (m, d).
        within: Whether the references are the batch itself; a sample is never paired with itself.
        ignored: Rows of references of an anchor's class that it is not paired with, (B, I); −1 for none. None if each
            anchor is paired with all references.
        max_positives: P, an upper bound; 0 if the equation does not use the positives' distances.
        group: The process group whose ranks hold a part of the references each; None if all are on this rank.
    """

    labels: Tensor
    ref_labels: Tensor
    normalize: Callable[[Tensor], Tensor]
    within: bool = False
    ignored: Tensor | None = None
    max_positives: int = 0
    group: Any = None

    def positive(self, rows: slice, values: Tensor) -> Tensor:
        """Return P⁺ of a block of references, (B, m), in the dtype of its values."""
        return self._drop_ignored(self._same_class(rows, values), rows)

    def pairs(self, rows: slice, values: Tensor, positive_distances: Tensor, positive_columns: Tensor) -> Pairs:
        """Return the pairs of a block of references, given their values and the positives among all references."""
        same = self._same_class(rows, values)
        negative = 1 - same
        self._exclude_self(negative, rows)
        positive = self._drop_ignored(same, rows)
        here = (positive_columns >= rows.start) & (positive_columns < rows.stop)
        return Pairs(
            values, positive, negative, positive_distances, torch.where(here, positive_columns - rows.start, -1)
        )

    def _same_class(self, rows: slice, values: Tensor) -> Tensor:
        """Return 1 where anchor and reference are of one class, (B, m)."""
        same = torch.eq(self.labels.long()[:, None], self.ref_labels[rows].long(), out=torch.empty_like(values))
        self._exclude_self(same, rows)
        return same

    def _exclude_self(self, mask: Tensor, rows: slice) -> None:
        if self.within:
            mask.diagonal(-rows.start).zero_()

    def _drop_ignored(self, positive: Tensor, rows: slice) -> Tensor:
        """Set ignored references, which are 1, to 0, in place."""
        if self.ignored is None or not positive.shape[1]:
            return positive
        columns = self.ignored - rows.start  # (B, I)
        here = (columns >= 0) & (columns < positive.shape[1])
        return positive.scatter_add_(1, columns.where(here, 0), -here.to(positive.dtype))


_Blocks = Iterable[tuple[slice, Tensor]]
"""The rows of the references in each block, and the values of its pairs, (B, m)."""


def pair_loss(
    equation: PairEquation, x: Tensor, y: Tensor, references: ReferenceSet, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Compute ℓ of normalized anchors ``x`` against references ``y``, not yet normalized, with first-order gradients.

    With a group, ℓ is that against the references of all ranks, the same on each. So are the gradients of ``x`` and the
    trainable parameters of the equation; that of ``y`` is of this rank's own references. ℓ of an empty batch is 0.
    """
    check_no_transform("pair loss")
    if len(x) == 0:
        return (x.sum() + y.sum()) * 0
    loss: Tensor = _PairLoss.apply(x, y, equation, references, *parameters)  # type: ignore[no-untyped-call]
    return loss


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, equation: PairEquation, references: ReferenceSet, *parameters: Tensor
    ) -> Tensor:
        blocks: _Blocks = _ComputedBlocks(equation, x.detach(), y.detach(), references)
        if len(x) * len(y) <= MAX_CACHED_VALUES:
            blocks = list(blocks)
        ctx.save_for_backward(x, y, *parameters)
        ctx.equation, ctx.references, ctx.blocks = equation, references, blocks
        ctx.positives = _positives(x, blocks, references)
        sums = [equation.accumulate(references.pairs(rows, values, *ctx.positives)) for rows, values in blocks]
        ranks = parts_of_ranks(reduce(equation.merge, sums), references.group)
        total = reduce(equation.merge, ranks)
        ctx.sums = total if isinstance(equation, FastEquation) else (sums, ranks)
        return equation.loss(total).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_first_order("pair loss")
        x, y, *parameters = ctx.saved_tensors
        equation, references, by_distance = ctx.equation, ctx.references, ctx.equation.uses_distances
        needs_x, needs_y = ctx.needs_input_grad[:2]
        grad_x = torch.zeros_like(x) if needs_x else None
        grad_y = torch.empty_like(y) if needs_y else None
        with torch.autocast(x.device.type, enabled=False):
            by_autograd = None
            if not isinstance(equation, FastEquation):
                (block_sums, rank_sums), group = ctx.sums, references.group
                every = (references.pairs(rows, values, *ctx.positives) for rows, values in ctx.blocks)
                needed = every if references.max_positives else ()
                by_autograd = ByAutograd(equation, parameters, block_sums, rank_sums, needed, group)
            for block, (rows, values) in enumerate(ctx.blocks):
                pairs = references.pairs(rows, values, *ctx.positives)
                slopes = by_autograd.gradient(block, pairs) if by_autograd else equation.gradient(pairs, ctx.sums)
                slopes.mul_(gradients[0])  # (B, m)
                if by_distance:  # ∂D/∂x = (x − y) / D, and 0 where D = 0
                    apart = torch.gt(values, 0, out=torch.empty_like(values))
                    slopes = slopes.mul_(apart).div_(values.clamp(min=torch.finfo(values.dtype).tiny))
                with torch.enable_grad():
                    raw = y[rows].detach().requires_grad_(needs_y)
                    vectors = references.normalize(raw)  # (m, d)
                if grad_x is not None:
                    grad_x.addmm_(slopes, vectors.detach(), alpha=-1 if by_distance else 1)
                    if by_distance:
                        grad_x.addcmul_(x, slopes.sum(1)[:, None])
                if grad_y is not None:
                    through = slopes.T @ x  # (m, d)
                    if by_distance:
                        through.neg_().addcmul_(vectors.detach(), slopes.sum(0)[:, None])
                    grad_y[rows] = torch.autograd.grad(vectors, raw, through)[0]
            if grad_x is not None:
                sum_over_ranks(grad_x, references.group)
            by_parameters = by_autograd.by_parameters(gradients[0]) if by_autograd else ()
            return grad_x, grad_y, None, None, *by_parameters


@dataclass(frozen=True)
class _ComputedBlocks:
    """The values of all pairs, block by block, computed again in each iteration."""

    equation: PairEquation
    x: Tensor
    y: Tensor
    references: ReferenceSet

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        x, y, references = self.x, self.y, self.references
        size = max(256, _BLOCK.get(x.device.type, _BLOCK["cpu"]) // len(x))
        if not isinstance(self.equation, FastEquation):  # a definition may compare every positive with every reference
            size = max(1, size // max(1, references.max_positives))
        elif references.within:
            size = max(1, len(y))
        for start in range(0, max(1, len(y)), size):
            rows = slice(start, start + size)
            vectors = references.normalize(y[rows])  # (m, d)
            yield rows, euclidean_distances(x, vectors) if self.equation.uses_distances else x @ vectors.T


def _positives(x: Tensor, blocks: _Blocks, references: ReferenceSet) -> tuple[Tensor, Tensor]:
    """Find each anchor's positives: their distances, ascending, and their rows among this rank's references.

    Both are of shape (B, P). An anchor with fewer than P has `NEGATIVE_FILL` first; rows are −1 there, and for
    references of other ranks.
    """
    limit = references.max_positives
    distances, rows = x.new_empty(len(x), 0), references.labels.new_empty(len(x), 0, dtype=torch.int64)
    if limit == 0:
        return distances, rows
    for block, values in blocks:
        some, columns = fill_where_zero(references.positive(block, values), values).topk(
            min(limit, values.shape[1]), dim=1
        )
        distances, rows = torch.cat([distances, some], dim=1), torch.cat([rows, columns + block.start], dim=1)
        distances, order = distances.topk(min(limit, distances.shape[1]), dim=1)
        rows = rows.gather(1, order)
    missing = (0, limit - distances.shape[1])
    distances = torch.nn.functional.pad(distances, missing, value=NEGATIVE_FILL)
    rows = torch.nn.functional.pad(rows, missing, value=-1)
    ranks = parts_of_ranks(distances, references.group)
    mine = 0 if references.group is None else own_rank(references.group)
    distances, order = torch.cat(ranks, dim=1).topk(limit, dim=1)
    absent = torch.full_like(rows, -1)
    rows = torch.cat([rows if rank == mine else absent for rank in range(len(ranks))], dim=1).gather(1, order)
    rows = rows.masked_fill(distances < NEGATIVE_FILL / 2, -1)  # padding
    return distances.flip(1).contiguous(), rows.flip(1)
