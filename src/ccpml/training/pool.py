"""The pool: embeddings of b images of each class, from which proxies are chosen."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ccpml.data import ImageDataset, in_chunks, pool_draws, train_loader
from ccpml.distributed import rank_range, world_size
from ccpml.method.separation import evenly_spaced_classes
from ccpml.numbers import as_int
from ccpml.training.embed import embed

__all__ = ["EmbeddingPool"]


class EmbeddingPool:
    """Embeddings of b images per class by the network in eval mode.

    The choice of images and crops is a function of the seed of the dataset and the number of the pool.

    Args:
        dataset: Training images, with the transform of the pool (in the authors' code, that of training).
        per_class: b.
        batch_size: Number of images embedded at a time.
        workers: Number of processes that read images.

    Raises:
        ValueError: If ``dataset`` is none, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> from ccpml.data import EvalTransform, ImageDataset, ImageTable
        >>> table = ImageTable(np.zeros((3, 32, 32), np.uint8), np.array([0, 0, 1]), ("a", "b"))
        >>> pool = EmbeddingPool(ImageDataset(table, EvalTransform(8), channels=1), per_class=2)
        >>> pool(nn.Flatten(), 0).shape
        torch.Size([2, 2, 64])
    """

    def __init__(self, dataset: ImageDataset, per_class: int, batch_size: int = 128, workers: int = 0) -> None:
        if not isinstance(dataset, ImageDataset):
            raise ValueError(f"dataset: expected an ImageDataset, got {type(dataset).__name__}")
        self.dataset, self.per_class = dataset, as_int("per_class", per_class, 1)
        self.batch_size, self.workers = as_int("batch_size", batch_size, 1), as_int("workers", workers, 0)

    def __call__(self, module: nn.Module, draw: int) -> Tensor:
        """Embed a pool.

        Args:
            module: Network from images to embeddings; its ``device`` (a LightningModule has one) is by default the CPU.
            draw: Number of the pool.

        Returns:
            Embeddings, (C, b, d); on several ranks, those of this rank's classes.
        """
        return self._embed(module, draw, range(self.dataset.table.num_classes))

    def sample(self, module: nn.Module, draw: int) -> Tensor:
        """Embed the part of a pool in which the separation of classes is measured: at most 256 evenly spaced classes.

        The arguments and the result are those of a call.
        """
        return self._embed(module, draw, evenly_spaced_classes(self.dataset.table.num_classes))

    def _embed(self, module: nn.Module, draw: int, chosen: Sequence[int]) -> Tensor:
        """Embed the draws of those of some classes that are this rank's, (classes, b, d)."""
        draws = pool_draws(self.dataset.table.labels, self.per_class, self.dataset.seed, draw)
        count = self.dataset.table.num_classes
        mine, share = rank_range(count), -(-count // world_size())
        classes = [label for label in chosen if label in mine]
        # All ranks embed as many images, as those that share the weights must; more than a rank's own are dropped.
        shown = classes + [0] * (max(Counter(label // share for label in chosen).values()) - len(classes))
        draws = [one for label in shown for one in draws[self.per_class * label : self.per_class * (label + 1)]]
        device = torch.device(getattr(module, "device", "cpu"))
        chunks = in_chunks(draws, self.batch_size)
        batches = train_loader(self.dataset, chunks, self.workers, pin_memory=device.type == "cuda")
        embeddings, _ = embed(module, batches, device)  # (C · b, d)
        return embeddings.view(-1, self.per_class, embeddings.shape[1])[: len(classes)]
