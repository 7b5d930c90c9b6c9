"""The images of a run: found, checked, and split."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.backbones import find_backbone
from ccpml.data import BadImage, ImageTable, PackedImage, Splits, all_gray, load_source, make_splits
from ccpml.data.class_records import ClassRecord, class_records, split_of_class
from ccpml.data.images.cache import side_of_cache, use_cache
from ccpml.data.images.cache_index import CacheError
from ccpml.data.images.read import BadImageError, read_header
from ccpml.data.sources.benchmarks import BenchmarkNotFoundError
from ccpml.data.sources.source import Source, SourceNotFoundError
from ccpml.data.splits import development_classes, split_by_name
from ccpml.data.upkeep.check import readable_images
from ccpml.data.upkeep.depth import depth_note
from ccpml.data_name import DataName
from ccpml.files import digest_of
from ccpml.progress import print_once
from ccpml.runs.build import transforms
from ccpml.runs.defaults import LARGE, MIN_CLASSES, SMALL_SIDE, DataFacts, fitting_folds
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.settings import ResolvedSettings, Settings

__all__ = [
    "DataMovedError",
    "RunImages",
    "cached_side",
    "compare_data",
    "find_images",
    "is_query",
    "load_images",
    "query_labels",
    "read_facts",
]

_LOOKED_AT = 500  # images whose headers are read


class DataMovedError(SourceNotFoundError):
    """The images of a run are no longer where they were when it was started."""

    @classmethod
    def of(cls, error: SourceNotFoundError, run: Path) -> "DataMovedError":
        """Return the error of a run whose images were not found."""
        return cls(error.found, f"{run} was started with it: restore it, or make a link to it there if it has moved")


@dataclass(frozen=True)
class RunImages:
    """The images of a run."""

    splits: Splits
    bad: list[BadImage]  # that were left out
    channels: Literal[1, 3]  # as the network sees them
    classes: Mapping[str, ClassRecord]  # of all images, also those left out

    def fingerprint(self, packed: bool | None = None) -> str:
        """Return a digest of which images of which classes are in which split, left out, and cached (packed)."""
        if packed is None:
            packed = all(table.packed for table in (self.splits.train, self.splits.validation, self.splits.test))
        content = [self.classes, [image.row for image in self.bad], packed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def cache_note(self, fingerprint: str) -> str:
        """Return what has become of the cache since a run started with the same images; empty if nothing has."""
        if fingerprint == self.fingerprint() or fingerprint not in {self.fingerprint(True), self.fingerprint(False)}:
            return ""
        if fingerprint == self.fingerprint(packed=True):
            return "the run started with cached images, and the files are read, as the cache is missing or too small"
        return "images are read from a cache that was built after the run started"

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
        raise ValueError(
            f"{run}: the images, or those that cannot be read, differ from those the run started with, by its "
            "images.sha256; restore them, or start a new run"
        )


def find_images(settings: Settings) -> Source:
    """Find the images of a run; none is read.

    Raises:
        ValueError: If the data cannot be used; the message names the file or the class.
    """
    return load_source(settings.data, settings.data_root or None, settings.allow_partial)


def read_facts(settings: Settings, source: Source | None = None) -> DataFacts:
    """Read facts about the images from their number, their classes, and the headers of some.

    Args:
        settings: Those that the run is started with.
        source: What `find_images` found, if it was called before.

    Raises:
        ValueError: If the data cannot be used, or have too few classes.
    """
    source = source or find_images(settings)
    tests, fold = settings.test_patterns() or None, None if settings.fold == "auto" else settings.fold
    known = source.split_of_class or {}
    own_validation = fold is None and "validation" in known.values()
    classes = development_classes(source, tests)
    if settings.folds is None and not own_validation and classes < MIN_CLASSES:
        total = source.table.num_classes
        got, more = f"{classes}", "add classes"
        if classes < total:
            got += f", as {total - classes} of the {total} are for testing"
            more += ", or choose fewer for testing"
        raise ValueError(f"training and validation: expected at least {MIN_CLASSES} classes, got {got}; {more}")
    splits = make_splits(source, tests, settings.folds or fitting_folds(classes), fold)
    if settings.ranks > splits.train.num_classes:
        most = f"at most {splits.train.num_classes}, as each takes other training classes"
        raise ValueError(f"ranks: expected {most}, got {settings.ranks}; choose fewer, or add classes")
    kind = settings.device.partition(":")[0]
    return DataFacts(
        classes=classes,
        train_classes=splits.train.num_classes,
        train_images=len(splits.train),
        smallest_class=int(splits.train.class_sizes().min()),
        validation_classes=splits.validation.num_classes,
        validation_images=len(splits.validation),
        own_validation=own_validation,
        gpu=kind in {"cuda", "mps"} or (kind == "auto" and torch.accelerator.is_available()),
        digest=digest_of({name: entry[1:] for name, entry in class_records(source, {}).items()}),
        **_look_at(source.table),
    )


def _look_at(table: ImageTable) -> dict[str, Any]:
    """Return the facts that the headers of some images tell, spread evenly over the table."""
    if isinstance(table.images, np.ndarray):
        count, height, width = table.images.shape[:3]
        headers = [(height, width, table.images.ndim == 3)] * count
    else:
        headers = []
        for row in np.unique(np.linspace(0, len(table) - 1, _LOOKED_AT).round().astype(int)).tolist():
            image = table.images[row]
            with suppress(BadImageError):  # reported when all images are checked
                header = read_header(image.path if isinstance(image, PackedImage) else image)
                headers.append((header.height, header.width, header.gray))
    if not headers:
        return {}
    sides = [min(height, width) for height, width, _ in headers]
    gray = sum(is_gray for *_, is_gray in headers)
    return {
        "color": gray < len(headers),
        "side": int(np.median(sides)),
        "looked_at": len(headers),
        "gray": gray,
        "small": sum(side < SMALL_SIDE for side in sides),
        "large": sum(height * width > LARGE for height, width, _ in headers),
        "dark": depth_note(table.images),
    }


def load_images(
    settings: ResolvedSettings,
    progress: bool = True,
    record: RunRecord | None = None,
    run: Path = Path(),
    source: Source | None = None,
) -> RunImages:
    """Find, check and split the images of a run.

    Classes are split before unreadable images are left out, which so move no class to another split.

    Args:
        settings: The settings.
        progress: Whether to show a progress bar on standard error.
        record: What the run was started with, if it was before: its classes stay in their splits.
        run: The directory of that run, for errors.
        source: What `find_images` found, if it was called before.

    Raises:
        DataChangedError: If the data are not those of the record.
        ValueError: If the data cannot be used; the message names the file or the class.
    """
    try:
        found = source or find_images(settings)
    except SourceNotFoundError as error:
        if record is None or isinstance(error, BenchmarkNotFoundError):  # of which another data root may be given
            raise
        raise DataMovedError.of(error, run) from error
    name, side = DataName.parse(settings.data), cached_side(settings)
    source = use_cache(found, name, side)
    if progress and source is found and (got := side_of_cache(found, name)) is not None:
        print_once(f"{name}: cached with a shorter side of {got}, not the {side} of this run; the files are read")
    if record is not None:
        record.check_data(source, settings.data, run)
        split = record.split_of_class
    else:
        fold = None if settings.fold == "auto" else settings.fold
        split = split_of_class(make_splits(source, settings.test_classes or None, settings.folds, fold))
    table, bad = readable_images(source, settings.data, settings.skip_bad_images, progress)
    splits, classes = split_by_name(table, split), class_records(source, split)
    if settings.channels != "auto":
        return RunImages(splits, bad, settings.channels, classes)
    gray = find_backbone(settings.backbone).takes_gray and all_gray(table)
    return RunImages(splits, bad, 1 if gray else 3, classes)


def compare_data(run: RunDirectory) -> str:
    """Return how the data of a run differ from those that it was started with, as a sentence; empty if they do not."""
    settings = run.settings()
    if DataName.parse(settings.data).is_built_in:
        return ""
    try:
        source = load_source(settings.data, settings.data_root or None, settings.allow_partial)
        record = run.record()
    except ValueError as error:
        if isinstance(error, SourceNotFoundError):
            error = DataMovedError.of(error, run.path)
        return f"The data could not be compared with those that the run was started with: {error}."
    changes = record.changes(source)
    way_out = "restore them; scores and embeddings are of the images as they were"
    return f"The data are no longer those that the run was started with: {changes}; {way_out}." if changes else ""


def cached_side(settings: ResolvedSettings) -> int:
    """Return the shorter side that cached images need, so that evaluation does not enlarge them."""
    return transforms(settings)[1].side


def is_query(table: ImageTable) -> Tensor | None:
    """Return which images are queries, bool (N,); None if the table has no roles."""
    return None if table.roles is None else torch.from_numpy(table.roles == "query")


def query_labels(table: ImageTable) -> NDArray[np.int64]:
    """Return the classes of the queries of a table, (Q,)."""
    return table.labels if table.roles is None else table.labels[table.roles == "query"]
