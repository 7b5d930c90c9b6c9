"""Pairs and triplets given by index, as the miners of pytorch-metric-learning return them.

Shapes: B anchors (the batch), M references, T triplets.
"""

import torch
from torch import Tensor

from ccpml.pairwise.equation import PairEquation, Pairs

__all__ = ["Indices", "check_indices", "indexed_pair_loss", "sample_weights"]

Indices = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor]
"""Triplets (anchor, positive, negative), or pairs (anchor, positive, anchor, negative). Anchors are rows of the batch,
the others rows of the references."""


def check_indices(indices: object, batch: int, references: int) -> None:
    """Raise ValueError unless these are index tensors of triplets or pairs, within range where they are on the CPU."""
    name, expected = "indices_tuple", "(anchor, positive, negative) or (anchor, positive, anchor, negative)"
    if not isinstance(indices, tuple | list) or len(indices) not in {3, 4}:
        got = f"a tuple of {len(indices)}" if isinstance(indices, tuple) else type(indices).__name__
        raise ValueError(f"{name}: expected {expected}, got {got}")
    anchors = {0} if len(indices) == 3 else {0, 2}
    for position, index in enumerate(indices):
        if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype not in {torch.int32, torch.int64}:
            got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"{name}[{position}]: expected a vector of integers, got {got}")
        size = batch if position in anchors else references
        if index.device.type == "cpu" and len(index) and not 0 <= index.min() <= index.max() < size:
            raise ValueError(f"{name}[{position}]: expected rows 0..{size - 1}, got {index.min()}..{index.max()}")
    lengths = [len(index) for index in indices]
    if lengths[0] != lengths[1] or lengths[-1] != lengths[-2]:
        raise ValueError(f"{name}: expected as many anchors as positives and negatives, got {lengths}")


def indexed_pair_loss(equation: PairEquation, x: Tensor, y: Tensor, indices: Indices) -> Tensor:
    """Compute ℓ over the pairs or triplets given by index, and no others.

    A loss over triplets gets pairs as all triplets that they form at each anchor; any other loss gets a triplet as its
    two pairs. A pair given twice counts twice where the loss is a mean or a sum over pairs; within the set of an
    anchor's pairs, as in multi-similarity, it counts once. (All of this as in pytorch-metric-learning.)

    Anchors ``x`` and references ``y`` are normalized. ℓ is 0 without triplets, or for an empty batch. It takes O(B · M)
    memory.
    """
    direct = "donot_use_mm_for_euclid_dist"  # the expansion as a product would not see that two vectors are equal
    values = torch.cdist(x, y, compute_mode=direct) if equation.uses_distances else x @ y.T  # (B, M)
    indices = tuple(index.to(x.device, torch.int64) for index in indices)  # type: ignore[assignment]
    pairs = _triplets(values, indices) if equation.uses_positive_distances else _pairs(values, indices)
    if not len(pairs.values):
        return (x.sum() + y.sum()) * 0
    return equation.loss(equation.accumulate(pairs)).to(x.dtype)


def sample_weights(indices: Indices | None, like: Tensor, *, anchors_only: bool) -> Tensor:
    """Return how often each sample of a batch occurs in an index tuple, over the largest count, shape (B,).

    Losses with proxies weight their samples like this (in pytorch-metric-learning, ``convert_to_weights``). Without
    indices, all weights are 1. Positives and negatives do not count if only anchors are rows of the batch ``like``.
    """
    if indices is None or not any(map(len, indices)):
        return like.new_ones(len(like))
    anchors = (indices[0],) if len(indices) == 3 else (indices[0], indices[2])
    rows = torch.cat(anchors if anchors_only else indices).to(like.device)
    counts = like.new_zeros(len(like)).index_add_(0, rows, like.new_ones(len(rows)))  # bincount waits for a GPU
    return counts / counts.max()


def _pairs(values: Tensor, indices: Indices) -> Pairs:
    """Return all pairs, P⁺ and P⁻ holding how often each was given."""
    anchors, positives, others, negatives = indices if len(indices) == 4 else (*indices[:2], indices[0], indices[2])
    masks = [
        values.new_zeros(values.numel()).index_add_(0, rows * values.shape[1] + columns, values.new_ones(len(rows)))
        for rows, columns in ((anchors, positives), (others, negatives))
    ]  # (B · M,) each; index_put_ would wait for a GPU
    none = values.new_empty(len(values), 0)
    return Pairs(values, masks[0].view_as(values), masks[1].view_as(values), none, none.long())


def _triplets(values: Tensor, indices: Indices) -> Pairs:
    """Return a row for each triplet, whose references are its positive and its negative: values of shape (T, 2)."""
    if len(indices) == 4:
        anchors, positives, others, negatives = indices
        pair, other = torch.where(anchors[:, None] == others)
        indices = anchors[pair], positives[pair], negatives[other]
    anchors, positives, negatives = indices
    picked = values[anchors[:, None], torch.stack([positives, negatives], 1)]  # (T, 2)
    positive = torch.zeros_like(picked)
    positive[:, 0].fill_(1)
    return Pairs(picked, positive, 1 - positive, picked[:, :1], torch.zeros_like(anchors)[:, None])
