"""Several processes, a rank each, that train one network on one batch.

Each rank embeds its part of the batch and then computes the loss of the whole: what a single process would compute. A
rank without a process group is alone, and everything here gives back what it was given.
"""

from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["all_gather", "gather_batch", "gather_rows", "share_of"]


def gather_batch(embeddings: Tensor, labels: Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
    """Join the batches of all ranks, so that any loss compares all pairs.

    ``loss(*gather_batch(model(images), labels))`` on each rank is the loss of a single process on the joined batch, and
    so are the gradients, of the network and of proxies alike, once they are averaged over the ranks, as
    `torch.nn.parallel.DistributedDataParallel` and Lightning do.

    Args:
        embeddings: This rank's embeddings, shape (B, d), as many on each rank.
        labels: Their classes, shape (B,), int64.
        group: The process group; by default all ranks.

    Returns:
        Embeddings and labels of all ranks, in the order of the ranks, (W · B, d) and (W · B,); the embeddings in
        float32 where they were of less precision. Without a process group, what was given.

    Raises:
        ValueError: If embeddings and labels are not as many.

    Example:
        >>> embeddings, labels = gather_batch(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))  # alone
        >>> embeddings.shape
        torch.Size([4, 2])
    """
    if len(embeddings) != len(labels):
        raise ValueError(f"labels: expected {len(embeddings)}, one for each embedding, got {len(labels)}")
    if _world(group) == 1:
        return embeddings, labels
    if embeddings.dtype in {torch.float16, torch.bfloat16}:  # losses compute in float32 anyway
        embeddings = embeddings.float()
    joined: Tensor = _Gather.apply(embeddings, group)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return joined, torch.cat(all_gather(labels, group))


def gather_rows(rows: Tensor, group: Any = None) -> Tensor:
    """Join the rows of all ranks, of which each may have another number; without gradients.

    Args:
        rows: This rank's, shape (n, ...).
        group: The process group; by default all ranks.

    Returns:
        The rows of all ranks in the order of the ranks, the same on each. Without a process group, what was given.

    Example:
        >>> gather_rows(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    if _world(group) == 1:
        return rows
    counts = torch.cat(all_gather(torch.tensor([len(rows)], device=rows.device), group)).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    return torch.cat([part[:count] for part, count in zip(all_gather(padded, group), counts, strict=True)])


def share_of(count: int, group: Any = None) -> range:
    """Say which of ``count`` things are this rank's: contiguous shares, cut as ``torch.chunk`` cuts.

    Args:
        count: How many there are for all ranks.
        group: The process group; by default all ranks.

    Example:
        >>> share_of(10)  # alone
        range(0, 10)
    """
    size = -(-count // _world(group))
    start = min(count, size * (distributed.get_rank(group) if _world(group) > 1 else 0))
    return range(start, min(count, start + size))


class _Gather(torch.autograd.Function):
    """Gather; the gradient of the whole is the same on each rank, which takes its part of it.

    Times the number of ranks, as it will be averaged with those of ranks that have other parts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.count = group, len(x)
        return torch.cat(all_gather(x, group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = distributed.get_rank(ctx.group) * ctx.count
        return gradients[0][start : start + ctx.count] * _world(ctx.group), None


def _world(group: Any) -> int:
    return distributed.get_world_size(group) if distributed.is_available() and distributed.is_initialized() else 1


def all_gather(x: Tensor, group: Any) -> list[Tensor]:
    """Give the tensors of all ranks, which are of one shape, in the order of the ranks; without gradients."""
    parts = [torch.empty_like(x) for _ in range(_world(group))]
    distributed.all_gather(parts, x.detach().contiguous(), group=group)
    return parts
