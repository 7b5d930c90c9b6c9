"""The images of a run: found, checked, and split."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ccpml.backbones import find_backbone
from ccpml.data import BadImage, ImageTable, Splits, all_gray, check_images, load_source, make_splits
from ccpml.data.images.cache_index import CacheError
from ccpml.data.images.read import first_lines
from ccpml.data.sources.source import Source, count_ignored
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.data_name import DataName
from ccpml.runs.build import transforms
from ccpml.runs.settings import ResolvedSettings

__all__ = ["RunImages", "cached_side", "is_query", "load_images", "readable_images"]


@dataclass(frozen=True)
class RunImages:
    """The images of a run."""

    splits: Splits
    bad: list[BadImage]  # that were left out
    channels: Literal[1, 3]  # as the network sees them

    def fingerprint(self, packed: bool | None = None) -> str:
        """Return a digest of which images of which classes are in which split, and whether they are cached (packed)."""
        digest = hashlib.sha256()
        for table in (self.splits.train, self.splits.validation, self.splits.test):
            names = [table.name_of(row) for row in range(len(table))]
            digest.update(repr((names, table.labels.tolist(), table.class_names)).encode())
            digest.update(b"packed" if (table.packed if packed is None else packed) else b"")
        return digest.hexdigest()

    def check_fingerprint(self, fingerprint: str, run: Path) -> None:
        """Check that a run started with these images.

        Raises:
            CacheError: If they are the same, but were cached then and are not now.
            ValueError: If they differ otherwise; the message says whether only the cache does.
        """
        if fingerprint == self.fingerprint():
            return
        if fingerprint == self.fingerprint(packed=True):
            raise CacheError(
                f"{run}: the run started with cached images, and the cache is missing or too small; build it again, "
                "or start a new run"
            )
        if fingerprint == self.fingerprint(packed=False):
            raise ValueError(
                f"{run}: a cache was built after the run started; move the folder .ccpml-cache elsewhere to resume"
            )
        raise ValueError(f"{run}: the images or their classes differ from those the run started with")


def load_images(settings: ResolvedSettings, progress: bool = True) -> RunImages:
    """Find, check and split the images of a run.

    Raises:
        ValueError: If the data cannot be used; the message names the file or the class.
    """
    source = load_source(settings.data, settings.data_root or None, settings.allow_partial, cached_side(settings))
    table, bad = readable_images(source, settings.data, settings.skip_bad_images, progress)
    checked = Source(table, source.split_of_class)
    fold = None if settings.fold == "auto" else settings.fold
    splits = make_splits(checked, settings.test_classes or None, settings.folds, fold)
    if settings.channels != "auto":
        return RunImages(splits, bad, settings.channels)
    return RunImages(splits, bad, 1 if find_backbone(settings.backbone).takes_gray and all_gray(table) else 3)


def cached_side(settings: ResolvedSettings) -> int:
    """Return the shorter side that cached images need, so that evaluation does not enlarge them."""
    return transforms(settings)[1].side


def readable_images(
    source: Source, name: str, skip_bad: bool, progress: bool = True
) -> tuple[ImageTable, list[BadImage]]:
    """Check that the images of a set can be read; list on standard error those that are left out."""
    log = None if source.folder is None else CheckLog(source.folder, DataName.parse(name))
    table, bad = check_images(source.table, skip_bad, progress, log)
    if source.ignored and progress:
        print(f"{name}: ignored {', '.join(count_ignored(source.ignored))}", file=sys.stderr)
    if bad:
        lines = [f"{image.name}: {image.reason}" for image in bad]
        listed_in = None if log is None else log.write_list("unreadable", lines)
        print("\n".join([f"left out {len(bad):,} unreadable images:", *first_lines(lines, listed_in)]), file=sys.stderr)
    return table, bad


def is_query(table: ImageTable) -> Tensor | None:
    """Return which images are queries, bool (N,); None if the table has no roles."""
    return None if table.roles is None else torch.from_numpy(table.roles == "query")
