"""This rank's share of numbered work."""

from typing import TYPE_CHECKING

from torch import Tensor

from ccpml.distributed import all_reduce_sum, check_identical, own_rank, world_size

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Share"]


class Share:
    """This rank's share of numbered work: every W-th piece, with W ranks.

    Args:
        group: Process group whose ranks share the work; None if this process works alone, even where there are others.

    Example:
        >>> alone = Share(None)
        >>> [alone.owns(number) for number in range(3)]
        [True, True, True]
    """

    def __init__(self, group: "ProcessGroup | None") -> None:
        self._group = group
        self._rank, self._size = (0, 1) if group is None else (own_rank(group), world_size(group))

    def owns(self, number: int | Tensor) -> bool | Tensor:
        """Whether a piece of work belongs to this rank, by its number; elementwise for a tensor of numbers."""
        return number % self._size == self._rank

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks that share the work."""
        return values if self._group is None else all_reduce_sum(values, self._group)

    def check_identical(self, **tensors: Tensor) -> None:
        """Check that the ranks hold the same tensors.

        Raises:
            ValueError: On every rank, if they do not; it names the first tensor that differs.
        """
        if self._group is not None:
            check_identical(self._group, **tensors)
