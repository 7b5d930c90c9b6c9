"""∂ℓ/∂values of the pairs of each block by autograd, from the definition of a loss."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, distributed

from ccpml.distributed import all_gather, own_rank
from ccpml.pairwise.equation import PairEquation, Pairs

__all__ = ["ByAutograd", "check_first_order", "check_no_transform", "parts_of_ranks", "sum_over_ranks"]


class ByAutograd:
    """The derivative by autograd: once from ℓ to the sums of each block, then from these to its values.

    Args:
        equation: The loss.
        parameters: Its parameters.
        block_sums: The sums over each block of this rank.
        rank_sums: The sums over the references of each rank.
        pairs: The pairs of each block; none unless the equation uses the positives' distances.
        group: The process group whose ranks hold a part of the references each, if any.
    """

    def __init__(
        self,
        equation: PairEquation,
        parameters: list[Tensor],
        block_sums: list[Tensor],
        rank_sums: list[Tensor],
        pairs: Iterable[Pairs],
        group: Any,
    ) -> None:
        self.equation, self.group = equation, group
        self.needed = [parameter.requires_grad for parameter in parameters]
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        other_ranks = [] if group is None else [one for rank, one in enumerate(rank_sums) if rank != own_rank(group)]
        with torch.enable_grad():
            sums = [one.detach().requires_grad_() for one in block_sums]
            loss = equation.loss(reduce(equation.merge, [*sums, *other_ranks]))
        by_sums = _gradients(loss, [*sums, *self.parameters])
        self.upstream, self.by_loss = by_sums[: len(sums)], by_sums[len(sums) :]
        self.by_blocks = [torch.zeros_like(parameter) for parameter in self.parameters]
        # The distance of a positive is part of the terms of every block, on every rank.
        parts = [self._of_block(block, some)[1] for block, some in enumerate(pairs)]
        self.by_positives = None if not parts else sum_over_ranks(torch.stack(parts).sum(0), group)  # (B, P)

    def gradient(self, block: int, pairs: Pairs) -> Tensor:
        """Return ∂ℓ/∂values of a block, (B, m), and add its part to the gradients of the parameters."""
        by_values, _, *by_parameters = self._of_block(block, pairs)
        self.by_blocks = [total + part for total, part in zip(self.by_blocks, by_parameters, strict=True)]
        if self.by_positives is None or not by_values.shape[1]:
            return by_values.clone()
        in_block = self.by_positives * (pairs.positive_columns >= 0)  # (B, P)
        return by_values.scatter_add(1, pairs.positive_columns.clamp(min=0), in_block)

    def by_parameters(self, upstream: Tensor) -> list[Tensor | None]:
        """Return the gradients of the parameters; None for those that need none."""
        sums = [sum_over_ranks(of_blocks, self.group) for of_blocks in self.by_blocks]
        grads = iter([(of_blocks + of_loss) * upstream for of_blocks, of_loss in zip(sums, self.by_loss, strict=True)])
        return [next(grads) if needed else None for needed in self.needed]

    def _of_block(self, block: int, pairs: Pairs) -> tuple[Tensor, ...]:
        """Return the derivatives by the values of a block, by the positives' distances, and by the parameters."""
        with torch.enable_grad():
            values, positives = (v.detach().requires_grad_() for v in (pairs.values, pairs.positive_distances))
            sums = self.equation.accumulate(pairs._replace(values=values, positive_distances=positives))
        inputs = [values, positives, *self.parameters]
        return _gradients(sums, inputs, self.upstream[block])


def _gradients(output: Tensor, inputs: list[Tensor], upstream: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the gradients of an output, which may be constant, by each input."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(output, inputs, upstream, materialize_grads=True)


def parts_of_ranks(tensor: Tensor, group: Any) -> list[Tensor]:
    """Return the tensors of all ranks that hold references; without a group, this rank's alone."""
    return [tensor] if group is None else all_gather(tensor, group)


def sum_over_ranks(tensor: Tensor, group: Any) -> Tensor:
    """Sum a tensor, in place, over the ranks that hold references."""
    if group is not None:
        distributed.all_reduce(tensor, group=group)
    return tensor


def check_first_order(name: str) -> None:
    """Raise RuntimeError in a backward pass with ``create_graph``, out of whose graph ours would be left, silently."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name}: expected create_graph=False, as only first-order gradients are supported")


def check_no_transform(name: str) -> None:
    """Raise RuntimeError within a transform of torch.func, which first-order gradients of our own do not support."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{name}: expected no transform of torch.func (grad, vmap, jvp ...), got one; use backward() or "
            "torch.autograd.grad"
        )
