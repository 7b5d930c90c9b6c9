"""Alternating projections onto the feasible sets of successive proxies."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ccpml.distributed import gather_rows, rank_range
from ccpml.method.ccp import CCPLoss
from ccpml.method.checks import check_points
from ccpml.method.cover import greedy_k_center
from ccpml.method.normalize import lipschitz_normalize

__all__ = ["AlternatingProjections", "Pool"]

Pool = Callable[[], Tensor]
"""Returns embeddings of b samples per class, shape (C, b, d), by the network as it is now, in eval mode.

On several ranks, of all classes or of this rank's share of them, `ccpml.distributed.rank_range`."""


_STATE = {"started", "instance", "strength_now", "best_score", "stale", "anchor", "best", "best_proxies"}


class AlternatingProjections:
    """Project onto one feasible set after the other: θ_{k+1} = argmin_θ L(θ, proxies_k) + λ/2 ‖θ − θ_k‖².

    An *instance* is the problem given by one choice of proxies. When its score has not improved for ``patience``
    validations it has converged: its best weights become the anchor θ_k towards which the next instance is pulled, and
    its proxies start anew from samples chosen by greedy k-centre away from the best proxies.

    The anchor, the instance's best copies and the counters are in `state_dict`, so a run resumes exactly.

    Args:
        model: The network θ. If it contains ``criterion``, the criterion's parameters are not part of θ.
        criterion: The loss with its proxies P.
        strength: λ, the strength of the pull.
        decay: The strength in instance k is λ · decay^k; the first instance, k = 0, has no anchor and no pull.
        patience: Validations without improvement until an instance has converged.
        min_delta: By how much a score must exceed the instance's best to count as better.
        space: Where k-centre measures distances: between raw embeddings, or after φ (``"lipschitz"``).
        rewind: Whether the next instance starts from the converged one's best weights and buffers, rather than
            from the current ones.
        group: The process group whose ranks train together: each embeds, and chooses from, the pool of its share of
            the classes. By default all ranks. All call the same methods, with the same scores.

    Attributes:
        instance: k, the number of projections made.
        strength_now: λ_now, the strength in this instance.
        best_score: The instance's best score, None before its first validation.
        stale: Validations since then without improvement.

    Raises:
        ValueError: If an argument is out of range.

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

    def __init__(
        self,
        model: nn.Module,
        criterion: CCPLoss,
        strength: float = 2e-4,
        decay: float = 1.0,
        patience: int = 3,
        min_delta: float = 1e-5,
        *,
        space: Literal["raw", "lipschitz"] = "raw",
        rewind: bool = False,
        group: Any = None,
    ) -> None:
        for name, value, good in (
            ("strength", strength, math.isfinite(strength) and strength >= 0),
            ("decay", decay, math.isfinite(decay) and decay > 0),
            ("patience", patience, isinstance(patience, int) and patience >= 1),
            ("min_delta", min_delta, math.isfinite(min_delta) and min_delta >= 0),
            ("space", space, space in ("raw", "lipschitz")),
        ):
            if not good:
                allowed = {"decay": "> 0", "patience": "≥ 1", "space": "'raw' or 'lipschitz'"}.get(name, "≥ 0")
                raise ValueError(f"{name}: expected {allowed}, got {value!r}")
        if not isinstance(criterion, CCPLoss):
            raise ValueError(f"criterion: expected a CCPLoss, got {type(criterion).__name__}")
        self.model = model
        self.criterion = criterion
        self.strength = strength
        self.decay = decay
        self.patience = patience
        self.min_delta = min_delta
        self.space = space
        self.rewind = rewind
        self.group = group
        self.instance = 0
        self.strength_now = 0.0
        self.best_score: float | None = None
        self.stale = 0
        self._started = False
        self._anchor: dict[str, Tensor] | None = None  # θ_k
        self._best: dict[str, Tensor] = {}  # the instance's best weights and buffers ...
        self._best_proxies: Tensor | None = None  # ... and proxies, (C, K, d)

    @property
    def best_proxies(self) -> Tensor | None:
        """The proxies at the instance's best score, (C, K, d); None before its first validation."""
        return self._best_proxies

    def start(self, pool: Pool) -> None:
        """Begin the first instance: proxies at the k-centres of the pool, the origin being the only centre there.

        Args:
            pool: See `Pool`.

        Raises:
            ValueError: If the pool has a wrong shape, too few points a class, or is not finite.
        """
        proxies = self.criterion.proxies
        self._place_proxies(pool, torch.zeros_like(proxies[:, :1]))
        self.instance, self.strength_now, self._anchor = 0, 0.0, None
        self._begin_instance()
        self._started = True

    @torch.no_grad()
    def pull(self, weights: Iterable[Tensor] | None = None) -> None:
        """Add the proximal term's gradient, λ_now (θ − θ_k), to the gradients of the weights.

        Call it once per optimiser step: after the last ``backward`` of an accumulation, before gradients are clipped,
        and under AMP after ``scaler.unscale_(optimizer)``. Frozen parameters and parameters without a gradient are
        left alone; so are the proxies. In the first instance there is no anchor, and it does nothing.

        Args:
            weights: Those about to be stepped, where several optimisers share the network; by default all.
        """
        if self._anchor is None or self.strength_now == 0:
            return
        stepped = None if weights is None else {id(weight) for weight in weights}
        pulled, anchors, gradients = [], [], []
        for name, weight in self._weights().items():
            among = stepped is None or id(weight) in stepped
            if among and weight.requires_grad and weight.grad is not None and name in self._anchor:
                if self._anchor[name].device != weight.device:  # the model was moved since
                    self._anchor[name] = self._anchor[name].to(weight.device)
                pulled.append(weight.detach())
                anchors.append(self._anchor[name])
                gradients.append(weight.grad)
        if pulled:
            torch._foreach_add_(gradients, torch._foreach_sub(pulled, anchors), alpha=self.strength_now)

    def observe(self, score: float) -> bool:
        """Take the score of a validation just made, and say whether the instance has converged.

        A better score keeps copies of the weights and the proxies. The first score of an instance always counts
        as better.

        Args:
            score: The higher the better, such as MAP@R.

        Returns:
            True once the instance's best has not improved in ``patience`` validations: call `project` then.

        Raises:
            ValueError: If the score is not finite.
            RuntimeError: Before `start`.
        """
        self._require_start()
        score = float(score)
        if not math.isfinite(score):
            raise ValueError(f"score: expected a finite number, got {score}")
        if self.best_score is None or score > self.best_score + self.min_delta:
            self.best_score, self.stale = score, 0
            self._keep({**self._state(), "": self.criterion.proxies})
        else:
            self.stale += 1
        return self.stale >= self.patience

    def project(self, pool: Pool, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Begin the next instance from the best of this one.

        θ_k ← the best weights, λ_now ← λ · decay^k, proxies ← k-centres of a fresh pool, the best proxies being
        the centres already there.

        Args:
            pool: See `Pool`; embeddings of fresh samples.
            optimizer: If given, its state of the proxies is dropped; by default it is kept, as the authors do.

        Raises:
            ValueError: If the pool has a wrong shape, too few points a class, or is not finite.
            RuntimeError: Before `start` and the instance's first `observe`.
        """
        self._require_start()
        if self._best_proxies is None:
            raise RuntimeError("project: call observe(score) at least once in this instance first")
        current = {name: value.detach().clone() for name, value in self._state().items()} if self.rewind else {}
        try:
            if self.rewind:
                self._restore(self._state(), self._best)
            self._place_proxies(pool, self._best_proxies)
        except BaseException:  # a failing pool, or Ctrl-C: nothing has happened
            self._restore({name: value for name, value in self._state().items() if name in current}, current)
            raise
        if optimizer is not None:
            optimizer.state.pop(self.criterion.proxies, None)
        self.instance += 1
        self.strength_now = self.strength * self.decay**self.instance
        self._anchor = {name: self._best[name] for name in self._weights()}
        self._begin_instance()

    def state_dict(self) -> dict[str, Any]:
        """Give a copy of everything that makes the run go on as it would have: tensors and plain numbers."""
        return {
            "started": self._started,
            "instance": self.instance,
            "strength_now": self.strength_now,
            "best_score": self.best_score,
            "stale": self.stale,
            "anchor": None if self._anchor is None else {name: x.clone() for name, x in self._anchor.items()},
            "best": {name: x.clone() for name, x in self._best.items()},
            "best_proxies": None if self._best_proxies is None else self._best_proxies.clone(),
        }

    def blank_state(self) -> dict[str, Any]:
        """Give tensors of the shapes of all that `state_dict` can hold, for a checkpoint to be read into."""
        blank = {name: torch.empty_like(value) for name, value in self._state().items()}
        anchor = {name: torch.empty_like(value) for name, value in self._weights().items()}
        return {"anchor": anchor, "best": blank, "best_proxies": torch.empty_like(self.criterion.proxies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. The weights, proxies and optimiser are restored by their own owners.

        Raises:
            ValueError: If the state is incomplete or was made for another model or other proxies.
        """
        missing = _STATE - state.keys()
        if missing:
            raise ValueError(f"state: expected the keys of state_dict(), got none for {sorted(missing)}")
        self._check_fit("anchor", state["anchor"], self._weights())
        self._check_fit("best", state["best"] or None, self._state())
        proxies = state["best_proxies"]
        self._check_fit("best_proxies", None if proxies is None else {"": proxies}, {"": self.criterion.proxies})
        if (state["best_score"] is None) != (proxies is None):
            raise ValueError("state: expected best_score and best_proxies together, got one of them")
        numbers = bool(state["started"]), int(state["instance"]), int(state["stale"]), float(state["strength_now"])
        like = self._state()
        anchor: dict[str, Tensor] | None = state["anchor"]
        self._anchor = anchor and {name: x.to(like[name].device, copy=True) for name, x in anchor.items()}
        self._best = {name: x.to(like[name].device, copy=True) for name, x in state["best"].items()}
        self._best_proxies = None if proxies is None else proxies.to(self.criterion.proxies.device, copy=True)
        self._started, self.instance, self.stale, self.strength_now = numbers
        self.best_score = state["best_score"]

    @torch.no_grad()
    def _keep(self, state: dict[str, Tensor]) -> None:
        """Copy the best weights, buffers and proxies, where they are, over the last copy if there is one."""
        if self._best_proxies is None:
            copies = {name: value.detach().clone() for name, value in state.items()}
        else:
            copies = {**self._best, "": self._best_proxies}
            same = [name for name in copies if copies[name].device == state[name].device]
            torch._foreach_copy_([copies[name] for name in same], [state[name].detach() for name in same])
            copies |= {name: state[name].detach().clone() for name in state.keys() - set(same)}
        self._best_proxies = copies.pop("")
        self._best = copies

    def _begin_instance(self) -> None:
        self.best_score, self.stale = None, 0
        self._best, self._best_proxies = {}, None

    def _require_start(self) -> None:
        if not self._started:
            raise RuntimeError("AlternatingProjections: call start(pool) first")

    @torch.no_grad()
    def _place_proxies(self, pool: Pool, centers: Tensor) -> None:
        """P ← greedy k-centre of the pool, given the centres already there."""
        proxies, sharded = self.criterion.proxies, self.criterion.group is not None
        mine = self.criterion.classes if sharded else rank_range(len(proxies), self.group)
        centers = centers if sharded else centers[mine.start : mine.stop]
        points = self._share_of_pool(pool(), mine, centers).to(proxies.device, proxies.dtype)
        centers = centers.to(proxies.device)
        if self.space == "lipschitz":
            chosen = greedy_k_center(lipschitz_normalize(points), lipschitz_normalize(centers), proxies.shape[1])
        else:
            chosen = greedy_k_center(points, centers, proxies.shape[1])  # (C, K)
        taken = points.take_along_dim(chosen[:, :, None], dim=1)  # (C, K, d)
        proxies.copy_(taken if sharded else gather_rows(taken, self.group))

    def _share_of_pool(self, points: Tensor, mine: range, like: Tensor) -> Tensor:
        """Check a pool, and give the part of it that is of this rank's classes."""
        if isinstance(points, Tensor) and len(points) == self.criterion.num_classes:
            points = points[mine.start : mine.stop]
        check_points("pool", points, like=like)
        if points.shape[1] < self.criterion.proxies.shape[1]:
            needed = f"{self.criterion.proxies.shape[1]} (proxies_per_class)"
            raise ValueError(f"pool: expected at least {needed} points of each class, got {points.shape[1]}")
        finite = torch.isfinite(points).all()[None]
        if not gather_rows(finite, self.criterion.group or self.group).all():  # all ranks stop, or none
            raise ValueError("pool: expected finite embeddings, got NaN or infinity; has the training diverged?")
        return points

    def _weights(self) -> dict[str, nn.Parameter]:
        """Give θ: the model's parameters but for the criterion's."""
        others = {id(parameter) for parameter in self.criterion.parameters()}
        return {name: weight for name, weight in self.model.named_parameters() if id(weight) not in others}

    def _state(self) -> dict[str, Tensor]:
        """Give what a best copy holds: θ, and the model's buffers (running statistics) but for the criterion's."""
        others = {id(buffer) for buffer in self.criterion.buffers()}
        buffers = {name: x for name, x in self.model.named_buffers() if id(x) not in others}
        return {**self._weights(), **buffers}

    @staticmethod
    @torch.no_grad()
    def _restore(current: dict[str, Tensor], best: dict[str, Tensor]) -> None:
        for name, value in current.items():
            value.copy_(best[name])

    @staticmethod
    def _check_fit(what: str, saved: dict[str, Tensor] | None, current: dict[str, Any]) -> None:
        if saved is None:
            return
        expected = {name: tuple(value.shape) for name, value in current.items()}
        got = {name: tuple(value.shape) for name, value in saved.items()}
        for name in sorted(expected.keys() | got.keys()):
            if expected.get(name) != got.get(name):
                raise ValueError(f"state[{what!r}][{name!r}]: expected {expected.get(name)}, got {got.get(name)}")
