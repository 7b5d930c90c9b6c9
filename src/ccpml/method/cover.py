"""Greedy k-center, covering radii, and the distance between classes.

Shapes: C classes, b points of each, m centers of each, d dimensions.
"""

import torch
from torch import Tensor

from ccpml.method.checks import check_embeddings, check_labels, check_points
from ccpml.method.metric_loss import working_dtype
from ccpml.numbers import as_int
from ccpml.pairwise.distances import euclidean_distances
from ccpml.pairwise.equation import precise_sum
from ccpml.pairwise.inputs import check_finite, check_has_values

__all__ = [
    "average_covering_radius",
    "average_interclass_distance",
    "covering_radius",
    "greedy_k_center",
    "safe_scale",
]

_MAX_BLOCK = 2**20
"""Largest number of elements in a block of classes on a CPU, so that it stays in the cache."""


@torch.no_grad()
def greedy_k_center(points: Tensor, centers: Tensor, k: int) -> Tensor:
    """Choose ``k`` points of each class, each the farthest from the centers and the points chosen before.

    With m_i the distance of point i to its nearest center, k times: take argmax m, add it to the centers,
    m ← min(m, d(·, taken)). Ties go to the lowest index. It is batched over classes.

    Args:
        points: The pool, shape (C, b, d), floating point.
        centers: Initial centers, shape (C, m, d). With m = 0, the first point of each class is chosen first.
        k: Number of points to choose per class, 1..b.

    Returns:
        Indices into axis 1 of ``points`` in the order of choice, shape (C, k), int64.

    Raises:
        ValueError: On wrong shapes or dtypes, on values that are NaN or infinite, or if a class has fewer than ``k``
            points.

    Example:
        >>> points = torch.tensor([[[1.0], [5.0], [3.0], [-4.0]]])
        >>> greedy_k_center(points, centers=torch.zeros(1, 1, 1), k=3)
        tensor([[1, 3, 2]])

    Source: Gürbüz et al., WACV 2024, Section 4 (the core-set selection of Sener & Savarese, ICLR 2018).
    """
    check_points("points", points)
    check_points("centers", centers, like=points)
    if as_int("k", k) not in range(1, points.shape[1] + 1):
        raise ValueError(f"k: expected 1..{points.shape[1]} (the points of a class), got {k}")
    points, centers, _ = _promote(points, centers)
    size = points.shape[0]
    if points.device.type == "cpu":
        size = _MAX_BLOCK // max(1, points.shape[1] * points.shape[2])
    blocks = zip(torch.split(points, max(1, size)), torch.split(centers, max(1, size)), strict=True)
    return torch.cat([_greedy(block, _nearest(block, initial), k) for block, initial in blocks])


@torch.no_grad()
def covering_radius(points: Tensor, centers: Tensor) -> Tensor:
    """Return the smallest radius at which balls around the centers of a class cover all its points.

    Args:
        points: Shape (C, b, d), floating point, b ≥ 1.
        centers: Shape (C, m, d), m ≥ 1.

    Returns:
        The largest distance of a point to its nearest center, shape (C,).

    Raises:
        ValueError: On wrong shapes or dtypes, on values that are NaN or infinite, or without points or centers.

    Example:
        >>> covering_radius(torch.tensor([[[0.0], [2.0], [7.0]]]), torch.tensor([[[0.0], [6.0]]]))
        tensor([2.])

    Source: Gürbüz et al., WACV 2024, Proposition 4.1 and Corollary 4.2.1 (δ_s).
    """
    check_points("points", points)
    check_points("centers", centers, like=points)
    if points.shape[1] == 0 or centers.shape[1] == 0:
        raise ValueError(f"points, centers: expected at least one each, got {points.shape[1]} and {centers.shape[1]}")
    scaled, scaled_centers, scale = _promote(points, centers)
    return (_nearest(scaled, scaled_centers).amax(1) / scale).to(points.dtype)


@torch.no_grad()
def average_covering_radius(embeddings: Tensor, labels: Tensor) -> float:
    """Return the average covering radius of a labeled set, the paper's measure of the spread of classes.

    It is the radius of the greedy k-center cover of a class by k of its n samples, averaged over k = 1..n and then over
    classes. As in the method, the greedy choice starts away from the origin.

    Args:
        embeddings: Shape (N, d), floating point, N ≥ 1.
        labels: Classes, shape (N,), any integers.

    Returns:
        The average covering radius, a distance between embeddings.

    Raises:
        ValueError: On wrong shapes or dtypes, on values that are NaN or infinite, or without samples.

    Example:
        >>> x = torch.tensor([[0.0], [4.0], [9.0]])
        >>> average_covering_radius(x, torch.tensor([0, 0, 1]))  # ((4 + 0) / 2 + 0) / 2
        1.0

    Source: Gürbüz et al., WACV 2024, Section 5 (figures 1 and 2).
    """
    embeddings, scale = _checked_set(embeddings, labels)
    order = labels.argsort(stable=True)
    sizes = torch.unique(labels, return_counts=True)[1]  # (C,)
    first = sizes.cumsum(0) - sizes
    total = 0.0
    for n in torch.unique(sizes).tolist():  # classes of the same size at once
        rows = order[first[sizes == n, None] + torch.arange(n, device=order.device)]  # (classes, n)
        points = embeddings[rows]
        radii = _radii(points, _greedy(points, points.norm(dim=-1), n))  # (classes, n)
        total += radii.to(torch.float64).mean(1).sum().item()
    return total / len(sizes) / scale


