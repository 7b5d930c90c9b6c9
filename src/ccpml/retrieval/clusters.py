"""Agreement of k-means clusters with classes: NMI and AMI. Shapes: N vectors, d dimensions, k clusters."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccpml.numbers import as_int, counted
from ccpml.retrieval.inputs import ArrayLike, Progress, as_embeddings, as_labels

__all__ = ["ClusterScores", "cluster_scores", "nmi_and_ami"]


@dataclass(frozen=True)
class ClusterScores:
    """Agreement of clusters with classes.

    Attributes:
        nmi: Normalized mutual information in [0, 1], normalized by the mean of both entropies.
        ami: Adjusted mutual information: 0 for random clusters on average, 1 for perfect agreement.
        num_clusters: k, the number of classes.

    Example:
        >>> ClusterScores(nmi=0.5, ami=0.25, num_clusters=7).as_dict()
        {'nmi': 0.5, 'ami': 0.25, 'num_clusters': 7}
    """

    nmi: float
    ami: float
    num_clusters: int

    def __str__(self) -> str:
        return f"NMI {self.nmi:.4f}, AMI {self.ami:.4f} ({counted(self.num_clusters, 'cluster')})"

    def as_dict(self) -> dict[str, float | int]:
        """Return the scores as one flat mapping for JSON and loggers."""
        return asdict(self)


def cluster_scores(
    embeddings: ArrayLike, labels: ArrayLike, *, iterations: int = 25, seed: int = 0, progress: Progress | None = None
) -> ClusterScores:
    """Cluster embeddings by k-means, with k the number of classes, and compare the clusters with the classes.

    NMI rises with the number of clusters, whatever they are; AMI is corrected for chance. With one class both are 1.

    k-means is that of faiss: over all points, from k randomly drawn points, in float32 after the mean is subtracted.
    The result is a function of the input and the seed on one machine with one number of threads.

    Args:
        embeddings: Shape (N, d), floating point, NumPy or torch.
        labels: Classes, shape (N,), any integer dtype, any values.
        iterations: Maximum number of k-means iterations; it stops earlier once no centroid moves.
        seed: Random seed of the initial centroids.
        progress: Called after each iteration with the number of iterations done and the maximum. Ctrl-C also interrupts
            an iteration.

    Returns:
        The scores as plain floats.

    Raises:
        ValueError: On a wrong dtype, shape or length, on values that are NaN or infinite, on iterations below 1, or on
            a negative seed.
        ModuleNotFoundError: If faiss is not installed.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
        >>> print(cluster_scores(embeddings, torch.tensor([3, 3, 4, 4, 7, 7]), seed=1))
        NMI 1.0000, AMI 1.0000 (3 clusters)

    Source: H. O. Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016 (NMI);
    N. X. Vinh, J. Epps, J. Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 11, 2010 (AMI).
    """
    iterations = as_int("iterations", iterations, 1)
    seed = as_int("seed", seed, 0)
    x = as_embeddings("embeddings", embeddings)
    classes = torch.unique(as_labels("labels", labels, "embeddings", x), return_inverse=True)[1].cpu()
    k = int(classes.max()) + 1
    clusters = _k_means(_standardize(x), k, iterations, seed, progress)
    return ClusterScores(*nmi_and_ami(classes, torch.from_numpy(clusters)), num_clusters=k)


def _standardize(x: Tensor) -> npt.NDArray[np.float32]:
    """Subtract the mean and scale to at most 1: clusters stay the same, and float32 resolves more distances."""
    x = x.cpu()
    x = x / x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    x -= x.mean(dim=0, dtype=torch.float64).to(x.dtype)
    x /= x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    return x.float().contiguous().numpy()


def _k_means(
    x: npt.NDArray[np.float32], k: int, iterations: int, seed: int, progress: Progress | None
) -> npt.NDArray[np.int64]:
    """Return the cluster of each point, shape (N,)."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError("faiss: not installed, required for NMI and AMI; pip install faiss-cpu") from None
    k_means: Any = faiss.Kmeans(x.shape[1], k, niter=1, min_points_per_centroid=1, max_points_per_centroid=len(x))
    centroids = x[np.sort(np.random.default_rng(seed).choice(len(x), k, replace=False))]
    for iteration in range(1, iterations + 1):
        previous = centroids
        k_means.train(x, init_centroids=previous)
        centroids = k_means.centroids.copy()
        converged = np.array_equal(centroids, previous)
        if progress:
            progress(iterations if converged else iteration, iterations)
        if converged:
            break
    clusters: npt.NDArray[np.int64] = k_means.index.search(x, 1)[1][:, 0]
    return clusters


def nmi_and_ami(classes: Tensor, clusters: Tensor) -> tuple[float, float]:
    """Return NMI and AMI of two partitions of the same points, both of shape (N,); 1 if neither divides the points."""
    total = len(classes)
    pairs, counts = torch.unique(torch.stack([classes, clusters]), dim=1, return_counts=True)
    a, b = (part.bincount() for part in (classes, clusters))
    information = float((counts.double() / total * (total * counts / (a[pairs[0]] * b[pairs[1]]).double()).log()).sum())
    mean_entropy = (_entropy(a) + _entropy(b)) / 2
    if mean_entropy == 0:
        return 1.0, 1.0
    expected = _expected_information(a, b)
    margin = mean_entropy - expected
    ami = (information - expected) / margin if margin > 1e-12 else 1.0
    return min(max(information / mean_entropy, 0.0), 1.0), min(ami, 1.0)


def _entropy(sizes: Tensor) -> float:
    p = sizes[sizes > 0].double() / sizes.sum()
    return -float((p * p.log()).sum())


def _expected_information(a: Tensor, b: Tensor) -> float:
    """Return the expected mutual information of random partitions into parts of these sizes: Vinh et al., eq. 24a.

    The contribution of two parts depends on their sizes alone, so each pair of different sizes is computed once.
    """
    total = int(a.sum())
    log_factorial = torch.lgamma(torch.arange(1, total + 2, dtype=torch.float64, device="cpu"))
    (a, a_counts), (b, b_counts) = (torch.unique(sizes[sizes > 0], return_counts=True) for sizes in (a, b))
    expected = 0.0
    for size, count in zip(a.tolist(), a_counts.tolist(), strict=True):
        common = torch.arange(1, size + 1, device="cpu")[:, None]  # points shared with each part of size b
        possible = (common <= b) & (common >= size + b - total)
        rest = [torch.where(possible, n, 0) for n in (b - common, total - size - b + common)]
        log_probability = log_factorial[size] + log_factorial[total - size] - log_factorial[total]
        log_probability = log_probability + log_factorial[b] + log_factorial[total - b]
        for n in (common, size - common, *rest):
            log_probability = log_probability - log_factorial[n]
        information = common.double() / total * (total * common / (size * b).double()).log()
        terms = torch.where(possible, log_probability.exp() * information, 0.0) * b_counts
        expected += count * float(terms.sum())
    return expected
