"""Which proxies of its class a sample is pulled to: the nearest."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["farther_proxies"]


@torch.no_grad()
def farther_proxies(
    x: Tensor,
    labels: Tensor,
    proxies: Tensor,
    classes: Tensor,
    nearest: int,
    normalize: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the proxies of each sample's class that are not among the nearest ones.

    Only the proxies of the samples' own classes are compared, B · K distances. Of equally near proxies, those of lower
    index count as nearer.

    Args:
        x: The samples, shape (B, d), not normalized.
        labels: Their classes, integers (B,).
        proxies: The proxies, shape (C, K, d), not normalized.
        classes: The classes of the proxies, ascending, shape (C,).
        nearest: n, the number of nearest proxies, 1..K − 1.
        normalize: Normalizes vectors (m, d) before they are compared.

    Returns:
        Rows of ``proxies.flatten(0, 1)``, shape (B, K − n); −1 for a sample whose class has no proxies here.

    Example:
        >>> proxies = torch.tensor([[[0.0], [0.4], [0.1]], [[0.7], [0.3], [0.9]]])  # two classes, K = 3
        >>> samples, labels = torch.tensor([[0.2], [0.8]]), torch.tensor([5, 7])
        >>> farther_proxies(samples, labels, proxies, torch.tensor([5, 7]), 2, lambda v: v)
        tensor([[1],
                [4]])

    Source: Gürbüz et al., WACV 2024, Corollary 4.2.1: a sample is represented by the nearest proxy of its class.
    """
    per_class = proxies.shape[1]
    if len(classes) == 0:  # a rank without classes
        return labels.new_full((len(x), per_class - nearest), -1, dtype=torch.int64)
    labels, classes = labels.long(), classes.long().contiguous()
    places = torch.searchsorted(classes, labels.contiguous()).clamp(max=len(classes) - 1)  # (B,)
    own = proxies.index_select(0, places).to(x.dtype)  # (B, K, d)
    own = normalize(own.flatten(0, 1)).view_as(own)
    distances = torch.linalg.vector_norm(own - normalize(x)[:, None], dim=2)
    farther = distances.argsort(dim=1, stable=True)[:, nearest:]  # (B, K − n)
    return torch.where((classes[places] == labels)[:, None], farther + per_class * places[:, None], -1)
