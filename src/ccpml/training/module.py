"""The Lightning module: network and criterion as one state."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Adam, Optimizer
from torch.utils.data import DistributedSampler

from ccpml.distributed import all_ranks, all_reduce_sum, gather_batch, gather_rows, world_size
from ccpml.method import CCPLoss, lipschitz_normalize
from ccpml.method.checks import uncompiled
from ccpml.models import EmbeddingModel
from ccpml.numbers import check_flags, is_finite
from ccpml.pairwise.inputs import describe
from ccpml.retrieval import RetrievalScores, evaluate
from ccpml.training.embed import images_and_labels, in_words
from ccpml.training.repeated import RepeatedEmbedding

__all__ = ["MetricLearning", "evaluate_with_roles"]


def evaluate_with_roles(
    embeddings: Tensor, labels: Tensor, is_query: Tensor | None = None, **options: Any
) -> RetrievalScores:
    """Score φ-normalized embeddings: each image against all others or, with roles, queries against the gallery.

    ``is_query``, bool (N,), says whether each image is a query or else in the gallery; None if each is both. Options
    are those of `evaluate`.

    Raises:
        ValueError: If ``is_query`` has another dtype or shape, or as in `evaluate`.
    """
    if not isinstance(embeddings, Tensor):
        raise ValueError(f"embeddings: expected a tensor, got {type(embeddings).__name__}")
    embeddings = lipschitz_normalize(embeddings)
    if is_query is None:
        return evaluate(embeddings, labels, **options)
    if not (isinstance(is_query, Tensor) and is_query.dtype == torch.bool and is_query.shape == embeddings.shape[:1]):
        expected = f"torch.bool ({len(embeddings)},), one for each image"  # integers would be taken as rows
        raise ValueError(f"is_query: expected {expected}, got {describe(is_query)}")
    if is_query.all() or not is_query.any():
        got = "no query" if is_query.numel() and not is_query.any() else "queries alone"
        raise ValueError(f"is_query: expected queries and images of a gallery, got {got}")
    gallery = ~is_query
    return evaluate(embeddings[is_query], labels[is_query], embeddings[gallery], labels[gallery], **options)


class MetricLearning(L.LightningModule):
    """Train a network with a criterion; validate by retrieval.

    The criterion is a submodule, so its proxies are trained, moved and saved with the network. The optimizer is Adam
    with coupled weight decay, also of the proxies.

    Batches are images (B, C, H, W) and labels (B,). Each validation logs ``map_at_r``, ``precision_at_1`` and
    ``r_precision``, and keeps the embeddings in ``validation``. ``trainer.test`` logs the same of the test images, as
    ``test_map_at_r`` and so on; ``trainer.predict`` returns the embeddings of each batch.

    On several ranks (Lightning's ``strategy="ddp"``) each rank loads its part of each batch and of the validation
    images, in the order of the ranks; validation images that Lightning's own sampler deals out are put in their order,
    each once, and images that each rank has loaded, as nothing deals them out, count once. The loss is that of the
    joined batch, and queries are shared.

    Args:
        model: Network from images to embeddings (B, d).
        criterion: Loss, called as ``criterion(embeddings, labels)``.
        lr: Learning rate.
        weight_decay: Weight decay.
        is_query: Whether each validation image is a query, bool (N,); None if they have no roles. It is an attribute;
            set that of the test images before ``trainer.test``.
        proxy_lr_factor: The learning rate of the criterion's parameters is ``lr`` times this.
        shard_proxies: Whether the proxies of a `CCPLoss` are sharded over the ranks.
        head_lr_factor: The learning rate of the embedding layer of an `EmbeddingModel` is ``lr`` times this.

    Attributes:
        validation: Embeddings (N, d) and labels (N,) of the last validation.

    Raises:
        ValueError: If a rate or the weight decay is no finite number of at least 0.

    Example:
        >>> from ccpml import ContrastiveLoss
        >>> module = MetricLearning(nn.Flatten(), ContrastiveLoss(), lr=1e-3)
        >>> module.training_step((torch.randn(4, 1, 2, 2), torch.tensor([0, 0, 1, 1])), 0).ndim
        0
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        lr: float,
        weight_decay: float = 1e-4,
        is_query: Tensor | None = None,
        proxy_lr_factor: float = 1.0,
        shard_proxies: bool = False,
        head_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        check_flags(shard_proxies=shard_proxies)
        if is_query is not None and not (isinstance(is_query, Tensor) and is_query.dtype == torch.bool):
            raise ValueError(f"is_query: expected torch.bool (N,), one for each image, got {describe(is_query)}")
        for name, part in (("model", model), ("criterion", criterion)):
            if not isinstance(part, nn.Module):
                raise ValueError(f"{name}: expected a module, got {part!r}")
        rates = {"lr": lr, "proxy_lr_factor": proxy_lr_factor, "head_lr_factor": head_lr_factor}
        for name, value in {**rates, "weight_decay": weight_decay}.items():
            if not (is_finite(value) and value >= 0):
                raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
        self.model, self.criterion = model, criterion
        self.lr, self.weight_decay = lr, weight_decay
        self.proxy_lr_factor, self.head_lr_factor = proxy_lr_factor, head_lr_factor
        self.is_query, self.shard_proxies = is_query, shard_proxies
        self.validation: tuple[Tensor, Tensor] | None = None
        self._repeated: RepeatedEmbedding | None = None
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, C, H, W): embeddings (B, d)."""
        embeddings: Tensor = self.model(images)
        return embeddings

    def embed_again(self, images: Tensor) -> Tensor:
        """Embed images that come after each few steps: as `forward`, but what frozen stages make of them is kept."""
        if not isinstance(self.model, EmbeddingModel):
            embeddings: Tensor = self(images)
            return embeddings
        if self._repeated is None or self._repeated.model is not self.model:
            self._repeated = RepeatedEmbedding(self.model)
        return self._repeated(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        images, labels = images_and_labels(batch, "train_dataloaders")
        loss: Tensor = self.criterion(*gather_batch(self(images), labels))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Drop what a validation that was interrupted has left."""
        self._outputs.clear()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Embed a batch."""
        images, labels = images_and_labels(batch, "val_dataloaders")
        self._outputs.append((self.embed_again(images).float(), labels))

    def on_validation_epoch_end(self) -> None:
        """Score the whole validation set; the batches of a sanity check are only embedded."""
        if self._trainer is not None and self.trainer.sanity_checking:
            self._outputs.clear()
            return
        scores, self.validation = self._score(*self._joined_outputs(), "val_dataloaders")
        for name, score in scores.items():
            self.log(name, score, sync_dist=world_size() > 1)  # the same on each rank

    def on_test_epoch_start(self) -> None:
        """Drop what a test that was interrupted has left."""
        self._outputs.clear()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Embed a batch, which comes once: nothing of it is kept as of those of a validation."""
        images, labels = images_and_labels(batch, "test_dataloaders")
        self._outputs.append((self(images).float(), labels))

    def on_test_epoch_end(self) -> None:
        """Score the whole test set; the embeddings of the last validation are kept."""
        for name, score in self._score(*self._joined_outputs(), "test_dataloaders")[0].items():
            self.log(f"test_{name}", score, sync_dist=world_size() > 1)  # the same on each rank

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Embed a batch of images, with labels or without: float32 (B, d)."""
        images = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if not isinstance(images, Tensor):
            raise ValueError(f"dataloaders: expected images, alone or before their labels, got {in_words(batch)}")
        embeddings: Tensor = self(images)
        return embeddings.float()

    def score_validation(self, embeddings: Tensor, labels: Tensor) -> dict[str, float]:
        """Score embeddings (n, d) of this rank's validation images with those of the others; keep all."""
        scores, self.validation = self._score(embeddings, labels)
        return scores

    def _joined_outputs(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings and labels of this rank's batches, and forget them."""
        embeddings, labels = (torch.cat(parts) for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        return embeddings, labels

    def _score(
        self, embeddings: Tensor, labels: Tensor, loaders: str = ""
    ) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
        """Score embeddings (n, d) of this rank with those of the others; return these too.

        They are in the order of the images, of which each is there once, also where the samplers of the trainer's
        ``loaders`` have dealt them out to the ranks in turn and repeated some.
        """
        own = self._own_rows(loaders, len(labels)) if loaders and world_size() > 1 else None
        embeddings, labels = gather_rows(embeddings), gather_rows(labels)
        if own is not None:
            rows = np.unique(gather_rows(own).cpu().numpy(), return_index=True)[1]
            embeddings, labels = embeddings[rows], labels[rows]
        elif loaders and self._are_the_same(embeddings, labels):
            embeddings, labels = (rows[: len(rows) // world_size()] for rows in (embeddings, labels))
        if not torch.isfinite(embeddings).all():
            raise ValueError("embeddings: expected finite values, the training has diverged; try a lower learning rate")
        scores = evaluate_with_roles(embeddings, labels, self.is_query, group=all_ranks())
        names = "map_at_r", "precision_at_1", "r_precision"
        return {name: getattr(scores, name) for name in names}, (embeddings, labels)

    def _own_rows(self, loaders: str, count: int) -> Tensor | None:
        """Return which images a `DistributedSampler` gave to this rank, (n,); None if there is none.

        Lightning gives one to each loader, unless it is told not to.
        """
        given = getattr(self.trainer, loaders)
        if isinstance(given, dict | list | tuple):  # of one, as Lightning refuses several for this module
            (given,) = given.values() if isinstance(given, dict) else given
        sampler = getattr(getattr(given, "batch_sampler", None), "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            return None
        with torch.random.fork_rng(devices=[]):
            rows, again = list(sampler), list(sampler)
        if not gather_rows(torch.tensor([rows == again], device=self.device)).all():
            got = "a random sampler, of which each rank draws its own"
            raise ValueError(f"{loaders}: expected images in one order, got {got}; pass a Subset of the data instead")
        return torch.tensor(rows[:count], device=self.device)

    def _are_the_same(self, embeddings: Tensor, labels: Tensor) -> bool:
        """Whether all ranks have embedded all images, as no sampler dealt them out: rows of the ranks, joined, (N,)."""
        ranks, (count, rest) = world_size(), divmod(len(labels), world_size())
        if ranks == 1 or rest or not count or (self.is_query is not None and len(self.is_query) != count):
            return False
        (first, *others), (known, *more) = torch.split(embeddings, count), torch.split(labels, count)
        near = (first - first.mean(dim=0)).norm(dim=1).mean() / 100  # ranks may round differently
        same = all(bool(((first - each).norm(dim=1) <= near).all()) for each in others)
        return same and all(torch.equal(known, each) for each in more)

    def configure_model(self) -> None:
        """Shard the proxies if requested, and have DDP ignore shards and what ranks keep equal by themselves."""
        criterion = uncompiled(self.criterion)
        if self.shard_proxies and world_size() > 1 and isinstance(criterion, CCPLoss) and not self._sharded():
            criterion.shard(all_ranks())
        own = [name for name, _ in self.criterion.named_parameters() if name.endswith("proxies")] * self._sharded()
        ignored = [name for name, _ in self.criterion.named_buffers()] + own
        self._ddp_params_and_buffers_to_ignore = [f"criterion.{name}" for name in ignored]

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the norm of all gradients, including those of the proxies on other ranks."""
        if gradient_clip_val is None or gradient_clip_algorithm == "value" or not self._sharded():
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        proxies = self.criterion.get_parameter("proxies")
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        network = [weight.grad for weight in weights if weight is not proxies and weight.grad is not None]
        own = proxies.new_zeros(()) if proxies.grad is None else proxies.grad.norm().square()
        norm = (get_total_norm(network).square() + all_reduce_sum(own, self.criterion.group)).sqrt()
        clip_grads_with_norm_(weights, gradient_clip_val, norm)

    def _sharded(self) -> bool:
        """Whether each rank holds the proxies of its classes alone."""
        return getattr(self.criterion, "group", None) is not None

    def configure_optimizers(self) -> Optimizer:
        """Create Adam of the network and the criterion, with a group for each learning rate."""
        model = uncompiled(self.model)
        head = list(model.linear.parameters()) if isinstance(model, EmbeddingModel) else []
        in_head = set(map(id, head))
        backbone = [weight for weight in self.model.parameters() if id(weight) not in in_head]
        factors = (1.0, backbone), (self.head_lr_factor, head), (self.proxy_lr_factor, self.criterion.parameters())
        groups = []
        for factor, weights in factors:
            trained = [weight for weight in weights if weight.requires_grad]
            rate = self.lr * factor
            groups += [{"params": trained, "lr": rate, "initial_lr": rate}] if trained else []
        # Fused Adam is faster. In mixed precision, Lightning cannot clip gradients for it.
        mixed = self._trainer is not None and str(self._trainer.precision).endswith("-mixed")
        fused = not mixed and {weight.device.type for weight in self.parameters()} <= {"cpu", "cuda"}
        return Adam(groups, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
