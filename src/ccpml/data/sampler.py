"""Class-balanced batches, and the pool from which proxies are chosen.

Both are pure functions of a seed and a number (the step or the draw), so that a resumed run needs no state.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.data.arrays import plain_array
from ccpml.data.seeds import CLASSES, POOL, SAMPLES, generator
from ccpml.numbers import as_int, as_tuple

__all__ = ["BatchRange", "ClassBalancedBatches", "Draw", "in_chunks", "pool_draws", "pool_rows"]


class Draw(NamedTuple):
    """An image to load, and what its random crop depends on besides the seed.

    Attributes:
        epoch: Number of the round; negative for pools.
        row: Row of the image in its table.
        copy: Number of earlier occurrences of the row in the same batch or pool.
    """

    epoch: int
    row: int
    copy: int = 0


class ClassBalancedBatches:
    """Batches of P classes × K images.

    A round is a random permutation of all C classes, cut into ⌊C/P⌋ batches, so that a class occurs at most once
    in a round. K images of each class are drawn without replacement; a class with fewer images is repeated from the
    start, as further copies. Images of one class are adjacent.

    Each rank draws a contiguous share of the P classes; the shares in the order of the ranks are the batch of a
    single process.

    Args:
        labels: Classes of the images, contiguous from 0, (N,).
        classes_per_batch: P.
        samples_per_class: K.
        seed: Random seed.
        rank: Number of this process.
        world_size: Number of ranks.

    Raises:
        ValueError: If there are fewer than P classes, P is not a multiple of the number of ranks, or an argument is
            out of range.

    Example:
        >>> batches = ClassBalancedBatches([0, 0, 1, 1, 2], classes_per_batch=2, samples_per_class=2, seed=0)
        >>> len(batches.batch(7)), batches.batch(7) == batches.batch(7)
        (4, True)
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        classes_per_batch: int,
        samples_per_class: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        labels = plain_array("labels", labels, "integers")
        ends = np.cumsum(_class_sizes(labels))
        self._rows = np.split(np.argsort(labels, kind="stable"), ends[:-1])  # of each class
        classes_per_batch = as_int("classes_per_batch", classes_per_batch, 1)
        samples_per_class = as_int("samples_per_class", samples_per_class, 1)
        if len(self._rows) < classes_per_batch:
            most = len(self._rows)
            raise ValueError(
                f"classes_per_batch: expected at most {most}, the number of training classes, got "
                f"{classes_per_batch}; choose fewer, or add classes"
            )
        rank, world_size = as_int("rank", rank), as_int("world_size", world_size, 1)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0..{world_size - 1}, got {rank}")
        if classes_per_batch % world_size:
            raise ValueError(
                f"classes_per_batch: expected a multiple of {world_size}, the number of ranks, got {classes_per_batch}"
            )
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.seed = as_int("seed", seed)
        self.rank = rank
        self.world_size = world_size
        self._round: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_round(self) -> int:
        """Number of batches in a round: ⌊C/P⌋."""
        return len(self._rows) // self.classes_per_batch

    def batch(self, step: int) -> list[Draw]:
        """Return the share of this rank in the batch of a step: K draws for each of P / world_size classes."""
        step = as_int("step", step, 0)
        round_number, position = divmod(step, self.steps_per_round)
        classes = self._order(round_number)[position * self.classes_per_batch :][: self.classes_per_batch]
        random = generator(SAMPLES, self.seed, step)
        # All ranks draw the whole batch, so that their shares agree; this is cheap compared with reading an image.
        draws = [draw for label in classes for draw in self._of_class(int(label), round_number, random)]
        share = len(draws) // self.world_size
        return draws[self.rank * share : (self.rank + 1) * share]

    def steps(self, start: int, stop: int) -> "BatchRange":
        """Return the batches of the steps start..stop-1, as the ``batch_sampler`` of a DataLoader; see `BatchRange`."""
        return BatchRange(self, start, stop)

    def _order(self, round_number: int) -> NDArray[np.int64]:
        """Return the order of the classes in a round; the last one is cached."""
        if self._round[0] != round_number:
            order = generator(CLASSES, self.seed, round_number).permutation(len(self._rows))
            self._round = (round_number, order)
        return self._round[1]

    def _of_class(self, label: int, round_number: int, random: np.random.Generator) -> list[Draw]:
        size = len(self._rows[label])
        order = random.choice(size, min(size, self.samples_per_class), replace=False)
        rows = self._rows[label][order].tolist()
        return [Draw(round_number, rows[i % size], i // size) for i in range(self.samples_per_class)]


class BatchRange:
    """The batches of a range of steps. Each iteration after the first has those of the steps that follow the last one.

    So a loader that is iterated in each epoch trains on new batches. To repeat or resume, make the range from the
    step again.

    Args:
        batches: The batches.
        start: First step of the first iteration.
        stop: The step after its last.

    Example:
        >>> steps = ClassBalancedBatches([0, 0, 1, 1], classes_per_batch=2, samples_per_class=1, seed=0).steps(0, 3)
        >>> list(steps) == list(steps)  # the steps 0..2, then 3..5
        False
    """

    def __init__(self, batches: ClassBalancedBatches, start: int, stop: int) -> None:
        self.batches = batches
        self.start = as_int("start", start, 0)
        self.stop = as_int("stop", stop)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Draw]]:
        steps = range(self.start, self.stop)
        self.start, self.stop = self.start + len(steps), self.stop + len(steps)
        yield from map(self.batches.batch, steps)  # from the first batch on: torch makes an iterator that it drops


