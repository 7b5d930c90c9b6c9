"""Looking at all images of a table before a long run: which cannot be read, and are all of them grey?"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ccpml.data.images.packed import PackedImage
from ccpml.data.images.read import BadImageError, header_is_grey, read_image
from ccpml.data.table import ImageTable
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.progress import progress_bar

__all__ = ["BadImage", "BadImagesError", "all_grey", "check_images", "unreadable"]

_SHOWN = 10


class BadImage(NamedTuple):
    """An image that cannot be read.

    Attributes:
        row: Its row in the table that was checked.
        name: Its name there.
        reason: Why it cannot be read.
    """

    row: int
    name: str
    reason: str


class BadImagesError(ValueError):
    """Images of a table that cannot be read: how many, the first ten, and the way out.

    Attributes:
        bad: All of them.
    """

    def __init__(self, message: str, bad: Sequence[BadImage] = ()) -> None:
        super().__init__(message)
        self.bad = list(bad)


def check_images(
    table: ImageTable, skip_bad: bool = False, progress: bool = True, log: CheckLog | None = None
) -> tuple[ImageTable, list[BadImage]]:
    """Decode every image of a table once, in a pool of threads.

    Args:
        table: Images to check; those in memory are good by construction, and those of a packed file were
            checked when they were packed.
        skip_bad: Leave out images that cannot be read rather than raise.
        progress: Show a progress bar on standard error.
        log: Which of them an earlier check found good.

    Returns:
        The table without its bad images (the same table if there are none; classes that lost all their images
        are dropped and labels made contiguous again), and the bad images.

    Raises:
        BadImagesError: If there are bad images and ``skip_bad`` is false, or if no image is left.
    """
    if isinstance(table.images, np.ndarray) or table.packed:
        return table, []
    reasons = unreadable(table.images, progress, log)
    bad = [BadImage(row, table.name_of(row), why) for row, why in enumerate(reasons) if why is not None]
    if not bad:
        return table, []
    if len(bad) == len(table):
        raise BadImagesError(_message(bad, len(table), "check that these are images"), bad)
    if not skip_bad:
        raise BadImagesError(
            _message(bad, len(table), "repair or remove them, or leave them out with --skip-bad-images"), bad
        )
    return table.select(np.array([why is None for why in reasons])), bad


def all_grey(table: ImageTable) -> bool:
    """Say whether all images are grey, from the headers of the files alone.

    A file counts as grey by how it is stored (1, 8 or 16 bits of grey, with or without alpha): an RGB file that
    looks grey counts as colour, and so does a palette.

    Raises:
        BadImageError: If a header cannot be read.
    """
    if isinstance(table.images, np.ndarray):
        return table.images.ndim == 3
    return all(header_is_grey(image) for image in table.images)


def unreadable(images: Sequence[Path | PackedImage], progress: bool, log: CheckLog | None = None) -> list[str | None]:
    """Say of each image why it cannot be read, or None: each is decoded, in a pool of threads.

    Args:
        images: Files, or images of a packed file.
        progress: Show a progress bar on standard error.
        log: Which of them are known to be good, and so not decoded; takes those that are found so.
    """
    rows = [row for row, x in enumerate(images) if log is None or not (isinstance(x, Path) and log.known(x))]
    reasons: list[str | None] = [None] * len(images)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="check-images")
    try:
        answers = pool.map(_reason, (images[row] for row in rows))
        shown, done = progress and bool(rows), len(images) - len(rows)
        bar = progress_bar(len(images), "image", "checking images", over=answers, initial=done, shown=shown)
        for row, reason in zip(rows, bar, strict=True):
            reasons[row], image = reason, images[row]
            if log is not None and reason is None and isinstance(image, Path):
                log.record(image)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C: finish the images in hand, and none of those queued
    return reasons


def _reason(image: Path | PackedImage) -> str | None:
    try:
        read_image(image, channels=3)
    except BadImageError as error:
        return error.reason
    return None


def _message(bad: Sequence[BadImage], total: int, way_out: str) -> str:
    lines = [f"{len(bad):,} of {total:,} images cannot be read; {way_out}:"]
    lines += [f"  {name}: {reason}" for _, name, reason in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  and {len(bad) - _SHOWN:,} more")
    return "\n".join(lines)
