"""How well an embedding tells the classes of a pool apart: the rule by which the first proxies are placed."""

import torch
from torch import Tensor

from ccpml.method.checks import check_points
from ccpml.method.cover import greedy_k_center, safe_scale
from ccpml.method.metric_loss import working_dtype
from ccpml.numbers import as_int
from ccpml.pairwise.inputs import check_finite, describe

__all__ = ["MAX_CLASSES", "MIN_SEPARATION", "class_separation", "evenly_spaced_classes"]

MIN_SEPARATION = 0.5
"""Separation of the classes from which on proxies stand for their classes."""

MAX_CLASSES = 256
"""Largest number of classes among which the separation is measured; of more, evenly spaced ones are."""

_MAX_BLOCK = 2**21
"""Largest number of distances held at a time."""


@torch.no_grad()
def class_separation(points: Tensor, k: int) -> float:
    """Measure how well classes are told apart: 1 if each sample is nearest to its own class, 0 by chance.

    With r the fraction of samples that are nearer to the centers of their own class than to those of all others, it is
    r corrected for chance, (r − 1/C) / (1 − 1/C). The centers are greedy k-centers of each class, as the first proxies
    are; the samples are the others of the pool. Where a class has no more than ``k`` samples, half of them are centers.
    A sample as near to another class as to its own does not count, so embeddings that are all equal are not separated.

    Args:
        points: The pool, b ≥ 2 samples of each of C classes, shape (C, b, d), floating point. Several views of one
            image are samples too; where a class has a single image, this is how well its views are told apart.
        k: Number of centers per class.

    Returns:
        The separation, at most 1; 1 for a single class.

    Raises:
        ValueError: On a wrong shape or dtype, on values that are NaN or infinite, without classes, or if they have
            fewer than two samples.

    Example:
        >>> points = torch.tensor([[[1.0], [5.0], [1.5]], [[9.0], [8.5], [5.2]]])
        >>> class_separation(points, k=2)  # 1.5 is nearest to the center 1; of 9 and 5.2, 8.5 is nearest to 9
        1.0
        >>> class_separation(points, k=1)  # with the centers 5 and 9, 5.2 is nearer to the other class: r = 3/4
        0.5

    Source: Cohen, "A Coefficient of Agreement for Nominal Scales", 1960, for the correction.
    """
    check_points("points", points)
    k = as_int("k", k, 1)
    count, per_class = points.shape[:2]
    if count == 0:
        raise ValueError(f"points: expected at least one class, got {describe(points)}")
    if per_class < 2:
        raise ValueError(f"points: expected at least 2 samples of each class, got {per_class}")
    points = points.to(working_dtype(points))
    check_finite("points", points)
    points = points * safe_scale(points)
    k = k if k < per_class else per_class // 2
    chosen = greedy_k_center(points, torch.zeros_like(points[:, :1]), k)  # (C, k)
    centers = points.take_along_dim(chosen[:, :, None], dim=1).flatten(0, 1)  # (C · k, d)
    others = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device).scatter_(1, chosen, False)
    samples, own = points[others], others.nonzero()[:, 0]  # (n, d) and their classes
    nearer = 0
    size = max(1, _MAX_BLOCK // len(centers))
    for block, classes in zip(torch.split(samples, size), torch.split(own, size), strict=True):
        distances = torch.cdist(block, centers, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.view(-1, count, k).amin(2)  # to each class, (n, C)
        to_own = nearest.gather(1, classes[:, None])
        to_others = nearest.scatter_(1, classes[:, None], torch.inf).amin(1, keepdim=True)
        nearer += int((to_own < to_others).sum())
    rate, chance = nearer / len(samples), 1 / count
    return (rate - chance) / (1 - chance) if count > 1 else 1.0


def evenly_spaced_classes(count: int, limit: int = MAX_CLASSES) -> list[int]:
    """Return ``limit`` of the classes 0..count − 1, evenly spaced, or all if there are no more.

    Example:
        >>> evenly_spaced_classes(9, 3)
        [0, 4, 8]
    """
    return list(range(count)) if count <= limit else [i * (count - 1) // (limit - 1) for i in range(limit)]
