"""Dataset and loaders; their images do not depend on the number of workers."""

import atexit
import multiprocessing
import operator
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ccpml.data.images.read import read_part
from ccpml.data.sampler import Draw
from ccpml.data.seeds import CROPS, generator
from ccpml.data.table import ImageTable, check_table
from ccpml.data.transforms import EvalTransform, Transform, View
from ccpml.interrupts import block_signals, continue_at_end_of_parent
from ccpml.numbers import as_int, check_flags

__all__ = ["ImageDataset", "ended_workers", "eval_loader", "train_loader"]

_ROW_ALONE = -1
"""Copy number of crops that are drawn for a row alone; those of draws are 0 or more."""

_PATIENCE = 2.0
"""Seconds for which the interpreter waits, when it ends, for a process that reads images."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The images of a table, transformed.

    The random crop of a `Draw` depends on the seed and the draw alone. Each access by a row alone, as in an ordinary
    shuffled DataLoader, takes another crop, from torch's random generator; ``torch.manual_seed`` makes these
    repeatable.

    Args:
        table: Images and classes.
        transform: Crop and resize.
        channels: C, 1 for gray or 3 for RGB.
        seed: Random seed of the crops.

    Raises:
        ValueError: If an argument is of another type.

    Example:
        >>> table = ImageTable(np.zeros((2, 40, 40), np.uint8), np.array([0, 1]), ("a", "b"))
        >>> image, label = ImageDataset(table, EvalTransform(32), channels=3)[1]
        >>> image.shape, image.dtype, label
        (torch.Size([3, 32, 32]), torch.uint8, 1)
    """

    def __init__(self, table: ImageTable, transform: Transform, channels: int, seed: int = 0) -> None:
        check_table("table", table)
        if not isinstance(transform, Transform):
            raise ValueError(f"transform: expected a TrainTransform or EvalTransform, got {type(transform).__name__}")
        self.table = table.absolute()
        self.transform = transform
        self.channels = as_int("channels", channels)
        self.seed = as_int("seed", seed)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, draw: Draw | int) -> tuple[Tensor, int]:
        """Return an image, uint8 (C, size, size), and its class.

        Args:
            draw: A draw of a sampler, or a row, whose random crop is another one each time.

        Raises:
            BadImageError: If the image cannot be read.
        """
        epoch, row, copy = self.draw_of(draw)

        def view(shape: tuple[int, ...]) -> View:
            return self.transform.view(shape, generator(CROPS, self.seed, epoch, row, copy))

        image, needed = read_part(
            self.table.images[row], self.channels, view, self.transform.min_size, self.table.rotate
        )
        pixels = np.ascontiguousarray(needed.of(image).transpose(2, 0, 1))
        return torch.from_numpy(pixels), int(self.table.labels[row])

    def draw_of(self, draw: Draw | int) -> Draw:
        """Return a draw as it is, and for a row alone a new one."""
        if isinstance(draw, tuple):
            return draw
        number = int(torch.randint(2**62, (), device="cpu")) if self.transform.is_random else 0
        return Draw(number, operator.index(draw), _ROW_ALONE)


