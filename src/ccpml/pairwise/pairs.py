"""All pairs of a batch and its references, a block of references at a time.

A pair loss is a function of the values v_ij of its pairs, distances or inner products, through a few sums over the
references. So one pass over blocks of references takes the sums, a second one the gradient; between them at most
`_KEPT` values are kept, and beyond that they are computed again. Ranks that hold a part of the references each
need only exchange the sums and the gradient of the anchors.

Shapes: B anchors (the batch), M references, m references of a block, d dimensions, P positives of an anchor at most.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, distributed

from ccpml.distributed import all_gather
from ccpml.pairwise.distances import euclidean_distances

__all__ = ["NEGATIVE_FILL", "Pairs", "ReferenceSet", "Terms", "fill_where_zero", "pair_loss"]

_KEPT = 2**25
"""Values kept from the first pass to the second: 128 MiB in float32."""

_BLOCK = {"cpu": 2**17, "cuda": 2**24}
"""Pairs of a block, so that what is done to it stays in the cache, or keeps a GPU busy."""


NEGATIVE_FILL = -1e30
"""Below all values. Not −∞: 0 times it is 0."""


def fill_where_zero(mask: Tensor, values: Tensor, otherwise: float = NEGATIVE_FILL) -> Tensor:
    """Give values where a mask is 1, and about ``otherwise``, `NEGATIVE_FILL` or its opposite, where it is 0."""
    return torch.add(values, 1 - mask, alpha=otherwise)


class Pairs(NamedTuple):
    """Pairs of all anchors with a block of references.

    Attributes:
        values: Distances D or inner products S, shape (B, m).
        positive: P⁺, the pairs of one class, a sample with itself left out: 1 there, 0 elsewhere, (B, m).
        negative: P⁻, the pairs of different classes, likewise. Numbers, as it is several times faster to multiply by
            them than to choose by a mask.
        positive_columns: Columns of the positives within the block, in the order of ``positive_distances``, (B, P);
            −1 for one that is not of the block.
    """

    values: Tensor
    positive: Tensor
    negative: Tensor
    positive_columns: Tensor


class Terms(Protocol):
    """What `pair_loss` asks of a loss."""

    @property
    def distances(self) -> bool:
        """Whether its values are distances D, or else inner products S."""

    def accumulate(self, pairs: Pairs, positive_distances: Tensor) -> Tensor:
        """Take what the loss needs to know of a block of pairs; sums of blocks are put together by ``merge``."""

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Put together the sums of two blocks."""

    def loss(self, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Give ℓ, a scalar."""

    def gradient(self, pairs: Pairs, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Give ∂ℓ/∂v of each pair of a block, (B, m)."""


_Values = Iterable[tuple[slice, Tensor]]
"""Which references a block has, and the values of their pairs, (B, m)."""


@dataclass(frozen=True)
class ReferenceSet:
    """What a batch is compared with.

    Attributes:
        labels: Classes of the anchors, (B,).
        ref_labels: Classes of the references, (M,).
        normalize: How references are normalised, a block (m, d) at a time.
        within: Whether they are the batch itself: a sample is never paired with itself.
        most_positives: P, of what the loss must know the farthest positives; 0 if it need not.
        group: The ranks that hold a part of the references each; None if all are here.
    """

    labels: Tensor
    ref_labels: Tensor
    normalize: Callable[[Tensor], Tensor]
    within: bool = False
    most_positives: int = 0
    group: Any = None

    def positive(self, rows: slice, values: Tensor) -> Tensor:
        """Tell P⁺ of a block of references, whose values are given, (B, m)."""
        positive = torch.eq(self.labels[:, None], self.ref_labels[rows], out=torch.empty_like(values))
        return positive.fill_diagonal_(0) if self.within else positive

    def pairs(self, rows: slice, values: Tensor, positive_columns: Tensor) -> Pairs:
        """Return the pairs of a block of references."""
        positive = self.positive(rows, values)
        negative = 1 - positive
        if self.within:
            negative.fill_diagonal_(0)
        here = (positive_columns >= rows.start) & (positive_columns < rows.stop)
        return Pairs(values, positive, negative, torch.where(here, positive_columns - rows.start, -1))


def pair_loss(terms: Terms, x: Tensor, y: Tensor, references: ReferenceSet) -> Tensor:
    """Compute ℓ of anchors against references.

    Args:
        terms: The loss.
        x: Normalised anchors, shape (B, d), float32 or float64.
        y: References, shape (M, d), not yet normalised, of the same dtype.
        references: Their classes, and what else there is to know of them.

    Returns:
        ℓ, a scalar tensor, of which gradients of first order can be taken. With a group: of all its ranks' references,
        the same on each rank; the gradient of ``x`` is of all of them too, that of ``y`` of its own.
    """
    loss: Tensor = _PairLoss.apply(x, y, terms, references)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return loss


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, terms: Terms, references: ReferenceSet) -> Tensor:
        blocks: _Values = _Blocks(terms, x.detach(), y.detach(), references)
        if len(x) * len(y) <= _KEPT:
            blocks = list(blocks)
        ctx.save_for_backward(x, y)
        ctx.terms, ctx.references, ctx.blocks = terms, references, blocks
        ctx.positive_distances, ctx.positive_columns = _positives(x, blocks, references)
        sums = [
            terms.accumulate(references.pairs(rows, values, ctx.positive_columns), ctx.positive_distances)
            for rows, values in blocks
        ]
        ctx.sums = reduce(terms.merge, _of_all_ranks(reduce(terms.merge, sums), references.group))
        return terms.loss(ctx.sums, ctx.positive_distances).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: what follows would be left out of the graph, silently
            raise RuntimeError("a pair loss has gradients of first order alone; take them without create_graph")
        x, y = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        grad_x = torch.zeros_like(x) if needs_x else None
        grad_y = torch.empty_like(y) if needs_y else None
        with torch.autocast(x.device.type, enabled=False):
            for rows, values in ctx.blocks:
                pairs = ctx.references.pairs(rows, values, ctx.positive_columns)
                slopes = ctx.terms.gradient(pairs, ctx.sums, ctx.positive_distances).mul_(gradients[0])  # (B, m)
                if ctx.terms.distances:  # ∂D/∂x = (x − y) / D, which is 0 where the two meet
                    apart = torch.gt(values, 0, out=torch.empty_like(values))
                    slopes = slopes.mul_(apart).div_(values.clamp(min=torch.finfo(values.dtype).tiny))
                with torch.enable_grad():
                    raw = y[rows].detach().requires_grad_(needs_y)
                    vectors = ctx.references.normalize(raw)  # (m, d)
                if grad_x is not None:
                    _add_anchors(grad_x, slopes, x, vectors.detach(), ctx.terms.distances)
                if grad_y is not None:
                    through = slopes.T @ x  # (m, d)
                    if ctx.terms.distances:
                        through.neg_().addcmul_(vectors.detach(), slopes.sum(0)[:, None])
                    grad_y[rows] = torch.autograd.grad(vectors, raw, through)[0]
        if grad_x is not None and ctx.references.group is not None:
            distributed.all_reduce(grad_x, group=ctx.references.group)
        return grad_x, grad_y, None, None


