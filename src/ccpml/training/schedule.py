"""Schedules: the learning rate, and which weights are trained."""

import math
from typing import Any

import lightning as L
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ccpml.numbers import as_int

__all__ = ["LearningRate", "ReduceOnPlateau", "Warmup"]


class LearningRate(L.Callback):
    """Raise the learning rate linearly in the first steps, and lower it to zero along half a cosine if requested.

    The rate of a step depends on the step alone, so that a resumed run has the same. Groups of parameters keep their
    proportions: each has its own ``initial_lr``.

    Args:
        steps: Steps of the whole training.
        warmup: Fraction of the steps in which the rate rises.
        cosine: Whether it falls afterwards.

    Example:
        >>> rate = LearningRate(100, warmup=0.1, cosine=True)
        >>> [round(rate.factor(step), 2) for step in (0, 9, 10, 55, 99)]
        [0.1, 1.0, 1.0, 0.5, 0.0]

    Source: Goyal et al., 2017 (warm-up); Loshchilov & Hutter, "SGDR", ICLR 2017 (cosine, without restarts).
    """

    def __init__(self, steps: int, warmup: float, cosine: bool) -> None:
        self.steps, self.cosine = as_int("steps", steps, 1), cosine
        self.warmup = round(warmup * self.steps)

    def factor(self, step: int) -> float:
        """Return the learning rate of a step, as a multiple of the initial one."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if not self.cosine:
            return 1.0
        return (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup))) / 2

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Set the rate of the step; after the rise, a constant rate is left to other callbacks."""
        step = trainer.global_step
        if self.cosine or step <= self.warmup:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = group["initial_lr"] * self.factor(step)


class ReduceOnPlateau(L.Callback):
    """Divide the learning rate by ten when MAP@R has not improved for ten validations (torch's defaults).

    Unlike Lightning's own scheduling it acts within the validation: a checkpoint right after it holds the new rate.
    """

    def __init__(self) -> None:
        self._scheduler: ReduceLROnPlateau | None = None
        self._state: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the scheduler of the optimizer, with the state of a loaded checkpoint."""
        self._scheduler = ReduceLROnPlateau(trainer.optimizers[0], mode="max", factor=0.1, patience=10)
        if self._state:
            self._scheduler.load_state_dict(self._state)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step with the score."""
        score = float(trainer.callback_metrics.get("map_at_r", math.nan))
        if self._scheduler is not None and math.isfinite(score) and not trainer.sanity_checking:
            self._scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return self._state if self._scheduler is None else dict(self._scheduler.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint for ``on_train_start``."""
        self._state = state_dict


class Warmup(L.Callback):
    """Freeze a module for the first steps.

    Baselines with proxies start with one pass through the training images in which the pretrained backbone is frozen,
    so that only the embedding layer and the proxies are trained.
    """

    def __init__(self, frozen: nn.Module, steps: int) -> None:
        self.frozen, self.steps = frozen, as_int("steps", steps)

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        """Drop the gradients of the frozen module; the optimizer then skips it, weight decay included."""
        if trainer.global_step < self.steps:
            for weight in self.frozen.parameters():
                weight.grad = None
