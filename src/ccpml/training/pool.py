"""The pool: embeddings of b images of every class, from which proxies are chosen."""

import torch
from torch import Tensor, nn

from ccpml.data import ImageDataset, in_chunks, pool_draws, train_loader
from ccpml.distributed import rank_range
from ccpml.training.embed import embed

__all__ = ["EmbeddingPool"]


class EmbeddingPool:
    """Embeddings of b images per class, by the network in eval mode.

    Which images and which crops is a function of the dataset's seed and the number of the pool alone.

    Args:
        dataset: The training images, with the transform that the pool shall have (the authors': training's).
        per_class: b.
        batch_size: Images embedded at a time.
        workers: Processes that read images.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> from ccpml.data import EvalTransform, ImageDataset, ImageTable
        >>> table = ImageTable(np.zeros((3, 32, 32), np.uint8), np.array([0, 0, 1]), ("a", "b"))
        >>> pool = EmbeddingPool(ImageDataset(table, EvalTransform(8), channels=1), per_class=2)
        >>> class Flat(nn.Flatten):
        ...     device = "cpu"
        >>> pool(Flat(), 0).shape
        torch.Size([2, 2, 64])
    """

    def __init__(self, dataset: ImageDataset, per_class: int, batch_size: int = 128, workers: int = 0) -> None:
        self.dataset = dataset
        self.per_class = per_class
        self.batch_size = batch_size
        self.workers = workers

    def __call__(self, module: nn.Module, draw: int) -> Tensor:
        """Embed a pool.

        Args:
            module: From images to embeddings; it has a ``device``, as a LightningModule has.
            draw: Number of the pool; each gives other images.

        Returns:
            Embeddings, (C, b, d); on several ranks, those of this rank's share of the classes.
        """
        draws = pool_draws(self.dataset.table.labels, self.per_class, self.dataset.seed, draw)
        mine = rank_range(len(draws) // self.per_class)
        start = min(mine.start, len(draws) // self.per_class - 1)  # a rank without classes embeds one, which tells d
        draws = draws[self.per_class * start : self.per_class * max(mine.stop, start + 1)]
        device = torch.device(getattr(module, "device", "cpu"))
        batches = train_loader(
            self.dataset, in_chunks(draws, self.batch_size), self.workers, pin_memory=device.type == "cuda"
        )
        embeddings, _ = embed(module, batches, device)  # (C · b, d)
        return embeddings.view(-1, self.per_class, embeddings.shape[1])[: len(mine)]