def pool_rows(labels: Sequence[int] | NDArray[np.int64], per_class: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Draw the pool of CCP: b images of every class, as rows, int64 (C, b).

    Images are drawn without replacement until the class is exhausted, then again from the start: each image of a
    class of n occurs ⌊b/n⌋ or ⌈b/n⌉ times.

    Args:
        labels: Classes of the images, contiguous from 0, (N,).
        per_class: b.
        seed: Random seed.
        draw: Number of the pool; each pool is a different choice.

    Raises:
        ValueError: If ``per_class`` is less than 1 or ``draw`` less than 0, or the labels are not contiguous.

    Example:
        >>> pool_rows([0, 1, 1, 1], per_class=3, seed=0, draw=0)[0].tolist()
        [0, 0, 0]
    """
    per_class, seed, draw = as_int("per_class", per_class, 1), as_int("seed", seed), as_int("draw", draw, 0)
    labels = plain_array("labels", labels, "integers")
    sizes = _class_sizes(labels)
    # A single shuffle suffices for repeated classes: their last, incomplete repetition is still a random choice.
    rows = np.lexsort((generator(POOL, seed, draw).random(len(labels)), labels)).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    chosen: NDArray[np.int64] = rows[starts[:, None] + np.arange(per_class) % sizes[:, None]]
    return chosen


def pool_draws(labels: Sequence[int] | NDArray[np.int64], per_class: int, seed: int, draw: int) -> list[Draw]:
    """Draw the same pool as ``pool_rows``, as C · b draws, class by class.

    Repeated rows have different ``copy`` numbers, and ``epoch`` is -1 - draw, so that the crops differ from those of
    training and of other pools.
    """
    rows = pool_rows(labels, per_class, seed, draw)
    copies = np.arange(per_class) // np.bincount(labels)[:, None]
    pairs = zip(rows.ravel().tolist(), copies.ravel().tolist(), strict=True)
    return [Draw(-1 - int(draw), row, copy) for row, copy in pairs]


def in_chunks(draws: Sequence[Draw], size: int) -> list[list[Draw]]:
    """Cut draws into batches; the last may be smaller."""
    size, draws = as_int("size", size, 1), as_tuple("draws", draws, "draws")
    return [list(draws[start : start + size]) for start in range(0, len(draws), size)]


def _class_sizes(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of images of each class, (C,), after checking the labels."""
    if labels.ndim != 1 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: expected integers of shape (N,), got {labels.dtype} of {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected 0 or more, got {labels.min()}")
    classes, sizes = np.unique(labels, return_counts=True)
    gaps = np.flatnonzero(classes != np.arange(len(classes)))
    if len(gaps):
        raise ValueError(
            f"labels: expected contiguous classes, got no image of class {gaps[0]}; number them with "
            "np.unique(labels, return_inverse=True)[1]"
        )
    return sizes.astype(np.int64)
