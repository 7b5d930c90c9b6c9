"""Embed whole data sets with a network in eval mode."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["embed", "eval_mode"]


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
) -> tuple[Tensor, Tensor]:
    """Embed all batches with a network in eval mode.

    Args:
        module: Network from images (B, C, H, W) to embeddings (B, d).
        batches: Images and labels (B,).
        device: Device of the module.
        progress: Called with the number of images after each batch.

    Returns:
        Embeddings, not normalized, float32 (N, d), and labels, int64 (N,), both on the CPU.

    Example:
        >>> embeddings, labels = embed(nn.Flatten(), [(torch.ones(2, 1, 3, 3), torch.tensor([0, 1]))])
        >>> embeddings.shape, labels.tolist()
        (torch.Size([2, 9]), [0, 1])
    """
    embeddings, labels = [], []
    with eval_mode(module):
        for images, classes in batches:
            embeddings.append(module(images.to(device, non_blocking=True)).float().cpu())
            labels.append(classes.to(torch.int64).cpu())
            if progress is not None:
                progress(len(images))
    return torch.cat(embeddings), torch.cat(labels)
