"""The start of a Lightning training: untouched features are scored, and the embedding layer is set in closed form."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ccpml.distributed import all_ranks
from ccpml.method.checks import uncompiled
from ccpml.method.metric_loss import NORMALIZED_LENGTH
from ccpml.models import EmbeddingModel, start_head
from ccpml.numbers import is_one_of
from ccpml.progress import progress_bar
from ccpml.training.embed import pooled_features
from ccpml.training.module import MetricLearning, evaluate_with_roles

__all__ = ["Batches", "HeadStartCallback"]

Batches = Callable[[int, int], DataLoader[Any]]
"""A function of rank and number of ranks that returns a loader of this rank's share of some images."""


class HeadStartCallback(L.Callback):
    """Set the embedding layer of a `MetricLearning` before its first step; score its untouched features, if requested.

    A training that resumes from a checkpoint keeps its weights and the scores. No global random number is drawn. This
    callback comes before those that read the weights when training starts, such as `CCPCallback`.

    Args:
        kind: ``whitening`` or ``pca``: see [`start_head`][ccpml.start_head]; ``identity``: embeddings are the features
            themselves, of as many dimensions; ``random``: the layer is left as it is.
        train: Training images without augmentation.
        test: Images on which the features are scored, by cosine.
        is_query: Whether each of these is a query, bool (N,); None if they have no roles.
        progress: Whether to show progress on standard error where it takes longer than a second.

    Attributes:
        scores: Scores of the untouched features, with ``dimensions``; None without ``test``.

    Raises:
        ValueError: If ``kind`` is none of these, or ``train`` no function; when a training starts, if its module is not
            a `MetricLearning` of an `EmbeddingModel`, or its embedding layer does not suit the kind.
    """

    def __init__(
        self,
        kind: Literal["whitening", "pca", "identity", "random"],
        train: Batches,
        test: Batches | None = None,
        is_query: Tensor | None = None,
        progress: bool = True,
    ) -> None:
        if not is_one_of(kind, ("whitening", "pca", "identity", "random")):
            raise ValueError(f"kind: expected 'whitening', 'pca', 'identity' or 'random', got {kind!r}")
        if not callable(train):
            raise ValueError(f"train: expected a function of batches, got {type(train).__name__}")
        self.kind, self.train, self.test, self.is_query, self.progress = kind, train, test, is_query, progress
        self.scores: dict[str, Any] | None = None
        self._resumed = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget what belongs to an earlier training."""
        if stage == "fit":
            self.scores, self._resumed = None, False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note that the weights are those of a checkpoint, unless none had been made by a step."""
        self._resumed = checkpoint["global_step"] > 0

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the features and set the layer, unless a checkpoint was loaded."""
        if self._resumed:
            return
        model = uncompiled(pl_module.model) if isinstance(pl_module, MetricLearning) else pl_module
        if not isinstance(model, EmbeddingModel):
            raise ValueError(f"model: expected a MetricLearning of an EmbeddingModel, got {type(model).__name__}")
        if self.test is not None:
            features, labels = self._features(trainer, model, self.test, "untouched features, test images")
            features = nn.functional.normalize(features, dim=1)
            scores = evaluate_with_roles(features, labels, self.is_query, group=all_ranks())
            self.scores = {"dimensions": features.shape[1], **scores.as_dict()}
        if self.kind == "identity":
            dim, size = model.linear.weight.shape
            if dim != size:
                raise ValueError(f"embedding_dim: expected {size}, the features, for kind 'identity', got {dim}")
            nn.init.eye_(model.linear.weight)
            if model.linear.bias is not None:
                nn.init.zeros_(model.linear.bias)
        elif self.kind != "random":
            features, labels = self._features(trainer, model, self.train, "start of the embedding layer")
            length = getattr(pl_module.criterion, "starting_length", NORMALIZED_LENGTH)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                start = start_head(model.linear, features, labels, self.kind, length)
            if start.kind != self.kind and trainer.is_global_zero:
                text = "no class has two different images, so the embedding layer starts by pca"
                tqdm.write(f"head_start {self.kind}: {text}", file=sys.stderr)

    def _features(
        self, trainer: L.Trainer, model: EmbeddingModel, batches: Batches, title: str
    ) -> tuple[Tensor, Tensor]:
        shown, ranks = self.progress and trainer.is_global_zero, trainer.world_size
        loader = batches(trainer.global_rank, ranks)
        total: int = len(loader.dataset) // ranks  # type: ignore[arg-type]  # torch's is not known to have a length
        with progress_bar(total, "image", title, shown=shown, delay=1.0) as bar:
            return pooled_features(model, loader, bar.update)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores, which a resumed run does not compute again."""
        return {"scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores."""
        self.scores = state_dict["scores"]
