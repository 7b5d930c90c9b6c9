"""CCP for any Lightning training."""

import math
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from ccpml.method import AlternatingProjections, CCPLoss

__all__ = ["CCPCallback"]


class CCPCallback(L.Callback):
    """Alternating projections within a Lightning training, your own module's as well as ours.

    The module holds a `CCPLoss` as a submodule, gives its parameters to the optimiser, and logs a validation
    score. The callback puts the first proxies at real samples before the first step, pulls the weights before each
    optimiser step (after unscaling, before clipping), and after each validation takes the score and, if the
    instance has converged, makes the projection. Its state is part of Lightning's checkpoints.

    On several ranks (``strategy="ddp"``) the pool is shared. The module's ``training_step`` computes the loss of the
    joined batch there: ``self.criterion(*gather_batch(self(images), labels))``.

    Args:
        pool: Called as ``pool(module, draw)``; returns embeddings of b samples of each class by the module in
            eval mode, (C, b, d). ``draw`` is 0 at the start and then the number of the new instance, so that a pool
            which is a function of it makes a resumed run equal an uninterrupted one. On several ranks it may return
            those of this rank's classes alone, as `EmbeddingPool` does.
        monitor: Name of the logged score; the higher the better.
        strength: λ; see `AlternatingProjections` for this and what follows.
        decay: The strength in instance k is λ · decay^k.
        patience: Validations without improvement until an instance has converged.
        min_delta: What counts as improvement.
        space: Where k-centre measures distances.
        rewind: Whether an instance starts from the best weights of the one before.
        reset_optimizer: Whether the optimiser's state of the proxies is dropped at each projection.

    Attributes:
        projections: The `AlternatingProjections`, from ``setup`` on.
        converged: The best proxies of the instance that converged last, (C, K, d), before the first None.

    Raises:
        ValueError: In ``setup``, if the module holds no `CCPLoss` or several; during training, if ``monitor`` was not
            logged.

    Example:
        >>> callback = CCPCallback(pool=lambda module, draw: torch.randn(10, 12, 64), monitor="val_map_at_r")
        >>> # trainer = L.Trainer(callbacks=[callback]); trainer.fit(module, ...)

    Source: Gürbüz et al., WACV 2024, Algorithm 1.
    """

    def __init__(
        self,
        pool: Callable[[L.LightningModule, int], Tensor],
        monitor: str = "map_at_r",
        strength: float = 2e-4,
        decay: float = 1.0,
        patience: int = 3,
        min_delta: float = 1e-5,
        *,
        space: Literal["raw", "lipschitz"] = "raw",
        rewind: bool = False,
        reset_optimizer: bool = False,
    ) -> None:
        self.pool = pool
        self.monitor = monitor
        self.reset_optimizer = reset_optimizer
        self.converged: Tensor | None = None
        self.projections: AlternatingProjections
        self._options: dict[str, Any] = {
            "strength": strength,
            "decay": decay,
            "patience": patience,
            "min_delta": min_delta,
            "space": space,
            "rewind": rewind,
        }
        self._restored = False
        self._state: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the criterion."""
        if stage != "fit":
            return
        criteria = [part for part in pl_module.modules() if isinstance(part, CCPLoss)]
        if len(criteria) != 1:
            raise ValueError(f"CCPCallback: expected one CCPLoss within the module, got {len(criteria)}")
        self.projections = AlternatingProjections(pl_module, criteria[0], **self._options)
        self._restored = False
        if self._state is not None:  # loaded before there was something to load it into
            self.load_state_dict(self._state)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the first instance, unless a checkpoint was loaded."""
        if not self._restored:
            self.projections.start(lambda: self.pool(pl_module, 0))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Gradients += λ (θ − θ_k), for the weights that this optimiser is about to step."""
        self.projections.pull(weight for group in optimizer.param_groups for weight in group["params"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the score; project if the instance has converged."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged_score = trainer.callback_metrics.get(self.monitor)
        if logged_score is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"CCPCallback: monitor={self.monitor!r} was not logged in validation, but {logged}")
        # Ranks that saw different data decide as the first one.
        score: float = trainer.strategy.broadcast(float(logged_score))
        if not math.isfinite(score):
            raise ValueError(f"CCPCallback: the score {self.monitor!r} is {score}; has the training diverged?")
        if self.projections.observe(score):
            best = self.projections.best_proxies
            draw = self.projections.instance + 1
            optimizer = self._optimizer_of_proxies(trainer) if self.reset_optimizer else None
            self.projections.project(lambda: self.pool(pl_module, draw), optimizer)
            self.converged = best

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs."""
        if not hasattr(self, "projections"):  # not set up for training
            return {} if self._state is None else self._state
        return {"projections": self.projections.state_dict(), "converged": self.converged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; when only validating or testing, keep it for a later training."""
        self._state = state_dict or None
        if self._state is None or not hasattr(self, "projections"):
            return
        self.projections.load_state_dict(state_dict["projections"])
        self.converged = state_dict["converged"]
        self._restored = True

    def _optimizer_of_proxies(self, trainer: L.Trainer) -> torch.optim.Optimizer | None:
        proxies = self.projections.criterion.proxies
        for optimizer in trainer.optimizers:
            if any(weight is proxies for group in optimizer.param_groups for weight in group["params"]):
                return optimizer
        return None