def train_loader(
    dataset: ImageDataset,
    batches: Iterable[list[Draw] | list[int]],
    workers: int = 0,
    pin_memory: bool = False,
    persistent: bool = False,
) -> DataLoader[Any]:
    """Return a loader of batches of draws: uint8 images (B, C, size, size) and int64 labels (B,).

    Args:
        dataset: Images.
        batches: Draws or rows of each batch: a ``BatchRange`` or a list (such as a pool ``in_chunks``).
        workers: Number of worker processes; 0 loads in this process.
        pin_memory: Whether to put batches in page-locked memory, for faster transfer to a GPU.
        persistent: Whether to keep the workers for the next iteration.
    """
    workers = as_int("workers", workers, 0)
    check_flags(pin_memory=pin_memory, persistent=persistent)
    return _Loader(
        dataset,
        batch_sampler=_Draws(dataset, batches),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=persistent and workers > 0,
        # DataLoader draws a base seed; a generator of its own keeps torch's global one unchanged.
        generator=torch.Generator(),
    )


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
    """Return a loader of all images of a table in order, in batches like those of ``train_loader``.

    The workers persist, since the loader is used again at each validation. Each rank loads a contiguous share of the
    images; the shares differ in size by at most one.

    Raises:
        ValueError: If an argument is out of range.
    """
    batch_size, world_size = as_int("batch_size", batch_size, 1), as_int("world_size", world_size, 1)
    if as_int("rank", rank) not in range(world_size):
        raise ValueError(f"rank: expected 0..{world_size - 1}, got {rank}")
    check_table("table", table)
    rows = list(range(len(table) * rank // world_size, len(table) * (rank + 1) // world_size))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return train_loader(ImageDataset(table, transform, channels), batches, workers, pin_memory, persistent=True)


@contextmanager
def ended_workers(*loaders: DataLoader[Any]) -> Iterator[None]:
    """Run a block that iterates loaders, and end their workers after it.

    Persistent ones would live until the loaders are garbage collected, and torch then waits for 5 seconds for each of
    them, as what tells them to end may be collected before.
    """
    try:
        yield
    finally:
        for loader in loaders:
            iterator, loader._iterator = loader._iterator, None
            if isinstance(iterator, _MultiProcessingDataLoaderIter):
                iterator._shutdown_workers()


class _Draws:
    """Batches of draws. Those of rows alone are made here, so that they do not depend on the workers."""

    def __init__(self, dataset: ImageDataset, batches: Iterable[list[Draw] | list[int]]) -> None:
        self.dataset = dataset
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # of batches without a length, a loader has none

    def __iter__(self) -> Iterator[list[Draw]]:
        return ([self.dataset.draw_of(draw) for draw in batch] for batch in self.batches)


class _Loader(DataLoader[Any]):
    """A loader that ends its workers as soon as one of them fails.

    The exception that torch raises refers to the workers and, through its traceback, to itself: the workers would live
    until it is garbage collected. Its message contains the traceback of the worker; the one raised has the message that
    it had there.
    """

    def __iter__(self) -> Any:
        # On the CPU, whatever the default device is, where torch would draw seeds and put labels. Workers begin
        # with signals blocked, as they have the handlers of the main process until they set their own.
        with torch.device("cpu"), block_signals():
            batches = super().__iter__()
        try:
            while True:
                with torch.device("cpu"):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except Exception as caught:
            if self.num_workers == 0:
                raise
            error = _as_raised(caught.with_traceback(None))
        del batches
        raise error  # outside of the handler, so that what torch raised is not its context


def _as_raised(error: Exception) -> Exception:
    """Return an error of a worker with its message and number, without the traceback that torch has put there."""
    text = str(error)
    found = re.findall(r"^[\w.]+: (.+)$", text, re.MULTILINE)  # the lines of the traceback itself are indented
    if not text.startswith("Caught ") or not found:
        return error
    system = re.fullmatch(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?", found[-1])
    if isinstance(error, OSError) and system:
        return OSError(int(system[1]), system[2], *filter(None, [system[3]]))
    return type(error)(found[-1])


def _start_worker(_: int) -> None:
    """Set up a worker process: one thread, signals to the whole group left to the main process, whose end is its own.

    SIGINT and SIGHUP are ignored, and SIGTERM is no failure, which would be raised anywhere in the main process. torch
    notices the end of the main process too, but not if it comes while a worker starts, or is stopped.
    """
    continue_at_end_of_parent()
    torch.set_num_threads(1)
    signal.set_wakeup_fd(-1)  # the main process's, which would take signals of this one for its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.excepthook = _ignore_closed_connection
    threading.Thread(target=_exit_with_main_process, daemon=True).start()


def _exit_with_main_process() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(0)


def _ignore_closed_connection(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an exception in a helper thread of a worker, unless the main process has closed the connection.

    Ctrl-C may come while the thread hands over tensors. Errors of the dataset are raised in the main process instead.
    """
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


@atexit.register
def _end_processes() -> None:
    """Kill processes that do not end when they are asked to, as one that is stopped; Python waits for them for ever."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own handler makes an error of their end
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for child in children:
        child.terminate()  # as Python does
    for child in children:
        child.join(_PATIENCE)
        if child.is_alive():
            child.kill()
