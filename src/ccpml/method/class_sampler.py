"""The classes whose proxies a training step uses."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ccpml.numbers import as_int

__all__ = ["ClassSampler"]


class ClassSampler(nn.Module):
    """Draws the classes of a training step: those of its batch, filled up with others.

    Args:
        rate: The fraction of the classes to draw, in (0, 1]; never fewer than the batch has samples.
        seed: Random seed; the same on ranks that hold the same proxies.

    Attributes:
        draws: Number of draws made, a buffer, so that a resumed run continues the sequence.
    """

    draws: Tensor

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate, self.seed = rate, as_int("seed", seed)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self._draws = 0  # the same on the host, so that no step waits for the device
        self.register_load_state_dict_post_hook(_read_draws)  # type: ignore[no-untyped-call]  # torch's is untyped

    def forward(self, labels: Tensor, classes: range) -> Tensor:
        """Return the classes drawn for a batch with these labels, as indices into ``classes``, ascending."""
        count, labels = len(classes), labels.long() - classes.start
        here = (labels >= 0) & (labels < count)
        generator = torch.Generator(labels.device)
        generator.manual_seed(((self.seed * 1_000_003 + classes.start) * 1_000_033 + self._draws) % 2**63)
        keys = torch.rand(count, generator=generator, device=labels.device)
        keys.index_add_(0, labels.clamp(0, max(0, count - 1)), here.to(keys.dtype))  # 1 or more: drawn first
        self._draws += 1
        self.draws.add_(1)
        drawn = max(math.ceil(self.rate * count), min(count, len(labels)))
        return keys.topk(drawn, sorted=False).indices.sort().values


def _read_draws(module: nn.Module, incompatible_keys: Any) -> None:
    """Copy the number of draws from a loaded checkpoint."""
    assert isinstance(module, ClassSampler)
    module._draws = int(module.draws)
