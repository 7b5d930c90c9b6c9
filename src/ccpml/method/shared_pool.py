"""The pool on several ranks: each embeds the samples of its share of the classes and chooses their proxies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ccpml.distributed import all_gather, gather_rows, rank_range
from ccpml.method.checks import check_pool
from ccpml.method.cover import greedy_k_center
from ccpml.method.normalize import lipschitz_normalize
from ccpml.method.proxies import ClassProxies
from ccpml.method.separation import class_separation, evenly_spaced_classes
from ccpml.pairwise.inputs import is_floating

__all__ = ["Pool", "SharedPool"]

Pool = Callable[[], Tensor]
"""Returns embeddings of b samples per class, shape (C, b, d), by the current network in eval mode.

On several ranks, C may be all classes or those of this rank, `ccpml.distributed.rank_range`."""


class SharedPool:
    """What is done with a pool: it is checked and measured, and proxies are chosen from it. All ranks call alike.

    Args:
        proxies: The proxies, on each rank or sharded.
        group: Process group whose ranks share the classes where proxies are not sharded; by default all ranks.
        space: Space in which k-center measures distances, ``raw`` or ``lipschitz``.
    """

    def __init__(self, proxies: ClassProxies, group: Any, space: str) -> None:
        self.of, self.group, self.space = proxies, group, space

    @torch.no_grad()
    def embed(self, pool: Pool) -> Tensor:
        """Return the pool of this rank's classes, checked, as the proxies are stored.

        Raises:
            ValueError: If it has a wrong shape, too few points per class, or is not finite; if the proxies are
                parametrized.
        """
        if not callable(pool):
            raise ValueError(f"pool: expected a function that returns embeddings (C, b, d), got {type(pool).__name__}")
        proxies = self.of.proxies
        if not isinstance(proxies, nn.Parameter):  # they are computed at each use, so writing to them has no effect
            raise ValueError("proxies: expected a parameter, got a parametrization; they are stored as chosen")
        points = pool()
        if is_floating("pool", points) and points.ndim:
            points = self.of.rows_of_rank(points, self.group)
        check_pool(points, self.of.rows_of_rank(proxies.detach(), self.group), proxies.shape[1], self._ranks)
        return points.to(proxies.device, proxies.dtype)

    @torch.no_grad()
    def choose_proxies(self, points: Tensor, centers: Tensor) -> None:
        """P ← greedy k-center(points, centers). Without shards, ranks choose for their classes and join the choices."""
        proxies = self.of.proxies
        centers = self.of.rows_of_rank(centers, self.group).to(proxies.device)
        chosen = greedy_k_center(self._in_space(points), self._in_space(centers), proxies.shape[1])  # (C, K)
        proxies.copy_(self.of.join_rows(points.take_along_dim(chosen[:, :, None], dim=1), self.group))

    def evenly_spaced(self, rows: Tensor) -> Tensor:
        """Return the rows of evenly spaced classes of all ranks, given those of this rank's classes."""
        count = self.of.num_classes
        classes = self.of.classes if self.of.group is not None else rank_range(count, self.group)
        return rows[[label - classes.start for label in evenly_spaced_classes(count) if label in classes]]

    @torch.no_grad()
    def separation(self, points: Tensor) -> float | None:
        """Measure how evenly spaced classes are told apart after φ, given their points; None with one sample each."""
        proxies = self.of.proxies
        check_pool(points, proxies.new_empty(len(points), 0, proxies.shape[2]), 1, self._ranks)
        if points.shape[1] < 2:
            return None
        return self._agreed(class_separation(gather_rows(lipschitz_normalize(points), self._ranks), proxies.shape[1]))

    def _agreed(self, measured: float) -> float:
        """Return the first rank's measurement, so that all ranks decide alike."""
        return all_gather(torch.tensor([measured], dtype=torch.float64, device="cpu"), self._ranks)[0].item()

    def _in_space(self, points: Tensor) -> Tensor:
        """Return points in the space of k-center."""
        return lipschitz_normalize(points) if self.space == "lipschitz" else points

    @property
    def _ranks(self) -> Any:
        """Process group whose ranks share the pool."""
        return self.of.group or self.group