def _add_anchors(grad_x: Tensor, slopes: Tensor, x: Tensor, vectors: Tensor, distances: bool) -> None:
    """Add a block's share of ∂ℓ/∂x."""
    grad_x.addmm_(slopes, vectors, alpha=-1 if distances else 1)
    if distances:
        grad_x.addcmul_(x, slopes.sum(1)[:, None])


@dataclass(frozen=True)
class _Blocks:
    """The values of all pairs, block by block, computed anew each time they are gone through."""

    terms: Terms
    x: Tensor
    y: Tensor
    references: ReferenceSet

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        x, y, references = self.x, self.y, self.references
        pairs = _BLOCK.get(x.device.type, _BLOCK["cpu"])
        size = max(1, len(y)) if references.within else max(256, pairs // max(1, len(x)))
        for start in range(0, max(1, len(y)), size):
            rows = slice(start, start + size)
            vectors = references.normalize(y[rows])  # (m, d)
            yield rows, euclidean_distances(x, vectors) if self.terms.distances else x @ vectors.T


def _positives(x: Tensor, blocks: _Values, references: ReferenceSet) -> tuple[Tensor, Tensor]:
    """Find each anchor's positives: their values, rising, and which of this rank's references they are, (B, P) both.

    Where there are fewer than P the first values are `NEGATIVE_FILL`; their places, and those on other ranks, are −1.
    """
    most = references.most_positives
    found, places = x.new_empty(len(x), 0), references.labels.new_empty(len(x), 0, dtype=torch.int64)
    if most == 0:
        return found, places
    for rows, values in blocks:
        some, columns = fill_where_zero(references.positive(rows, values), values).topk(
            min(most, values.shape[1]), dim=1
        )
        found, places = torch.cat([found, some], dim=1), torch.cat([places, columns + rows.start], dim=1)
        found, order = found.topk(min(most, found.shape[1]), dim=1)
        places = places.gather(1, order)
    missing = (0, most - found.shape[1])
    found = torch.nn.functional.pad(found, missing, value=NEGATIVE_FILL)
    places = torch.nn.functional.pad(places, missing, value=-1)
    ranks = _of_all_ranks(found, references.group)
    mine = 0 if references.group is None else distributed.get_rank(references.group)
    found, order = torch.cat(ranks, dim=1).topk(most, dim=1)
    others = torch.full_like(places, -1)
    places = torch.cat([places if rank == mine else others for rank in range(len(ranks))], dim=1).gather(1, order)
    places = places.masked_fill(found < NEGATIVE_FILL / 2, -1)  # not positives at all
    return found.flip(1).contiguous(), places.flip(1)


def _of_all_ranks(tensor: Tensor, group: Any) -> list[Tensor]:
    """Give what all ranks that hold references have; without a group this one has them all."""
    return [tensor] if group is None else all_gather(tensor, group)
