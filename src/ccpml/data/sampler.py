"""Which images come when: class-balanced batches, and the pool from which proxies are chosen.

Everything here is a pure function of a seed and a number, the step or the draw: there is no state to save, and
nothing to restore when a run resumes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.data.seeds import CLASSES, POOL, SAMPLES, generator

__all__ = ["BatchRange", "ClassBalancedBatches", "Draw", "in_chunks", "pool_draws", "pool_rows"]


class Draw(NamedTuple):
    """An image to take, and what its random crop depends on besides the seed.

    Attributes:
        epoch: Number of the pass; negative for pools, which are no passes.
        row: Row of the image in its table.
        copy: How many times the row came before in the same batch or pool.
    """

    epoch: int
    row: int
    copy: int = 0


class ClassBalancedBatches:
    """Batches of P classes × K images.

    A round is a random permutation of all C classes, cut into ⌊C/P⌋ batches of P: within a round a class comes
    at most once. Of each class K images are drawn without replacement; where it has fewer, all of them, and
    then again from the start, as further copies. Images of one class are next to each other.

    With several processes each takes its contiguous share of the P classes, and the shares in the order of the
    ranks are the batch of a single process.

    Args:
        labels: Classes of the images, contiguous from 0, (N,).
        classes_per_batch: P.
        samples_per_class: K.
        seed: Same seed, same batches.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If there are fewer than P classes, P is not a multiple of the number of processes, or an
            argument is out of its range.

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
        self._rows, self._starts, self._sizes = _by_class(np.asarray(labels))
        if classes_per_batch < 1 or samples_per_class < 1:
            raise ValueError(f"a batch of {classes_per_batch} classes × {samples_per_class} images is empty")
        if len(self._sizes) < classes_per_batch:
            raise ValueError(
                f"a batch needs {classes_per_batch} classes and there are {len(self._sizes)}; "
                f"take {len(self._sizes)} or fewer classes per batch"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0..{world_size - 1}, got {rank}")
        if classes_per_batch % world_size:
            raise ValueError(
                f"{classes_per_batch} classes per batch cannot be shared by {world_size} processes; "
                f"take a multiple of {world_size}"
            )
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._round: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_round(self) -> int:
        """Number of batches in which each class comes at most once: ⌊C/P⌋."""
        return len(self._sizes) // self.classes_per_batch

    def batch(self, step: int) -> list[Draw]:
        """Draw this process's share of the batch of a step: K draws for each of P / world_size classes."""
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        round_number, place = divmod(step, self.steps_per_round)
        classes = self._order(round_number)[place * self.classes_per_batch :][: self.classes_per_batch]
        random = generator(SAMPLES, self.seed, step)
        # All ranks draw the whole batch, so that their shares agree; that is cheap beside reading one image.
        draws = [draw for label in classes for draw in self._of_class(int(label), round_number, random)]
        share = len(draws) // self.world_size
        return draws[self.rank * share : (self.rank + 1) * share]

    def steps(self, start: int, stop: int) -> "BatchRange":
        """Batches of the steps start..stop-1: the ``batch_sampler`` of a DataLoader."""
        return BatchRange(self, start, stop)

    def _order(self, round_number: int) -> NDArray[np.int64]:
        """Order of the classes in a round; the last one asked for is remembered, for speed alone."""
        if self._round[0] != round_number:
            order = generator(CLASSES, self.seed, round_number).permutation(len(self._sizes))
            self._round = (round_number, order)
        return self._round[1]

    def _of_class(self, label: int, round_number: int, random: np.random.Generator) -> list[Draw]:
        size, start = int(self._sizes[label]), int(self._starts[label])
        order = random.choice(size, min(size, self.samples_per_class), replace=False)
        rows = self._rows[start + order].tolist()
        return [Draw(round_number, rows[i % size], i // size) for i in range(self.samples_per_class)]


@dataclass(frozen=True)
class BatchRange:
    """The batches of some steps, sized, and iterated as often as wanted."""

    batches: ClassBalancedBatches
    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Draw]]:
        return (self.batches.batch(step) for step in range(self.start, self.stop))


def pool_rows(labels: Sequence[int] | NDArray[np.int64], per_class: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Draw the pool of CCP: b images of every class, as rows, int64 (C, b).

    Without replacement until the class is exhausted, then again from the start: a class of n images gives each
    of them ⌊b/n⌋ or ⌈b/n⌉ times.

    Args:
        labels: Classes of the images, contiguous from 0, (N,).
        per_class: b.
        seed: The seed of the run.
        draw: Number of the pool; each gives a fresh choice.

    Raises:
        ValueError: If ``per_class`` is less than 1, or labels are not contiguous.

    Example:
        >>> pool_rows([0, 1, 1, 1], per_class=3, seed=0, draw=0)[0].tolist()
        [0, 0, 0]
    """
    rows, places, starts = _pool(np.asarray(labels), per_class, seed, draw)
    chosen: NDArray[np.int64] = rows[starts[:, None] + places]
    return chosen


def pool_draws(labels: Sequence[int] | NDArray[np.int64], per_class: int, seed: int, draw: int) -> list[Draw]:
    """Draw the same pool as ``pool_rows``, as C · b draws: class by class, b after b.

    A row that comes again has another ``copy``, and ``epoch`` is -1 - draw: the crops are neither those of a
    pass of training nor those of another pool.

    Raises:
        ValueError: As for ``pool_rows``.
    """
    rows, places, starts = _pool(np.asarray(labels), per_class, seed, draw)
    sizes = np.diff(starts, append=len(rows))
    copies = np.arange(per_class) // sizes[:, None]
    chosen = rows[starts[:, None] + places]
    pairs = zip(chosen.ravel().tolist(), copies.ravel().tolist(), strict=True)
    return [Draw(-1 - draw, row, copy) for row, copy in pairs]


def in_chunks(draws: Sequence[Draw], size: int) -> list[list[Draw]]:
    """Cut draws into batches of a size, the last one perhaps smaller.

    Raises:
        ValueError: If ``size`` is less than 1.
    """
    if size < 1:
        raise ValueError(f"size: expected 1 or more, got {size}")
    return [list(draws[start : start + size]) for start in range(0, len(draws), size)]


def _pool(
    labels: NDArray[np.int64], per_class: int, seed: int, draw: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Shuffle within all classes at once: rows by class (N,), places to take (C, b), starts of classes (C,).

    One shuffle serves all turns of a small class: its last, incomplete turn is still a random choice.
    """
    if per_class < 1:
        raise ValueError(f"per_class: expected 1 or more, got {per_class}")
    _, starts, sizes = _by_class(labels)
    keys = generator(POOL, seed, draw).random(len(labels))
    rows = np.lexsort((keys, labels)).astype(np.int64)
    return rows, np.arange(per_class) % sizes[:, None], starts


def _by_class(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sort rows by class: rows (N,), and where each class starts and how many it has, (C,)."""
    if labels.ndim != 1 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: expected integers of shape (N,), got {labels.dtype} of {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected 0 or more, got {labels.min()}")
    sizes = np.bincount(labels).astype(np.int64)
    if not sizes.all():
        raise ValueError(f"labels: expected contiguous classes, but none is {int(np.argmin(sizes))}")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return np.argsort(labels, kind="stable").astype(np.int64), starts, sizes