@torch.no_grad()
def average_interclass_distance(embeddings: Tensor, labels: Tensor) -> float:
    """Return the mean Euclidean distance over all pairs of samples of different classes.

    Memory grows linearly with N.

    Args:
        embeddings: Shape (N, d), floating point.
        labels: Classes, at least two, shape (N,), any integers.

    Returns:
        The average inter-class distance.

    Raises:
        ValueError: On wrong shapes or dtypes, on values that are NaN or infinite, or with fewer than two classes.

    Example:
        >>> average_interclass_distance(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]))
        4.5

    Source: Gürbüz et al., WACV 2024, Section 5.
    """
    embeddings, scale = _checked_set(embeddings, labels)
    total, pairs = 0.0, 0
    for block, block_labels in zip(torch.split(embeddings, 1024), torch.split(labels, 1024), strict=True):
        different = block_labels[:, None] != labels
        total += precise_sum(euclidean_distances(block, embeddings) * different).item()
        pairs += int(different.sum())
    if pairs == 0:
        raise ValueError("labels: expected at least two classes, got 1")
    return total / pairs / scale


def _promote(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return finite points and centers in their common dtype, at least float32, times a scale that keeps squares."""
    dtype = working_dtype(points, centers)
    points, centers = points.to(dtype), centers.to(dtype)
    check_finite("points", points)
    check_finite("centers", centers)
    scale = safe_scale(points, centers)
    return points * scale, centers * scale, scale


def safe_scale(*vectors: Tensor) -> Tensor:
    """Return 1, or a power of two if squares of differences may overflow or vanish; a device is not waited for."""
    dtype = vectors[0].dtype
    large, power = (2.0**500, 2.0**600) if dtype == torch.float64 else (2.0**50, 2.0**78)
    largest = torch.stack([x.abs().amax() for x in vectors if x.numel()] or [vectors[0].new_zeros(())]).amax()
    small = torch.where(largest < 1 / large, torch.full_like(largest, power), 1)
    return torch.where(largest > large, torch.full_like(largest, 1 / power), small)


def _checked_set(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Return checked embeddings in float32 or float64, times a scale that keeps their squares, and the scale."""
    check_embeddings("embeddings", embeddings)
    check_labels("labels", labels, len(embeddings))
    if embeddings.numel() == 0:
        raise ValueError(
            f"embeddings: expected at least one sample and one dimension, got shape {tuple(embeddings.shape)}"
        )
    x = embeddings.to(working_dtype(embeddings))
    check_finite("embeddings", x)
    check_has_values("labels", labels)
    scale = safe_scale(x)
    return x * scale, scale.item()


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Return m, the distances to the nearest center, (C, b); infinite without centers."""
    nearest = points.new_full(points.shape[:2], torch.inf)
    differences = torch.empty_like(points)
    for center in centers.unbind(1):
        nearest = torch.minimum(nearest, _distances(points, center, differences))
    return nearest


def _distances(points: Tensor, center: Tensor, differences: Tensor) -> Tensor:
    """Return distances of points (C, b, d) to centers (C, d), from differences: no cancellation."""
    distances: Tensor = torch.linalg.vector_norm(torch.sub(points, center[:, None], out=differences), dim=2)
    return distances


def _greedy(points: Tensor, nearest: Tensor, k: int) -> Tensor:
    """Return the indices of k greedily chosen points, (C, k), given distances to the nearest center, (C, b)."""
    classes, differences = torch.arange(len(points), device=points.device), torch.empty_like(points)
    chosen = [nearest.argmax(1)]  # of ties, the lowest index
    while len(chosen) < k:
        taken = points[classes, chosen[-1]]  # (C, d)
        nearest = torch.minimum(nearest, _distances(points, taken, differences))
        chosen.append(nearest.argmax(1))
    return torch.stack(chosen, 1)


def _radii(points: Tensor, chosen: Tensor) -> Tensor:
    """Return the radii of the covers by the first 1..k chosen points, (C, k)."""
    classes, differences = torch.arange(len(points), device=points.device), torch.empty_like(points)
    covered, radii = points.new_full(points.shape[:2], torch.inf), []
    for one in chosen.unbind(1):
        covered = torch.minimum(covered, _distances(points, points[classes, one], differences))
        radii.append(covered.amax(1))
    return torch.stack(radii, 1)
