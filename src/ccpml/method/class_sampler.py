"""The classes whose proxies a training step uses."""

import math

import torch
from torch import Tensor

from ccpml.method.host_counts import HostCounts
from ccpml.numbers import as_int

__all__ = ["ClassSampler"]


class ClassSampler(HostCounts):
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
        self.add_count("draws", torch.zeros((), dtype=torch.int64), 0)

    def forward(self, labels: Tensor, classes: range) -> Tensor:
        """Return the classes drawn for a batch with these labels, as indices into ``classes``, ascending."""
        count, labels = len(classes), labels.long() - classes.start
        draws = self.count("draws")
        here = (labels >= 0) & (labels < count)
        generator = torch.Generator(labels.device)
        generator.manual_seed(((self.seed * 1_000_003 + classes.start) * 1_000_033 + draws) % 2**63)
        keys = torch.rand(count, generator=generator, device=labels.device)
        keys.index_add_(0, labels.clamp(0, max(0, count - 1)), here.to(keys.dtype))  # 1 or more: drawn first
        self.draws.add_(1)
        self.set_count("draws", draws + 1)
        drawn = max(math.ceil(self.rate * count), min(count, len(labels)))
        return keys.topk(drawn, sorted=False).indices.sort().values
