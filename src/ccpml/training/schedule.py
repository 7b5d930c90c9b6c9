"""What changes while a training goes on: the learning rate, and which weights learn."""

import math
from typing import Any

import lightning as L
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["ReduceOnPlateau", "Warmup"]


class ReduceOnPlateau(L.Callback):
    """Divide the learning rate by ten whenever a score has not improved in ten validations (torch's defaults).

    Unlike a scheduler in Lightning's own care it acts within the validation, so that a checkpoint written right
    after it holds the new rate, and a resumed run goes on by it.

    Args:
        monitor: Name of the logged score; the higher the better.

    Example:
        >>> callback = ReduceOnPlateau()  # L.Trainer(callbacks=[callback])
        >>> callback.state_dict()
        {}
    """

    def __init__(self, monitor: str = "map_at_r") -> None:
        self.monitor = monitor
        self._scheduler: ReduceLROnPlateau | None = None
        self._state: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the optimiser, and go on from a checkpoint where there is one."""
        self._scheduler = ReduceLROnPlateau(trainer.optimizers[0], mode="max", factor=0.1, patience=10)
        if self._state:
            self._scheduler.load_state_dict(self._state)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the score."""
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        if self._scheduler is not None and math.isfinite(score) and not trainer.sanity_checking:
            self._scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs."""
        return self._state if self._scheduler is None else dict(self._scheduler.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._state = state_dict


class Warmup(L.Callback):
    """For a number of steps let all weights but those of a module learn.

    The rivals with proxies of their own begin so: one pass through the training images in which the embedding layer and
    the proxies alone learn, the backbone being as it was pretrained.

    Args:
        frozen: The module that does not learn yet; most often the backbone.
        steps: For how many.
    """

    def __init__(self, frozen: nn.Module, steps: int) -> None:
        self.frozen = frozen
        self.steps = steps

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        """Drop the gradients of what does not learn yet: the optimiser then leaves it alone, weight decay included."""
        if trainer.global_step < self.steps:
            for weight in self.frozen.parameters():
                weight.grad = None
