"""CCP for any Lightning training."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from ccpml.method import AlternatingProjections, CCPLoss
from ccpml.method.separation import MAX_CLASSES
from ccpml.options import ProjectionOptions
from ccpml.training.embed import eval_mode
from ccpml.training.schedule import StepCounter, check_validates

__all__ = ["CCPCallback"]


class CCPCallback(StepCounter):
    """Alternating projections in a Lightning training, of your own module or of `ccpml.training.MetricLearning`.

    The module holds a `CCPLoss` as a submodule, gives its parameters to an optimizer, and logs a validation score. The
    callback sets the first proxies to real samples, by default before the first step, pulls the weights before each
    optimizer step (after unscaling, before clipping), and after each validation observes the score and, if the instance
    has converged, projects. It keeps the weights that were scored, also where a callback averages weights.

    Its state is part of Lightning's checkpoints. Each ``fit`` begins with new proxies, or from the checkpoint that it
    is given; what was loaded to validate or test does not matter to a later ``fit``. The criterion may be created in
    ``configure_model``.

    On several ranks (``strategy="ddp"``) the pool is shared, and ``training_step`` computes the loss of the joined
    batch: ``self.criterion(*gather_batch(self(images), labels))``. Checkpoints of sharded proxies hold the proxies of
    all ranks and load on any number of ranks; all ranks call ``trainer.save_checkpoint``, as Lightning requires.

    Args:
        pool: Called as ``pool(module, draw)``, with the module in eval mode, without gradients, and outside of autocast
            in the precision of its weights; returns embeddings of b samples of each class, (C, b, d). ``draw`` is 0 for
            the first proxies and then the number of the new instance. If the pool is a function of it, a resumed run
            equals an uninterrupted one. On several ranks, C may be the classes of this rank, as in `EmbeddingPool`.
            With more than 256 classes, a ``warm_start="auto"`` measures those of ``pool.sample(module, draw)``, if it
            has that method.
        monitor: Name of the logged score to maximize.
        options: Options of the projections. Steps of a ``warm_start`` are those of ``trainer.global_step``, to which
            each optimizer adds its own.
        fields: Fields of `ProjectionOptions`, instead of ``options``.

    Attributes:
        projections: The `AlternatingProjections`, from ``on_fit_start`` on.
        converged: Best proxies of the instance that converged last, (C, K, d), None before the first.

    Raises:
        ValueError: If the module holds no `CCPLoss` or several, if no optimizer has its proxies and they are not
            frozen, or if ``monitor`` was not logged in a validation or is not finite.
        RuntimeError: If there is no validation.

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
        if not callable(pool):
            raise ValueError(f"pool: expected a function of module and draw, such as EmbeddingPool, got {pool!r}")
        if not isinstance(monitor, str):
            raise ValueError(f"monitor: expected the name of a logged score, got {monitor!r}")
        self.pool = pool
        self.monitor = monitor
        self.options = ProjectionOptions.of(options, fields)
        self.converged: Tensor | None = None
        self.projections: AlternatingProjections
        self._module: L.LightningModule | None = None
        self._stage = ""  # of the trainer: fit, validate, ...
        self._loaded: dict[str, Any] = {}  # state loaded other than by a fit; no training uses it
        self._first_step, self._validated = 0, False  # of this fit
        self._last_score: Tensor | None = None  # logged before this validation
        self._trained, self._stepped = False, False  # a batch; an optimizer that Lightning knows of

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget what belongs to an earlier training: each fit begins again, or from the checkpoint that it loads."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" or pl_module is not self._module:
            self.converged, self._loaded = None, {}
            vars(self).pop("projections", None)
        self._module, self._stage = pl_module, stage

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the criterion; register hooks so that checkpoints contain the optimizer state of all proxies."""
        criterion = self._find_projections().criterion
        for optimizer in trainer.optimizers:
            criterion.attach(optimizer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the first instance or wait, unless a checkpoint was loaded in which that was done."""
        super().on_train_start(trainer, pl_module)
        check_validates(trainer, "CCPCallback", self.monitor, "when to project")
        self._check_optimizers(trainer.optimizers)
        self._first_step, self._validated = trainer.global_step, False
        self._trained, self._stepped = False, False
        if not (self.projections.started or self.projections.waiting):
            self._start_when_ready(trainer, pl_module)

    def on_train_batch_end(self, *_: Any) -> None:
        """Note that there was a batch."""
        self._trained = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if the training had no validation, after which alone it projects, or never placed its proxies."""
        if self._trained and not self._stepped:
            rank_zero_warn(
                "CCPCallback: the training made no step of Lightning's, so no weight was pulled; step those of "
                "self.optimizers(), which call the callbacks"
            )
        if trainer.global_step <= self._first_step:
            return
        if not self._validated:
            rank_zero_warn("CCPCallback: the training ended without a validation, so it made no projection")
        elif self.projections.waiting:
            rank_zero_warn(
                "CCPCallback: the training ended before the first proxies were placed, so it trained the plain loss; "
                "train longer, or choose another warm_start"
            )

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Add λ (θ − θ_k) to the gradients of the weights that this optimizer is about to step."""
        self._stepped = True
        self.projections.pull(weight for group in optimizer.param_groups for weight in group["params"])

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the score of the last validation, which Lightning keeps until another one is logged."""
        self._last_score = trainer.callback_metrics.get(self.monitor)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy the weights that are about to be scored: callbacks that average weights replace them afterwards."""
        if batch_idx == dataloader_idx == 0 and self._observes(trainer) and self.projections.started:
            self.projections.capture()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Observe the score, and project if the instance has converged; or begin the first instance."""
        if not self._observes(trainer):
            return
        logged_score = trainer.callback_metrics.get(self.monitor)
        if logged_score is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"CCPCallback: expected {self.monitor!r} to be logged in validation, got {logged}")
        if logged_score is self._last_score:
            raise ValueError(
                f"CCPCallback: expected {self.monitor!r} to be logged in each validation, got only an earlier value of "
                f"{float(logged_score):.4g}"
            )
        self._validated = True
        # Ranks that validate on different data must decide alike.
        score: float = trainer.strategy.broadcast(float(logged_score))
        if self.projections.observe(score):
            self.converged, draw = self.projections.best_proxies, self.projections.instance + 1
            self.projections.project(partial(self._in_eval_mode, self.pool, pl_module, draw), trainer.optimizers)
        elif self.projections.waiting:
            self._start_when_ready(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; after `load_state_dict` outside of a fit, the state that was loaded."""
        if self._loaded or not hasattr(self, "projections"):
            return self._loaded
        return {
            "projections": self.projections.state_dict(),
            "converged": None if self.converged is None else self.projections.criterion.gather_classes(self.converged),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint that a fit loads. One loaded to validate or test is no training's state."""
        if self._stage != "fit":
            self._loaded = state_dict
            return
        if not isinstance(state_dict, dict):
            raise ValueError(f"CCPCallback: expected the state of a CCPCallback, got {type(state_dict).__name__}")
        missing = sorted({"projections", "converged"} - state_dict.keys())
        if missing:
            raise ValueError(f"CCPCallback: expected the state of a CCPCallback, got none for {missing}")
        projections, converged = self._find_projections(), state_dict["converged"]
        projections.load_state_dict(state_dict["projections"])
        self.converged = None if converged is None else projections.criterion.own_classes(converged)

    def _find_projections(self) -> AlternatingProjections:
        """Return the projections of this fit; ``configure_model`` may have created the criterion after `setup`."""
        if not hasattr(self, "projections"):
            assert self._module is not None
            criteria = [part for part in self._module.modules() if isinstance(part, CCPLoss)]
            if len(criteria) != 1:
                way_out = "" if criteria else "; assign it to an attribute of the module, such as self.criterion"
                raise ValueError(f"CCPCallback: expected one CCPLoss in the module, got {len(criteria)}{way_out}")
            self.projections = AlternatingProjections(self._module, criteria[0], self.options)
        return self.projections

    def _check_optimizers(self, optimizers: Sequence[Optimizer]) -> None:
        """Raise ValueError if no optimizer moves the proxies, or warn if none is meant to, or if several do."""
        proxies = self.projections.criterion.proxies
        weights = [{id(weight) for group in one.param_groups for weight in group["params"]} for one in optimizers]
        count = sum(id(proxies) in own for own in weights)
        if not proxies.requires_grad:
            rank_zero_warn("CCPCallback: the proxies are frozen, so they move only at a projection")
        elif count == 0:
            raise ValueError(
                f"CCPCallback: expected an optimizer with the proxies, got {len(optimizers)} without them; give the "
                "parameters of the CCPLoss to an optimizer in configure_optimizers, or freeze the proxies"
            )
        elif count > 1:
            rank_zero_warn(
                f"CCPCallback: the proxies are in {count} optimizers, each of which moves them; keep them in one"
            )

    def _start_when_ready(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        of_some, many = getattr(self.pool, "sample", None), self.projections.criterion.num_classes > MAX_CLASSES
        sample = partial(self._in_eval_mode, of_some, module, 0) if of_some is not None and many else None
        pool = partial(self._in_eval_mode, self.pool, module, 0)
        self.projections.start_when_ready(pool, self.steps_made(trainer), sample)

    @staticmethod
    def _in_eval_mode(pool: Callable[[L.LightningModule, int], Tensor], module: L.LightningModule, draw: int) -> Tensor:
        """Call a pool; a function of the user need not set the mode, in which BatchNorm and dropout differ."""
        with eval_mode(module):
            return pool(module, draw)

    def _observes(self, trainer: L.Trainer) -> bool:
        """Whether this is a validation of the training, not its sanity check."""
        return trainer.state.fn == "fit" and not trainer.sanity_checking
