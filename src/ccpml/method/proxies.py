"""Proxies of classes, on one rank or sharded over the ranks of a process group."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ccpml.distributed import gather_rows, rank_range
from ccpml.numbers import as_int

__all__ = ["ClassProxies"]


class ClassProxies(nn.Module):
    """Trainable proxies of classes, which can be sharded over ranks by class.

    Checkpoints do not depend on the sharding: ``state_dict`` holds the proxies of all classes, and ``load_state_dict``
    keeps those of this rank's classes. Where proxies are sharded, all ranks call ``state_dict`` together.

    Args:
        num_classes: C, the number of classes, labeled 0..C − 1.
        embedding_dim: d.
        proxies_per_class: K.

    Attributes:
        proxies: The proxies P as they are stored, not normalized: a parameter of shape (C, K, d). Where proxies are
            sharded, C is the number of this rank's classes.
        num_classes: The number of classes of all ranks.
        classes: The classes whose proxies are on this rank.
        group: The process group over which proxies are sharded, None if they are not.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, num_classes: int, embedding_dim: int, proxies_per_class: int) -> None:
        super().__init__()
        num_classes, embedding_dim = as_int("num_classes", num_classes, 1), as_int("embedding_dim", embedding_dim, 1)
        proxies_per_class = as_int("proxies_per_class", proxies_per_class, 1)
        self.num_classes = num_classes
        self.classes = range(num_classes)
        self.group: Any = None
        self.proxies = nn.Parameter(torch.randn(num_classes, proxies_per_class, embedding_dim) / embedding_dim**0.5)

    @property
    def proxy_labels(self) -> Tensor:
        """Classes of the proxies in the order of ``proxies.flatten(0, 1)``, int64, shape (C · K,)."""
        own = torch.arange(self.classes.start, self.classes.stop, device=self.proxies.device)
        return own.repeat_interleave(self.proxies.shape[1])

    def shard(self, group: Any) -> None:
        """Keep the proxies of this rank's classes. All ranks call it, before the optimizer is made.

        Args:
            group: Process group over whose ranks the proxies are sharded.
        """
        self.group, self.classes = group, rank_range(self.num_classes, group)
        self.proxies = nn.Parameter(self.own_classes(self.proxies.detach()))

    def own_classes(self, rows: Tensor) -> Tensor:
        """Return a copy of the rows of this rank's classes, given a row for each class.

        Raises:
            ValueError: If there is not a row for each class.
        """
        if len(rows) != self.num_classes:
            raise ValueError(f"proxies: expected a row for each of {self.num_classes} classes, got {len(rows)}")
        return rows[self.classes.start : self.classes.stop].clone()

    def gather_classes(self, rows: Tensor) -> Tensor:
        """Return a row for each class, given those of this rank's classes. All ranks call it.

        Rows of shards are gathered on the CPU, as those of all classes may not fit the device.
        """
        return rows if self.group is None else gather_rows(rows, self.group).cpu()

    def rows_of_rank(self, rows: Tensor, group: Any = None) -> Tensor:
        """Return the rows of the classes for which this rank chooses proxies, given those or a row for each class.

        Args:
            rows: Rows of classes.
            group: Process group whose ranks share the classes where proxies are not sharded; by default all ranks.
        """
        classes = self.classes if self.group is not None else rank_range(self.num_classes, group)
        return rows[classes.start : classes.stop] if len(rows) == self.num_classes else rows

    def join_rows(self, rows: Tensor, group: Any = None) -> Tensor:
        """Return the rows of the classes whose proxies are on this rank, given those of `rows_of_rank`."""
        return rows if self.group is not None else gather_rows(rows, group)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the ``state_dict`` of an optimizer independent of the sharding, as that of this module is.

        Call it before the optimizer's state is loaded. Where proxies are not sharded, it does nothing.

        Args:
            optimizer: The optimizer of the proxies.
        """
        if self.group is not None:
            optimizer.register_state_dict_post_hook(partial(self._map_moments, self.gather_classes))
            optimizer.register_load_state_dict_pre_hook(partial(self._map_moments, self.own_classes))

    def _map_moments(
        self, change: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> dict[str, Any]:
        """Change the optimizer's tensors of the proxies, which have a row for each class."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        keys = [key for group in state["param_groups"] for key in group["params"]]
        states = dict(state["state"])
        for key, weight in zip(keys, weights, strict=False):  # of other lengths: the optimizer raises
            if weight is self.proxies and key in states:
                states[key] = {
                    name: change(value) if isinstance(value, Tensor) and value.ndim == weight.ndim else value
                    for name, value in states[key].items()
                }
        return {**state, "state": states}

    def __deepcopy__(self, memo: dict[int, Any]) -> "ClassProxies":
        """Copy all but the process group, which is shared, as a weight average copies the module it averages."""
        memo[id(self.group)] = self.group
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.group is not None:
            destination[f"{prefix}proxies"] = self.gather_classes(self.proxies.detach())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}proxies")
        if self.group is not None and saved is not None:
            state_dict[f"{prefix}proxies"] = self.own_classes(saved)
        super()._load_from_state_dict(state_dict, prefix, *args)
