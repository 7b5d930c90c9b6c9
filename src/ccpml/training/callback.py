"""CCP for any Lightning training."""

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from ccpml.method import AlternatingProjections, CCPLoss
from ccpml.options import ProjectionOptions

__all__ = ["CCPCallback"]


class CCPCallback(L.Callback):
    """Alternating projections in a Lightning training, of your own module or of `ccpml.training.MetricLearning`.

    The module holds a `CCPLoss` as a submodule, gives its parameters to an optimizer, and logs a validation score. The
    callback sets the first proxies to real samples before the first step, pulls the weights before each optimizer step
    (after unscaling, before clipping), and after each validation observes the score and, if the instance has converged,
    projects. Its state is part of Lightning's checkpoints.

    On several ranks (``strategy="ddp"``) the pool is shared, and ``training_step`` computes the loss of the joined
    batch: ``self.criterion(*gather_batch(self(images), labels))``. Checkpoints of sharded proxies hold the proxies of
    all ranks and load on any number of ranks; all ranks call ``trainer.save_checkpoint``, as Lightning requires.

    Args:
        pool: Called as ``pool(module, draw)``; returns embeddings of b samples of each class by the module in
            eval mode, (C, b, d). ``draw`` is 0 at the start and then the number of the new instance. If the pool is a
            function of it, a resumed run equals an uninterrupted one. On several ranks, C may be the classes of this
            rank, as in `EmbeddingPool`.
        monitor: Name of the logged score to maximize.
        options: Options of the projections.
        fields: Fields of `ProjectionOptions`, instead of ``options``.

    Attributes:
        projections: The `AlternatingProjections`, from ``setup`` on.
        converged: Best proxies of the instance that converged last, (C, K, d), None before the first.

    Raises:
        ValueError: In ``setup``, if the module holds no `CCPLoss` or several; during training, if ``monitor`` was not
            logged or is not finite, or if ``reset_proxy_state`` is set and no optimizer has the proxies.

    Example:
        >>> import torch
        >>> callback = CCPCallback(pool=lambda module, draw: torch.randn(10, 12, 64), monitor="val_map_at_r")
        >>> # trainer = L.Trainer(callbacks=[callback]); trainer.fit(module, ...)

    Source: Gürbüz et al., WACV 2024, Algorithm 1.
    """

    def __init__(
        self,
        pool: Callable[[L.LightningModule, int], Tensor],
        monitor: str = "map_at_r",
        options: ProjectionOptions | None = None,
        **fields: Any,
    ) -> None:
        self.pool = pool
        self.monitor = monitor
        self.options = ProjectionOptions.of(options, fields)
        self.converged: Tensor | None = None
        self.projections: AlternatingProjections
        self._state: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the criterion in the module."""
        if stage != "fit":
            return
        criteria = [part for part in pl_module.modules() if isinstance(part, CCPLoss)]
        if len(criteria) != 1:
            raise ValueError(f"CCPCallback: expected one CCPLoss in the module, got {len(criteria)}")
        self.projections = AlternatingProjections(pl_module, criteria[0], self.options)
        if self._state is not None:  # loaded before ``setup``
            self.load_state_dict(self._state)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Register hooks so that checkpoints contain the optimizer state of all proxies."""
        for optimizer in trainer.optimizers:
            self.projections.criterion.attach(optimizer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the first instance, unless a checkpoint was loaded."""
        if not self.projections.started:
            self.projections.start(lambda: self.pool(pl_module, 0))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Add λ (θ − θ_k) to the gradients of the weights that this optimizer is about to step."""
        self.projections.pull(weight for group in optimizer.param_groups for weight in group["params"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Observe the score, and project if the instance has converged."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged_score = trainer.callback_metrics.get(self.monitor)
        if logged_score is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"CCPCallback: expected {self.monitor!r} to be logged in validation, got {logged}")
        # Ranks that validate on different data must decide alike.
        score: float = trainer.strategy.broadcast(float(logged_score))
        if self.projections.observe(score):
            self.converged, draw = self.projections.best_proxies, self.projections.instance + 1
            self.projections.project(lambda: self.pool(pl_module, draw), trainer.optimizers)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        if not hasattr(self, "projections"):  # not set up for training
            return {} if self._state is None else self._state
        return {
            "projections": self.projections.state_dict(),
            "converged": None if self.converged is None else self.projections.criterion.gather_classes(self.converged),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; before ``setup``, keep it for a later training."""
        self._state = state_dict or None
        if self._state is None or not hasattr(self, "projections"):
            return
        self.projections.load_state_dict(state_dict["projections"])
        converged = state_dict["converged"]
        self.converged = None if converged is None else self.projections.criterion.own_classes(converged)
