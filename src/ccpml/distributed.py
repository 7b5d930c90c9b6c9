"""What the ranks of a process group say to each other.

Each rank embeds its part of the batch and then computes the loss of the joined batch, as a single process would.
Without a process group there is one rank, and each function returns what it is given.
"""

from typing import Any

import torch
from torch import Tensor, distributed

__all__ = [
    "all_gather",
    "all_ranks",
    "all_reduce_sum",
    "check_identical",
    "gather_batch",
    "gather_rows",
    "own_rank",
    "rank_range",
    "world_size",
]


def world_size(group: Any = None) -> int:
    """Return the number of ranks of a group, by default of all ranks; 1 without a process group."""
    return distributed.get_world_size(group) if distributed.is_available() and distributed.is_initialized() else 1


def own_rank(group: Any = None) -> int:
    """Return the number of this rank within a group, by default among all ranks; 0 without a process group."""
    return distributed.get_rank(group) if world_size(group) > 1 else 0


def all_ranks() -> Any:
    """Return the process group of all ranks; None if there is one rank."""
    return distributed.group.WORLD if world_size() > 1 else None


def rank_range(count: int, group: Any = None) -> range:
    """Return which of ``count`` items belong to this rank: contiguous ranges, cut as ``torch.chunk`` cuts.

    Args:
        count: Number of items of all ranks.
        group: Process group; by default all ranks.

    Example:
        >>> rank_range(10)  # without a process group
        range(0, 10)
    """
    size = -(-count // world_size(group))
    start = min(count, size * own_rank(group))
    return range(start, min(count, start + size))


def gather_batch(embeddings: Tensor, labels: Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
    """Join the batches of all ranks, so that any loss compares all pairs.

    On each rank, ``loss(*gather_batch(model(images), labels))`` is the loss of a single process on the joined batch.
    Averaged over the ranks, as `torch.nn.parallel.DistributedDataParallel` and Lightning do, the gradients of the
    network and of proxies are those of a single process too.

    Args:
        embeddings: Embeddings of this rank, shape (B, d), with the same B on each rank.
        labels: Classes of the embeddings, shape (B,), int64.
        group: Process group; by default all ranks.

    Returns:
        Embeddings, (W · B, d), and labels, (W · B,), of all W ranks in the order of the ranks. Embeddings in half
        precision become float32.

    Raises:
        ValueError: If the numbers of embeddings and labels differ, or those of the ranks (on an accelerator, the latter
            is a device assertion, so that no step waits for the device).

    Example:
        >>> embeddings, labels = gather_batch(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))  # without a process group
        >>> embeddings.shape
        torch.Size([4, 2])
    """
    for name, value in (("embeddings", embeddings), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")
    if len(embeddings) != len(labels):
        raise ValueError(f"labels: expected {len(embeddings)}, one for each embedding, got {len(labels)}")
    if world_size(group) == 1:
        return embeddings, labels
    counts = torch.cat(all_gather(torch.full((1,), len(embeddings), device=embeddings.device), group))
    if counts.device.type != "cpu":
        torch._assert_async((counts == counts[0]).all(), "embeddings: expected as many on each rank")
    elif (counts != counts[0]).any():
        sizes = ", ".join(map(str, counts.tolist()))
        raise ValueError(f"embeddings: expected as many on each rank, got {sizes}; leave out the last, smaller batch")
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))  # as losses do
    joined: Tensor = _Gather.apply(embeddings, group)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return joined, torch.cat(all_gather(labels, group))


def gather_rows(rows: Tensor, group: Any = None) -> Tensor:
    """Join the rows (n, ...) of all ranks, of which n may differ, in the order of the ranks, without gradients.

    Example:
        >>> gather_rows(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    if world_size(group) == 1:
        return rows
    counts = torch.cat(all_gather(torch.tensor([len(rows)], device=rows.device), group)).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    return torch.cat([part[:count] for part, count in zip(all_gather(padded, group), counts, strict=True)])


def all_gather(x: Tensor, group: Any = None) -> list[Tensor]:
    """Return the tensors of all ranks, which have the same shape, in the order of the ranks, without gradients.

    They are on the device of ``x``, whatever the device on which the group communicates.
    """
    if world_size(group) == 1:
        return [x]
    own = x.detach().to(_device(x, group)).contiguous()
    parts = [torch.empty_like(own) for _ in range(world_size(group))]
    distributed.all_gather(parts, own, group=group)
    return [part.to(x.device) for part in parts]


def all_reduce_sum(x: Tensor, group: Any = None) -> Tensor:
    """Return the sum of a tensor over the ranks."""
    if world_size(group) == 1:
        return x
    total = x.to(_device(x, group), copy=True)
    distributed.all_reduce(total, group=group)
    return total.to(x.device)


def check_identical(group: Any = None, **tensors: Tensor) -> None:
    """Check that all ranks hold the same tensors, of 4 or 8 bytes per element, by digests of their bits.

    Raises:
        ValueError: On every rank, if a tensor differs between ranks; it names the first that does.
    """
    if world_size(group) == 1:
        return
    digests = torch.stack([_digest(tensor) for tensor in tensors.values()])  # (tensors, 2)
    ranks = torch.stack(all_gather(digests, group))
    different = (ranks != ranks[0]).any(dim=2).any(dim=0).tolist()
    for name, differs in zip(tensors, different, strict=True):
        if differs:
            raise ValueError(f"{name}: expected the same tensor on every rank of the group, got different ones")


def _digest(values: Tensor) -> Tensor:
    """Return the length and a sum of all bits in which each row has its own weight, int64, (2,)."""
    bits = values.contiguous().view(torch.int32 if values.element_size() == 4 else torch.int64)
    rows = bits.reshape(len(values), -1).sum(dim=1)
    weights = torch.arange(1, 2 * len(rows), 2, device=rows.device)
    return torch.stack([weights.new_tensor(len(rows)), (rows * weights).sum()])


def _device(x: Tensor, group: Any) -> torch.device:
    """Return the device on which the group can exchange a tensor."""
    backend = distributed.get_backend(group)
    if backend == "nccl" and not x.is_cuda:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if backend == "gloo" else x.device


class _Gather(torch.autograd.Function):
    """Gather with gradients.

    Each rank has the gradient of the whole and takes its own part, times the number of ranks: the average over ranks,
    where the other ranks contribute nothing to this part, is then its sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.count = group, len(x)
        return torch.cat(all_gather(x, group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = own_rank(ctx.group) * ctx.count
        return gradients[0][start : start + ctx.count] * world_size(ctx.group), None
