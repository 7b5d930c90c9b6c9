"""Embed whole data sets with a network in eval mode."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ccpml.distributed import gather_rows
from ccpml.method.checks import uncompiled
from ccpml.models import EmbeddingModel

__all__ = ["embed", "eval_mode", "images_and_labels", "in_words", "pooled_features"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a block with a module in eval mode and without gradients; restore the mode of each submodule afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def embed(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed all batches with a network in eval mode.

    Args:
        module: Network from images (B, C, H, W) to embeddings (B, d).
        batches: Images and labels (B,).
        device: Device of the module.
        progress: Called with the number of images after each batch.
        forward: Embeds in place of the module, as `MetricLearning.embed_again` does for batches that come again.

    Returns:
        Embeddings, not normalized, float32 (N, d), and labels, int64 (N,), both on the CPU.

    Raises:
        ValueError: If there is no batch, or one is no pair of tensors, with as many labels as images.

    Example:
        >>> embeddings, labels = embed(nn.Flatten(), [(torch.ones(2, 1, 3, 3), torch.tensor([0, 1]))])
        >>> embeddings.shape, labels.tolist()
        (torch.Size([2, 9]), [0, 1])
    """
    embeddings, labels = [], []
    forward = module if forward is None else forward
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: expected a network, got {type(module).__name__}")
    if not isinstance(batches, Iterable):
        raise ValueError(f"batches: expected pairs of images and labels, got {type(batches).__name__}")
    with eval_mode(module):
        for batch in batches:
            images, classes = images_and_labels(batch, "batches")
            if len(images) != len(classes):
                raise ValueError(
                    f"batches: expected a label for each of {len(images)} images, got {len(classes)} labels"
                )
            embeddings.append(forward(images.to(device, non_blocking=True)).float().cpu())
            labels.append(classes.to(torch.int64).cpu())
            if progress is not None:
                progress(len(images))
    if not embeddings:
        raise ValueError("batches: expected at least one, got none")
    return torch.cat(embeddings), torch.cat(labels)


def pooled_features(
    model: EmbeddingModel, batches: Iterable[tuple[Tensor, Tensor]], progress: Callable[[int], object] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the features that the linear layer of a model receives, by the network in eval mode.

    On several ranks each one loads its part of the images, as many batches as it likes, and all get those of all ranks.

    Args:
        model: The model, on the device where it computes.
        batches: Images and labels (B,).
        progress: Called with the number of images of this rank after each batch.

    Returns:
        Features, float32 (N, F), and labels, int64 (N,), both on the CPU.

    Raises:
        ValueError: If the model is none, or as in `embed`.

    Example:
        >>> from ccpml import create_model
        >>> model = create_model("small_conv", embedding_dim=16, channels=1)
        >>> features, labels = pooled_features(model, [(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))])
        >>> features.shape
        torch.Size([2, 128])
    """
    if not isinstance(uncompiled(model), EmbeddingModel):
        raise ValueError(f"model: expected an EmbeddingModel, got {type(model).__name__}")
    own = embed(_Pooled(model), batches, model.mean.device, progress)
    features, labels = (gather_rows(rows) for rows in own)
    return features, labels


class _Pooled(nn.Module):
    """The model without its linear layer."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.pooled(images)


def images_and_labels(batch: object, name: str) -> tuple[Tensor, Tensor]:
    """Return the two parts of a batch, (B, C, H, W) and (B,); ``name`` is what it came from.

    Raises:
        ValueError: If it has others.
    """
    pair = batch if isinstance(batch, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise ValueError(f"{name}: expected pairs of tensors, images and labels, got {in_words(batch)}")
    return pair[0], pair[1]


def in_words(batch: object) -> str:
    """Return the type of a batch, and those of its parts if it has some in order."""
    parts = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, list | tuple) else ""
    return f"{type(batch).__name__}{parts}"
