"""Averages of the weights over the steps of a training."""

from typing import Any

import lightning as L
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage(L.Callback):
    """Score and keep an exponential moving average of a network's weights, while the weights themselves are trained.

    From the start of each validation to the start of the next training epoch the module holds the average: it is what
    is scored, what `CCPCallback` observes, and what a checkpoint of the best weights holds. Proxies, which belong to
    the criterion, are not averaged. The average a ← m a + (1 − m) θ begins with the weights after the first step;
    m = min(decay, (1 + t) / (10 + t)) in step t, so that a short training does not keep its beginning.

    Lightning's own `WeightAveraging` averages the whole module, proxies and memories included, and returns to the
    trained weights before other callbacks see the end of the validation.

    Args:
        network: Part of the module whose parameters and floating-point buffers are averaged.
        decay: Largest m, in (0, 1).

    Example:
        >>> average = WeightAverage(nn.Linear(2, 2), decay=0.99)
        >>> # trainer = L.Trainer(callbacks=[average, ...])

    Source: Polyak & Juditsky, 1992; Tarvainen & Valpola, "Mean teachers", NeurIPS 2017.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay: expected a fraction in (0, 1), got {decay}")
        self.network, self.decay = network, decay
        self._others: list[Tensor] = []  # the average; while the module holds it, the trained weights
        self._swapped = False

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Update the average with the weights of the step."""
        weights, step = self._weights(), trainer.global_step
        if not self._others:
            self._others = [weight.clone() for weight in weights]
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self._others, weights, strict=True):
            average.lerp_(weight, share)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the module."""
        if trainer.state.fn == "fit" and not self._swapped:
            self._swap()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the trained weights back."""
        if self._swapped:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"others": self._others, "swapped": self._swapped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        weights = self._weights()
        self._others = [other.to(weight) for other, weight in zip(state_dict["others"], weights, strict=False)]
        self._swapped = state_dict["swapped"]

    def _weights(self) -> list[Tensor]:
        state = self.network.state_dict().values()
        return [tensor.detach() for tensor in state if tensor.is_floating_point()]

    def _swap(self) -> None:
        if self._others:
            for weight, other in zip(self._weights(), self._others, strict=True):
                trained = weight.clone()
                weight.copy_(other)
                other.copy_(trained)
            self._swapped = not self._swapped
