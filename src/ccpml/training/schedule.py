"""Schedules: the learning rate, and which weights are trained."""

import math
from typing import Any, Final

import lightning as L
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ccpml.numbers import as_int

__all__ = ["ReduceOnPlateau", "StepCounter", "Warmup", "check_validates"]


_BEGAN_KEY: Final = "ccpml_began"


def check_validates(trainer: L.Trainer, callback: str, monitor: str, decides: str) -> None:
    """Check that a fit has a validation, whose score a callback needs.

    Raises:
        RuntimeError: If it has none.
    """
    batches = trainer.num_val_batches
    if not trainer.enable_validation or (batches and not any(batches)):
        raise RuntimeError(
            f"{callback}: expected validation, whose {monitor!r} decides {decides}, got none; "
            "pass a validation loader to fit"
        )


class ReduceOnPlateau(L.Callback):
    """Divide the learning rate by ten when MAP@R has not improved for ten validations (torch's defaults).

    Unlike Lightning's own scheduling it acts within the validation: a checkpoint right after it holds the new rate.

    Raises:
        ValueError: If a validation of the training logs no ``map_at_r``.
        RuntimeError: If there is no validation.
    """

    def __init__(self) -> None:
        self._scheduler: ReduceLROnPlateau | None = None
        self._state: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget what belongs to an earlier training: each fit begins again, or from the checkpoint that it loads."""
        if stage == "fit":
            self._scheduler, self._state = None, {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the scheduler of the optimizer, with the state of a loaded checkpoint."""
        check_validates(trainer, "ReduceOnPlateau", "map_at_r", "when the rate is reduced")
        self._scheduler = ReduceLROnPlateau(trainer.optimizers[0], mode="max", factor=0.1, patience=10)
        if self._state:
            self._scheduler.load_state_dict(self._state)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step with the score."""
        if self._scheduler is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if "map_at_r" not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"ReduceOnPlateau: expected 'map_at_r' to be logged in validation, got {logged}")
        score = float(trainer.callback_metrics["map_at_r"])
        if math.isfinite(score):
            self._scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return self._state if self._scheduler is None else dict(self._scheduler.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint for ``on_train_start``."""
        self._state = state_dict


class StepCounter(L.Callback):
    """Count the steps of a training. A trainer goes on counting in a further fit, which is another training."""

    _began: int | None = None  # the trainer's step at which this training began, once it is known
    _restored = False  # from a checkpoint of such a callback, by this fit

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget what belongs to an earlier training: each fit begins again, or from the checkpoint that it loads."""
        if stage == "fit":
            self._began, self._restored = None, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count, unless a checkpoint was loaded in which that was done."""
        if self._began is None:
            is_other = trainer.ckpt_path and not self._restored  # a training without such callbacks goes on
            self._began = 0 if is_other else trainer.global_step

    def steps_made(self, trainer: L.Trainer) -> int:
        """Return the number of steps of this training."""
        return trainer.global_step - (self._began or 0)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the step at which the training began, which all callbacks of a trainer share; None before the first step.

        A search of the learning rate makes a checkpoint then, and restores it.
        """
        checkpoint[_BEGAN_KEY] = self._began

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep that step for `on_train_start`."""
        self._began, self._restored = checkpoint.get(_BEGAN_KEY), _BEGAN_KEY in checkpoint


class Warmup(StepCounter):
    """Freeze a module for the first steps.

    Baselines with proxies start with one pass through the training images in which the pretrained backbone is frozen,
    so that only the embedding layer and the proxies are trained. Steps are those of ``trainer.global_step``, to which
    each optimizer adds its own.
    """

    def __init__(self, frozen: nn.Module, steps: int) -> None:
        if not isinstance(frozen, nn.Module):
            raise ValueError(f"frozen: expected a module, got {frozen!r}")
        self.frozen, self.steps = frozen, as_int("steps", steps)

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        """Drop the gradients of the frozen module; the optimizer then skips it, weight decay included."""
        if self.steps_made(trainer) < self.steps:
            for weight in self.frozen.parameters():
                weight.grad = None
