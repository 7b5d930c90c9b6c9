"""What ranks of a process group do together: each a share of the work, and all the whole result."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Share"]


class Share:
    """This process's share of work that is numbered: every n-th piece, with n ranks.

    Args:
        group: The ranks that share; None is this process alone.

    Example:
        >>> alone = Share(None)
        >>> alone.has(torch.arange(3)).tolist(), alone.total(torch.ones(2)).tolist()
        ([True, True, True], [1.0, 1.0])
    """

    def __init__(self, group: "ProcessGroup | None") -> None:
        self._group = group
        self.rank = 0 if group is None else group.rank()
        self.size = 1 if group is None else group.size()

    def has(self, number: Tensor) -> Tensor:
        """Tell which pieces of work are this process's, by their numbers."""
        return number % self.size == self.rank

    def total(self, values: Tensor) -> Tensor:
        """Add up what the ranks have, on each of them."""
        if self._group is None or self.size == 1:
            return values
        summed = values.to(_device(self._group), copy=True)
        torch.distributed.all_reduce(summed, group=self._group)
        return summed.to(values.device)

    def require_same(self, **tensors: Tensor) -> None:
        """Check that the ranks hold the same, bit for bit as far as their sums tell.

        Raises:
            ValueError: On every rank, if they do not; it names the first that differs.
        """
        if self._group is None or self.size == 1:
            return
        own = torch.stack([_digest(tensor) for tensor in tensors.values()]).to(_device(self._group))
        every = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(every, own, group=self._group)
        differs = (torch.stack(every) != every[0]).any(dim=2).any(dim=0).tolist()
        for name, different in zip(tensors, differs, strict=True):
            if different:
                raise ValueError(f"{name}: expected the same on every rank of the group, got others")


def _device(group: "ProcessGroup") -> torch.device:
    """Where the group's tensors must lie."""
    on_gpu = torch.distributed.get_backend(group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _digest(values: Tensor) -> Tensor:
    """Length, and the sum of the bits of all values, each row with a weight of its own, int64, shape (2,)."""
    bits = values.contiguous().view(torch.int32 if values.element_size() == 4 else torch.int64)
    rows = bits.reshape(len(values), -1).sum(dim=1)
    weights = torch.arange(1, 2 * len(rows), 2, device=rows.device)
    return torch.stack([weights.new_tensor(len(rows)), (rows * weights).sum()])
