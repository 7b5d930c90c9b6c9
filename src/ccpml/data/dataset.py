"""From table to tensors: the dataset, and loaders whose images do not depend on the number of workers."""

import signal
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ccpml.data.images.read import read_part
from ccpml.data.sampler import Draw
from ccpml.data.seeds import CROPS, generator
from ccpml.data.table import ImageTable
from ccpml.data.transforms import EvalTransform, Transform, View

__all__ = ["ImageDataset", "eval_loader", "train_loader"]


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The images of a table, transformed. The randomness of an image is that of (seed, draw) and nothing else.

    Args:
        table: Images and classes.
        transform: From (H, W, C) to the size of the model.
        channels: C: 1 for grey, 3 for RGB.
        seed: Same seed, same crops.

    Example:
        >>> table = ImageTable(np.zeros((2, 40, 40), np.uint8), np.array([0, 1]), ("a", "b"))
        >>> image, label = ImageDataset(table, EvalTransform(32), channels=3)[1]
        >>> image.shape, image.dtype, label
        (torch.Size([3, 32, 32]), torch.uint8, 1)
    """

    def __init__(self, table: ImageTable, transform: Transform, channels: int, seed: int = 0) -> None:
        self.table = table
        self.transform = transform
        self.channels = channels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, draw: Draw | int) -> tuple[Tensor, int]:
        """Read an image: uint8 (C, size, size), and its class.

        Args:
            draw: A draw of a sampler; a row alone is its first copy in epoch 0.

        Raises:
            BadImageError: If the image cannot be read.
        """
        epoch, row, copy = draw if isinstance(draw, tuple) else Draw(0, draw)

        def view(shape: tuple[int, ...]) -> View:
            return self.transform.view(shape, generator(CROPS, self.seed, epoch, row, copy))

        image, needed = read_part(self.table.images[row], self.channels, view, self.transform.min_size)
        pixels = np.ascontiguousarray(needed.of(image).transpose(2, 0, 1))
        return torch.from_numpy(pixels), int(self.table.labels[row])


def train_loader(
    dataset: ImageDataset,
    batches: Iterable[list[Draw]],
    workers: int = 0,
    pin_memory: bool = False,
    persistent: bool = False,
) -> DataLoader[Any]:
    """Load batches of draws: uint8 images (B, C, size, size), and labels, int64 (B,).

    Args:
        dataset: Images.
        batches: Draws of each batch: a ``BatchRange`` or a list (such as a pool ``in_chunks``).
        workers: Number of processes that read ahead; 0 reads in this one. The images are the same.
        pin_memory: Put batches in page-locked memory, for a faster way to a GPU.
        persistent: Keep the workers for the next iteration.
    """
    return _loader(dataset, batches, workers, pin_memory, persistent)


def eval_loader(
    table: ImageTable,
    transform: EvalTransform,
    channels: int,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Any]:
    """Load all images of a table in their order, as batches like those of ``train_loader``.

    The loader is meant to be used again and again, at each validation: its workers stay. With several processes each
    loads its contiguous share of the images, as many as the others but for one.
    """
    rows = list(range(len(table) * rank // world_size, len(table) * (rank + 1) // world_size))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    dataset = ImageDataset(table, transform, channels)
    return _loader(dataset, batches, workers, pin_memory, persistent=True)


class _Loader(DataLoader[Any]):
    """A loader that lets go of its workers where one of them fails."""

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return batches if self.num_workers == 0 else _until_error(batches)


def _until_error(batches: Iterator[Any]) -> Iterator[Any]:
    """Hand on what workers read, until one of them fails.

    The error that torch raises here refers to itself by its traceback, and to the workers: they would stay until the
    garbage is collected, and then be waited for in vain. Where it happened, its text says.
    """
    try:
        yield from batches
    except Exception as error:
        del batches
        raise error.with_traceback(None) from None


def _loader(
    dataset: ImageDataset, batches: Iterable[Any], workers: int, pin_memory: bool, persistent: bool
) -> DataLoader[Any]:
    return _Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=persistent and workers > 0,
        # DataLoader draws a seed for its workers; without its own generator it would disturb torch's global one.
        generator=torch.Generator(),
    )


def _start_worker(_: int) -> None:
    """Set up a worker process: one thread, and Ctrl-C left to the main process, which ends its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_main_is_gone


def _unless_main_is_gone(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an exception in a worker's helper thread, unless it is that the main process has hung up.

    The thread hands tensors over; where Ctrl-C comes in the middle of that, its traceback tells nobody anything.
    Errors of a dataset do not come this way: they are raised in the main process.
    """
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)
