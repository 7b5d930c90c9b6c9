"""The Lightning module: network and criterion as one state."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ccpml.distributed import gather_rows
from ccpml.method import gather_batch, lipschitz_normalize
from ccpml.retrieval import RetrievalScores, evaluate

__all__ = ["MetricLearning", "evaluate_with_roles"]


def evaluate_with_roles(
    embeddings: Tensor, labels: Tensor, is_query: Tensor | None = None, **options: Any
) -> RetrievalScores:
    """Score φ-normalised embeddings: each image against all others or, given roles, queries against the gallery.

    Args:
        embeddings: As the network gives them, (N, d).
        labels: Classes, (N,).
        is_query: Which images are queries (the others are the gallery), bool (N,); None where each is both.
        options: Passed on to `evaluate`.
    """
    embeddings = lipschitz_normalize(embeddings)
    if is_query is None:
        return evaluate(embeddings, labels, **options)
    gallery = ~is_query
    return evaluate(embeddings[is_query], labels[is_query], embeddings[gallery], labels[gallery], **options)


class MetricLearning(L.LightningModule):
    """Train a network with a criterion; validate by retrieval.

    The criterion is a submodule: its proxies are trained, moved and saved with the network. The optimiser is
    Adam with coupled weight decay, which touches the proxies too, and one learning rate for all unless the
    proxies of a rival learn faster.

    Batches are images (B, C, H, W) and labels (B,). After each validation it logs ``map_at_r``,
    ``precision_at_1`` and ``r_precision``, and keeps the embeddings in ``validation``.

    On several ranks (Lightning's ``strategy="ddp"``) each is given its part of each batch and of the validation images,
    in the order of the ranks; the loss is that of the joined batch, and queries are shared.

    Args:
        model: From images to embeddings (B, d).
        criterion: Called as ``criterion(embeddings, labels)``.
        lr: Learning rate.
        weight_decay: Weight decay.
        is_query: Which validation images are queries, where they have roles, bool (N,).
        proxy_lr_factor: The learning rate of the criterion's own parameters is ``lr`` times this.

    Attributes:
        validation: Embeddings (N, d) and labels (N,) of the last validation.

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
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.lr = lr
        self.weight_decay = weight_decay
        self.is_query = is_query
        self.proxy_lr_factor = proxy_lr_factor
        self.validation: tuple[Tensor, Tensor] | None = None
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embed images: (B, C, H, W) to (B, d)."""
        embeddings: Tensor = self.model(images)
        return embeddings

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        images, labels = batch
        loss: Tensor = self.criterion(*gather_batch(self(images), labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Embed a batch."""
        images, labels = batch
        self._outputs.append((self(images).float(), labels))

    def on_validation_epoch_end(self) -> None:
        """Score the whole validation set."""
        embeddings, labels = (gather_rows(torch.cat(parts)) for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        if not torch.isfinite(embeddings).all():
            raise ValueError(
                "the embeddings are no longer finite: the training has diverged; try a lower learning rate"
            )
        self.validation = embeddings, labels
        ranks = distributed.group.WORLD if self.trainer.world_size > 1 else None
        scores = evaluate_with_roles(embeddings, labels, self.is_query, group=ranks)
        for name in ("map_at_r", "precision_at_1", "r_precision"):
            self.log(name, getattr(scores, name), sync_dist=ranks is not None)  # the same on each rank

    def configure_model(self) -> None:
        """Tell DDP what it need not keep equal over the ranks: what the criterion remembers is so by itself."""
        shards = ["criterion.proxies"] if self._sharded() else []
        self._ddp_params_and_buffers_to_ignore = [f"criterion.{name}" for name, _ in self.criterion.named_buffers()]
        self._ddp_params_and_buffers_to_ignore += shards

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients, those of other ranks' proxies among them."""
        if gradient_clip_val is None or gradient_clip_algorithm == "value" or not self._sharded():
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        proxies = self.criterion.get_parameter("proxies")
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        of_network = [weight.grad for weight in weights if weight is not proxies and weight.grad is not None]
        of_proxies = proxies.new_zeros(()) if proxies.grad is None else proxies.grad.norm().square()
        distributed.all_reduce(of_proxies, group=self.criterion.group)
        total = (get_total_norm(of_network).square() + of_proxies).sqrt()
        clip_grads_with_norm_(weights, gradient_clip_val, total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse where the file of the first rank would lack the proxies of the others.

        Raises:
            RuntimeError: If proxies are sharded; `save_sharded` saves them.
        """
        if self._sharded():
            raise RuntimeError("proxies are sharded over ranks: save them by ccpml.training.save_sharded")

    def _sharded(self) -> bool:
        return getattr(self.criterion, "group", None) is not None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Set up Adam over network and criterion."""
        groups = [
            {"params": [weight for weight in part.parameters() if weight.requires_grad], "lr": lr}
            for part, lr in ((self.model, self.lr), (self.criterion, self.lr * self.proxy_lr_factor))
        ]
        trained = [group for group in groups if group["params"]]
        # One pass over weights and moments. Mixed precision keeps to several: Lightning clips no fused optimiser there.
        mixed = self._trainer is not None and str(self._trainer.precision).endswith("-mixed")
        fused = not mixed and {weight.device.type for weight in self.parameters()} <= {"cpu", "cuda"}
        return torch.optim.Adam(trained, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
