"""How well clusters of embeddings agree with classes: k-means, NMI and AMI.

Shapes: N vectors, d dimensions, k clusters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccpml.retrieval.inputs import ArrayLike, as_embeddings, as_labels, at_least_one

__all__ = ["ClusterScores", "cluster_scores"]


@dataclass(frozen=True)
class ClusterScores:
    """How well clusters agree with classes.

    Attributes:
        nmi: Normalised mutual information, the mean of both entropies the norm; in 0..1.
        ami: Adjusted mutual information: 0 is expected of clusters by chance, 1 is agreement.
        num_clusters: k, the number of classes.
    """

    nmi: float
    ami: float
    num_clusters: int

    def __str__(self) -> str:
        return f"NMI {self.nmi:.4f}, AMI {self.ami:.4f} ({self.num_clusters} clusters)"

    def as_dict(self) -> dict[str, float | int]:
        """Return the scores as one flat mapping for JSON and loggers."""
        return {"nmi": self.nmi, "ami": self.ami, "num_clusters": self.num_clusters}


def cluster_scores(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    iterations: int = 25,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ClusterScores:
    """Cluster embeddings by k-means, k the number of classes, and compare the clusters with the classes.

    NMI has been reported of retrieval embeddings since H. O. Song et al., "Deep Metric Learning via Lifted Structured
    Feature Embedding" (CVPR 2016). It rises with the number of clusters, whatever they are; AMI is corrected for chance
    (N. X. Vinh, J. Epps, J. Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 11, 2010). With
    one class both are 1.

    K-means is faiss's, over all points, from k of them drawn at random, in float32 after the mean is taken off. The
    result is a function of the input and the seed, on one machine with one number of threads.

    Args:
        embeddings: Shape (N, d), floating point, NumPy or torch.
        labels: Their classes, shape (N,), any integer dtype, any values.
        iterations: Iterations of k-means, at most: it ends before where nothing moves any more.
        seed: Which points k-means begins with.
        progress: Called after each iteration with the iterations done and all of them. Ctrl-C is heard within an
            iteration too.

    Returns:
        The scores, plain floats.

    Raises:
        ValueError: On a wrong dtype, shape or length, on values that are NaN or infinite, or on iterations below 1.
        ModuleNotFoundError: If faiss is not installed.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
        >>> print(cluster_scores(embeddings, torch.tensor([3, 3, 4, 4, 7, 7]), seed=1))
        NMI 1.0000, AMI 1.0000 (3 clusters)
    """
    iterations = at_least_one("iterations", iterations)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an integer of at least 0, got {seed!r}")
    x = as_embeddings("embeddings", embeddings)
    classes = torch.unique(as_labels("labels", labels, "embeddings", x), return_inverse=True)[1].cpu()
    k = int(classes.max()) + 1
    clusters = _k_means(_centred(x), k, iterations, seed, progress)
    nmi, ami = _agreement(classes, torch.from_numpy(clusters))
    return ClusterScores(nmi=nmi, ami=ami, num_clusters=k)


def _centred(x: Tensor) -> npt.NDArray[np.float32]:
    """Take off the mean and scale to at most 1: clusters stay, and float32 tells more distances apart."""
    largest = x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    x = x / largest
    x -= x.mean(dim=0, dtype=torch.float32 if x.device.type == "mps" else torch.float64).to(x.dtype)
    x /= x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    return x.float().contiguous().cpu().numpy()


def _k_means(
    x: npt.NDArray[np.float32], k: int, iterations: int, seed: int, progress: Callable[[int, int], None] | None
) -> npt.NDArray[np.int64]:
    """Give each point's cluster, shape (N,)."""
    options = {"niter": 1, "min_points_per_centroid": 1, "max_points_per_centroid": len(x), "verbose": False}
    k_means = _faiss().Kmeans(x.shape[1], k, **options)
    centres = x[np.sort(np.random.default_rng(seed).choice(len(x), k, replace=False))]
    for iteration in range(1, iterations + 1):
        before = centres
        k_means.train(x, init_centroids=centres)
        centres = k_means.centroids.copy()
        moved = not np.array_equal(centres, before)
        if progress is not None:
            progress(iteration if moved else iterations, iterations)
        if not moved:
            break
    nearest: npt.NDArray[np.int64] = k_means.index.search(x, 1)[1][:, 0]
    return nearest


def _agreement(classes: Tensor, clusters: Tensor) -> tuple[float, float]:
    """Give NMI and AMI of two partitions of the same points, both of shape (N,); 1 where neither parts anything."""
    total = len(classes)
    pairs, together = torch.unique(torch.stack([classes, clusters]), dim=1, return_counts=True)
    a, b = (part.bincount() for part in (classes, clusters))
    of_pair = together.double() / total
    shared = float((of_pair * (total * together / (a[pairs[0]] * b[pairs[1]]).double()).log()).sum())
    most = (_entropy(a) + _entropy(b)) / 2
    expected = _expected_information(a, b)
    if most == 0:
        return 1.0, 1.0
    room = most - expected
    ami = (shared - expected) / room if room > 1e-12 else 1.0
    return min(max(shared / most, 0.0), 1.0), min(ami, 1.0)


def _entropy(sizes: Tensor) -> float:
    share = sizes[sizes > 0].double() / sizes.sum()
    return -float((share * share.log()).sum())


def _expected_information(a: Tensor, b: Tensor) -> float:
    """Mutual information that partitions into parts of these sizes have by chance: Vinh et al., equation 24a.

    A pair of parts adds what depends on their sizes alone, so each pair of different sizes is computed once.
    """
    total = int(a.sum())
    log_factorial = torch.lgamma(torch.arange(1, total + 2, dtype=torch.float64))
    (a, times_a), (b, times_b) = (torch.unique(sizes[sizes > 0], return_counts=True) for sizes in (a, b))
    expected = 0.0
    for size, times in zip(a.tolist(), times_a.tolist(), strict=True):
        common = torch.arange(1, size + 1)[:, None]  # how many points two parts may share, against the sizes b
        possible = (common <= b) & (common >= size + b - total)
        others = [torch.where(possible, n, 0) for n in (b - common, total - size - b + common)]
        log_chance = log_factorial[size] + log_factorial[total - size] - log_factorial[total]
        log_chance = log_chance + log_factorial[b] + log_factorial[total - b]
        for n in (common, size - common, *others):
            log_chance = log_chance - log_factorial[n]
        information = common.double() / total * (total * common / (size * b).double()).log()
        expected += times * float((torch.where(possible, log_chance.exp() * information, 0.0) * times_b).sum())
    return expected


def _faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError("faiss, which clusters for NMI and AMI, is missing: pip install faiss-cpu") from None
    module: ModuleType = faiss
    return module
