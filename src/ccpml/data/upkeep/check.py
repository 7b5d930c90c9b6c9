"""Check of all images of a table before a long run: which are unreadable, and whether all are gray."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccpml.data.images.archived import ArchivedImage
from ccpml.data.images.packed import PackedImage
from ccpml.data.images.read import BadImage, BadImageError, BadImagesError, first_lines, read_header, read_image
from ccpml.data.sources.source import Source, count_ignored, name_notes
from ccpml.data.table import ImageTable, StoredImage, check_table
from ccpml.data.threads import in_threads
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.data_name import DataName
from ccpml.numbers import check_flags, counted
from ccpml.progress import print_once, progress_bar

__all__ = ["SkippableImagesError", "all_gray", "check_images", "readable_images", "unreadable"]


class SkippableImagesError(BadImagesError):
    """Images that cannot be read and could be skipped."""


def check_images(
    table: ImageTable, skip_bad: bool = False, progress: bool = True, log: CheckLog | None = None
) -> tuple[ImageTable, list[BadImage]]:
    """Decode every image of a table once, in a pool of threads.

    Images in memory, packed or archived are not checked here: these were when they were packed or archived.

    Args:
        table: Images to check.
        skip_bad: Whether to leave out unreadable images instead of raising an error.
        progress: Whether to show a progress bar on standard error.
        log: Record of images that an earlier check has found readable.

    Returns:
        The table without the unreadable images, and these. Classes that lose all their images are dropped.

    Raises:
        SkippableImagesError: If images cannot be read and ``skip_bad`` is false.
        BadImagesError: If no image can be read.
    """
    check_table("table", table)
    check_flags(skip_bad=skip_bad, progress=progress)
    if isinstance(table.images, np.ndarray) or all(isinstance(x, PackedImage | ArchivedImage) for x in table.images):
        return table, []
    reasons = unreadable(table.images, progress, log)
    bad = [BadImage(row, table.name_of(row), why) for row, why in enumerate(reasons) if why is not None]
    listed_in = None if log is None else log.write_list("unreadable", [f"{x.name}: {x.reason}" for x in bad])
    if not bad:
        return table, []
    if len(bad) == len(table):
        raise BadImagesError.of(bad, len(table), "check that these are images", listed_in)
    if not skip_bad:
        raise SkippableImagesError.of(bad, len(table), "repair, remove or skip them", listed_in)
    return table.select(np.array([why is None for why in reasons])), bad


def readable_images(
    source: Source, name: str, skip_bad: bool, progress: bool = True
) -> tuple[ImageTable, list[BadImage]]:
    """Check that the images of a set can be read; list on standard error those that are left out."""
    check_flags(skip_bad=skip_bad, progress=progress)
    log = None if source.folder is None else CheckLog(source.folder, DataName.parse(name))
    table, bad = check_images(source.table, skip_bad, progress, log)
    if source.ignored and progress:
        print_once(f"{name}: ignored {', '.join(count_ignored(source.ignored))}")
    for note in name_notes(source) if progress else ():
        print_once(f"{name}: {note}")
    if bad:
        lines = [f"{image.name}: {image.reason}" for image in bad]
        listed_in = None if log is None else log.write_list("unreadable", lines)
        print_once("\n".join([f"left out {counted(len(bad), 'unreadable image')}:", *first_lines(lines, listed_in)]))
    return table, bad


def all_gray(table: ImageTable) -> bool:
    """Whether all images are gray according to the headers of their files.

    A file is gray if it is stored as such (1, 8 or 16 bits of gray, with or without alpha). RGB files and palettes
    are not, whatever their pixels.

    Raises:
        BadImageError: If a header cannot be read.
    """
    check_table("table", table)
    if isinstance(table.images, np.ndarray):
        return table.images.ndim == 3
    return all(x.channels == 1 if isinstance(x, PackedImage) else read_header(x).gray for x in table.images)


def unreadable(images: Sequence[StoredImage], progress: bool, log: CheckLog | None = None) -> list[str | None]:
    """Return for each image why it cannot be read, or None; decode those that ``log`` does not record as readable."""
    rows = [row for row, x in enumerate(images) if log is None or not (isinstance(x, Path) and log.known(x))]
    reasons: list[str | None] = [None] * len(images)
    results = in_threads(lambda row: _reason(images[row]), rows)
    shown, done = progress and bool(rows), len(images) - len(rows)
    for row, reason in progress_bar(len(images), "image", "checking images", over=results, initial=done, shown=shown):
        reasons[row], image = reason, images[row]
        if log is not None and reason is None and isinstance(image, Path):
            log.record(image)
    return reasons


def _reason(image: StoredImage) -> str | None:
    try:
        read_image(image, channels=3)
    except BadImageError as error:
        return error.reason
    return None
