"""Embeddings of whole sets, by a network in eval mode."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["embed", "eval_mode"]


class eval_mode:  # noqa: N801  # reads as the statement that it is: with eval_mode(module)
    """Run a block with a module in eval mode and without gradients; afterwards each part trains as it did before.

    Example:
        >>> module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with eval_mode(module):
        ...     module[0].training
        False
        >>> module[0].training, module[1].training
        (True, False)
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self._training = [part for part in self.module.modules() if part.training]
        self.module.eval()
        self._no_grad.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._no_grad.__exit__(*exc)
        for part in self._training:
            part.training = True


def embed(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed all batches with a network in eval mode.

    Args:
        module: From images (B, C, H, W) to embeddings (B, d).
        batches: Images, and their labels (B,).
        device: Where the module is.
        progress: Called with the number of images after each batch.

    Returns:
        Embeddings as the network gives them, float32 (N, d), and labels, int64 (N,), both on the CPU.

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
