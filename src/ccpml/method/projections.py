"""Alternating projections onto the feasible sets of successive proxies: Algorithm 1."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ccpml.method.ccp import CCPLoss
from ccpml.method.checks import uncompiled
from ccpml.method.projection_state import check_state
from ccpml.method.separation import MIN_SEPARATION
from ccpml.method.shared_pool import Pool, SharedPool
from ccpml.method.snapshots import (
    check_shapes,
    clones,
    copy_onto,
    is_shard,
    local_part,
    matching,
    placed_like,
    plain_names,
    restored,
    state_of,
    weights_of,
    whole_copies,
)
from ccpml.numbers import as_int, is_finite
from ccpml.options import ProjectionOptions

__all__ = ["AlternatingProjections", "Pool"]


class AlternatingProjections:
    """Project onto one feasible set after the other: θ_{k+1} = argmin_θ L(θ, proxies_k) + λ/2 ‖θ − θ_k‖².

    An *instance* is the problem given by one choice of proxies. It has converged when its score has not improved for
    ``patience`` validations. Then its best weights become the anchor θ_k, towards which the next instance is pulled,
    and its proxies restart from new samples, chosen by greedy k-center away from the best proxies.

    `start` places the first proxies, or `start_when_ready`, once the embedding tells the classes apart; until then the
    criterion is the plain pair loss.

    `state_dict` holds the anchor, the best copies of the instance and the counters, so that a resumed run equals an
    uninterrupted one.

    Args:
        model: The network θ. If it contains ``criterion``, the parameters of the criterion are not part of θ. It may be
            compiled, wrapped by DDP, or sharded by ``fully_shard``; names in the state are those of the network itself.
        criterion: The loss with its proxies P.
        options: Options of the projections.
        group: Process group whose ranks train together, by default all ranks. Each embeds the pool of its share of
            the classes and chooses their proxies. All ranks call the same methods, with the same scores.
        fields: Fields of `ProjectionOptions`, instead of ``options``.

    Attributes:
        instance: k, the number of projections made; −1 while the first proxies are yet to be placed.
        strength_now: λ_now, the strength of the pull in this instance.
        best_score: Best score of the instance, None before its first validation.
        stale: Number of validations since the best one.
        best_proxies: Proxies at the best score of the instance, (C, K, d), None before its first validation.
        started: Whether the first proxies were placed, or a state restored in which they had been.
        separation: Separation of the classes as `start_when_ready` measured it last, None if it did not.

    Raises:
        ValueError: If an option is out of range, or both ``options`` and ``fields`` are given; if the model is a
            FullyShardedDataParallel (FSDP1), or the proxies are sharded by ``fully_shard``.
        TypeError: If a field is not one of `ProjectionOptions`.

    Example:
        >>> from ccpml import CCPLoss, ContrastiveLoss
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> criterion = CCPLoss(ContrastiveLoss(), num_classes=4, embedding_dim=2, proxies_per_class=2)
        >>> projections = AlternatingProjections(model, criterion, patience=1)
        >>> pool = lambda: model(torch.randn(4, 5, 3)).detach()  # 5 samples of each of 4 classes
        >>> projections.start(pool)
        >>> projections.observe(0.50), projections.observe(0.49)
        (False, True)
        >>> projections.project(pool)
        >>> projections.instance, projections.strength_now
        (1, 0.0002)

    Source: Gürbüz et al., WACV 2024, Algorithm 1 and Section 4.
    """

    instance: int
    strength_now: float
    started: bool
    best_score: float | None
    best_proxies: Tensor | None
    _best: dict[str, Tensor]  # best weights and buffers of the instance
    _scored: dict[str, Tensor] | None  # those that `capture` copied for the next `observe`
    _anchor: dict[str, Tensor] | None  # θ_k

    def __init__(
        self,
        model: nn.Module,
        criterion: CCPLoss,
        options: ProjectionOptions | None = None,
        *,
        group: Any = None,
        **fields: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: expected nn.Module, got {type(model).__name__}")
        criterion = uncompiled(criterion)
        if not isinstance(criterion, CCPLoss):
            raise ValueError(f"criterion: expected a CCPLoss, got {type(criterion).__name__}")
        weights_of(model, criterion)  # checks them
        if is_shard(criterion.proxies):
            raise ValueError("proxies: expected whole on each rank, got a shard; call fully_shard on the network alone")
        self.model = model
        self.criterion = criterion
        self.options = ProjectionOptions.of(options, fields)
        self._pool = SharedPool(criterion, group, self.options.space)
        self._begin(started=False)
        self.separation: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether `start_when_ready` has found that it is too early for proxies."""
        return self.criterion.warming

    def start(self, pool: Pool) -> None:
        """Begin the first instance: proxies at the k-centers of the pool, away from the origin, and no anchor.

        Args:
            pool: See `Pool`.

        Raises:
            ValueError: If the pool has a wrong shape, too few points per class, or is not finite.
        """
        self._pool.choose_proxies(self._pool.embed(pool), centers=torch.zeros_like(self.criterion.proxies[:, :1]))
        self._begin(started=True)

    def start_when_ready(self, pool: Pool, steps: int | None = None, sample: Pool | None = None) -> bool:
        """Begin the first instance if the option ``warm_start`` says so, otherwise wait.

        Call it in place of `start`, and again after each validation as long as ``started`` is False. Proxies mean
        something once samples are near those of their own class. With ``warm_start="auto"``, it begins when
        `ccpml.method.class_separation` of the pool reaches 0.5 (`MIN_SEPARATION`), measured after φ, as embeddings are
        compared, among up to 256 evenly spaced classes of all ranks. A pretrained network begins at once. So does a
        pool of one sample per class, in which nothing can be measured. While waiting, the criterion is the plain pair
        loss (``criterion.warming``), `observe` records nothing, and `pull` leaves the network alone.

        Args:
            pool: See `Pool`.
            steps: Number of optimizer steps made, for a ``warm_start`` that is a number of steps.
            sample: The pool of the evenly spaced classes alone, so that with many classes a measurement does not embed
                the others; on several ranks, those of this rank. By default they are taken from the pool.

        Returns:
            Whether the first proxies are placed.

        Raises:
            ValueError: As `start`, or if ``steps`` is required and not given.
        """
        warm_start, ready = self.options.warm_start or "never", True
        if self.started:
            return True
        if warm_start == "auto":
            if sample is None:
                points = self._pool.embed(pool)
                pool = lambda: points  # noqa: E731  # embedded once
            self.separation = self._pool.separation(self._pool.evenly_spaced(points) if sample is None else sample())
            ready = self.separation is None or self.separation >= MIN_SEPARATION
        elif warm_start != "never":
            if steps is None:
                raise ValueError(f"steps: expected the number of steps made, for warm_start {warm_start}, got none")
            ready = as_int("steps", steps, 0) >= warm_start
        if ready:
            self.start(pool)
        else:
            self.criterion.warming, self.instance = True, -1
        return ready

    @torch.no_grad()
    def pull(self, weights: Iterable[Tensor] | None = None) -> None:
        """Add the gradient of the proximal term, λ_now (θ − θ_k), to the gradients of the weights.

        Call it once per optimizer step: after the last ``backward`` of an accumulation, before gradients are clipped,
        and under AMP after ``scaler.unscale_(optimizer)``. It skips frozen parameters, parameters without a gradient,
        and the proxies. In the first instance, which has no anchor, it does nothing. While the first proxies are yet to
        be placed, it drops their gradient, so that the optimizer leaves them alone.

        Args:
            weights: Weights of the optimizer about to step, where several share the network; by default all.

        Raises:
            ValueError: If a gradient is sparse; the pull is on all weights.
        """
        if self.waiting:
            self.criterion.proxies.grad = None
        if self._anchor is None or self.strength_now == 0:
            return
        stepped = None if weights is None else {id(weight) for weight in weights}
        own = weights_of(self.model, self.criterion)
        self._anchor = placed_like(own, matching(self._anchor, own))  # the model may have been moved or changed
        pulled, anchors, gradients = [], [], []
        for name, weight in own.items():
            among = weight.requires_grad and (stepped is None or id(weight) in stepped)
            if among and weight.grad is not None and name in self._anchor:
                if weight.grad.layout != torch.strided:
                    raise ValueError(
                        f"gradient of {name!r}: expected a dense one, got {weight.grad.layout}; pass sparse=False"
                    )
                pulled.append(local_part(weight))
                anchors.append(local_part(self._anchor[name]))
                gradients.append(local_part(weight.grad))
        if gradients:
            torch._foreach_add_(gradients, torch._foreach_sub(pulled, anchors), alpha=self.strength_now)

    def capture(self) -> None:
        """Copy the weights and buffers that are being scored, for the next `observe` to keep if the score is better.

        It is required only where the network has other weights when `observe` is called, as with averaged weights that
        are exchanged for the validation.
        """
        self._scored = clones(state_of(self.model, self.criterion))

    def observe(self, score: float) -> bool:
        """Record the score of a validation, and return whether the instance has converged.

        At a better score it keeps copies of the weights, those of `capture` or of now, and of the proxies. The first
        score of an instance always counts as better. While the first proxies are yet to be placed, it records nothing.

        Args:
            score: Score to maximize, such as MAP@R.

        Returns:
            True if the best score of the instance has not improved for ``patience`` validations: call `project` then.

        Raises:
            ValueError: If the score is not finite.
            RuntimeError: If called before `start`.
        """
        if not is_finite(score):
            raise ValueError(f"score: expected a finite number, got {score!r}; has the training diverged?")
        score = float(score)
        scored, self._scored = self._scored, None
        if self.waiting:
            return False
        self._require_start()
        if self.best_score is None or score > self.best_score + self.options.min_delta:
            self.best_score, self.stale = score, 0
            self._best = scored or copy_onto(self._best, state_of(self.model, self.criterion))
            self.best_proxies = self.criterion.proxies.detach().clone()
        else:
            self.stale += 1
        return self.stale >= self.options.patience

    def project(self, pool: Pool, optimizer: Optimizer | Iterable[Optimizer] | None = None) -> None:
        """Begin the next instance from the best of this one.

        θ_k ← the best weights, λ_now ← λ · decay^k, proxies ← the k-centers of a fresh pool, away from the best
        proxies. If it raises, nothing has changed.

        Args:
            pool: See `Pool`; embeddings of fresh samples.
            optimizer: The optimizer of the proxies, or several of which one has them; required by the option
                ``reset_proxy_state``.

        Raises:
            ValueError: If the pool has a wrong shape, too few points per class, or is not finite; or if
                ``reset_proxy_state`` is set and no optimizer has the proxies.
            RuntimeError: If called before `start` or before the first `observe` of the instance.
        """
        self._require_start()
        if self.best_proxies is None:
            raise RuntimeError("project: call observe(score) at least once in this instance first")
        reset = self._optimizer_of_proxies(optimizer) if self.options.reset_proxy_state else None
        rewound = restored(self.model, self.criterion, self._best) if self.options.rewind else nullcontext()
        with rewound:
            self._pool.choose_proxies(self._pool.embed(pool), centers=self.best_proxies)
        if reset is not None:
            reset.state.pop(self.criterion.proxies, None)
        self._anchor = matching(self._best, weights_of(self.model, self.criterion))  # θ_k
        self.instance += 1
        self.strength_now = self._strength()
        self._forget_best()

    def _strength(self) -> float:
        """Return λ · decay^k; 0 in the first instance, which has no anchor."""
        return 0.0 if self._anchor is None else self.options.strength * self.options.decay**self.instance

    def _begin(self, started: bool) -> None:
        self.started, self.criterion.warming = started, False
        self.instance, self.strength_now, self._anchor = 0, 0.0, None
        self._forget_best()

    def _forget_best(self) -> None:
        self.best_score, self.stale = None, 0
        self._best, self._scored, self.best_proxies = {}, None, None

    def _require_start(self) -> None:
        if not self.started:
            raise RuntimeError("AlternatingProjections: call start(pool) first")

    def _optimizer_of_proxies(self, given: Optimizer | Iterable[Optimizer] | None) -> Optimizer:
        optimizers = [given] if isinstance(given, Optimizer) else list(given or ())
        for optimizer in optimizers:
            if any(weight is self.criterion.proxies for group in optimizer.param_groups for weight in group["params"]):
                return optimizer
        got = f"{len(optimizers)} without them" if optimizers else "none"
        raise ValueError(f"reset_proxy_state: expected the optimizer of the proxies, got {got}")

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of what a resumed run needs: tensors and plain numbers.

        With sharded proxies or weights it holds those of all ranks, and all ranks call it.
        """
        best_proxies = None if self.best_proxies is None else self.criterion.gather_classes(self.best_proxies.clone())
        own, current = weights_of(self.model, self.criterion), state_of(self.model, self.criterion)
        buffers = {name: buffer for name, buffer in current.items() if name not in own}
        return {
            "started": self.started,
            "waiting": self.waiting,
            "separation": self.separation,
            "instance": self.instance,
            "best_score": self.best_score,
            "stale": self.stale,
            "anchor": None if self._anchor is None else whole_copies(matching(self._anchor, own)),
            "best": whole_copies(matching(self._best, own)),
            "best_buffers": whole_copies(matching(self._best, buffers)),
            "best_proxies": best_proxies,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, on any number of ranks. Restore model, criterion and optimizer apart.

        Options are not part of the state: those of this object hold at once, so that the pull has its strength.

        Raises:
            ValueError: If the state is incomplete, holds values of other types, or belongs to another model or other
                proxies.
        """
        check_state(state)
        best_proxies = state["best_proxies"]
        own, current = weights_of(self.model, self.criterion), state_of(self.model, self.criterion)
        anchor = None if state["anchor"] is None else plain_names(state["anchor"], own)
        best, buffers = plain_names(state["best"], own), plain_names(state["best_buffers"], current)
        check_shapes("anchor", anchor or {}, own)
        check_shapes("best", best, own)
        if (state["best_score"] is None) != (best_proxies is None):
            raise ValueError("state: expected best_score and best_proxies together, got one of them")
        if best_proxies is not None:
            best_proxies = self.criterion.own_classes(best_proxies)
            check_shapes("best_proxies", {"proxies": best_proxies}, {"proxies": self.criterion.proxies})
        self.started, self.instance, self.stale = bool(state["started"]), int(state["instance"]), int(state["stale"])
        self.criterion.warming, self.separation = bool(state["waiting"]), state["separation"]
        self.best_score = state["best_score"]
        self._anchor = None if anchor is None else placed_like(current, clones(anchor))
        self.strength_now = self._strength()
        self._best, self._scored = placed_like(current, clones({**best, **buffers})), None
        self.best_proxies = None if best_proxies is None else best_proxies.to(self.criterion.proxies.device)
