"""Is a set of images whole? Layout, counts, checksums of the index files, and every image decoded."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ccpml.data.loading import load_source
from ccpml.data.sources.benchmarks import Found, find_benchmark
from ccpml.data.upkeep.check import unreadable
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.data_name import BENCHMARKS

__all__ = ["Verified", "verify_source"]

# Published by torchvision's reader of Cars196; the other archives come without checksums of their parts.
_MD5: Final = {"cars_test_annos_withlabels.mat": "b0a2b23655a3edd16d84508592a98d10"}


@dataclass(frozen=True)
class Verified:
    """What a check found.

    Attributes:
        folder: Where the set is.
        contents: What it holds, one phrase for each split or role.
        checksums: SHA-256 of each index file.
        problems: All that is wrong, one line each.
    """

    folder: Path
    contents: list[str]
    checksums: dict[str, str]
    problems: list[str]


def verify_source(name: str, data_root: Path | str | None = None, progress: bool = True) -> Verified:
    """Check a set of images, all of it.

    Of a benchmark: that its index files can be read, are those of the last check that found nothing wrong (and where
    a checksum was published, those), that exactly the listed images are there, in the published numbers, and that
    each can be decoded. Of a folder or a CSV file: that each image can be decoded.

    What was decoded is remembered in ``.ccpml-check`` in the folder of the images: a check that was stopped goes on
    there, and no run decodes again, before it starts, what a check has found good.

    Args:
        name: As for `load_source`.
        data_root: As for `load_source`.
        progress: Show a progress bar on standard error.

    Raises:
        ValueError: If there is no such set, an index file cannot be used, or another process is checking it.
    """
    if name in BENCHMARKS:
        found = find_benchmark(name, data_root)
        missing = {image.path for image in found.missing}
        paths = [found.listing.base / image.path for image in found.listing.images if image.path not in missing]
        bad = _decode(paths, found.folder, name, progress)
        checksums = {str(file.relative_to(found.folder)): _digest(file) for file in found.listing.index_files}
        problems = [*_not_as_published(found), *_other_checksums(found, checksums), *bad]
        if not problems:
            _remember(found, checksums)
        return Verified(found.folder, _contents(found), checksums, problems)
    source = load_source(name)
    table = source.table
    if source.folder is None:
        return Verified(Path(), [f"{len(table):,} images of {table.num_classes:,} classes, in memory"], {}, [])
    images = [image for image in table.images if isinstance(image, Path)]
    bad = _decode(images, source.folder, name, progress)
    return Verified(source.folder, [f"{len(table):,} images of {table.num_classes:,} classes"], {}, bad)


def _decode(paths: Sequence[Path], folder: Path, name: str, progress: bool) -> list[str]:
    log = CheckLog(folder, name)
    with log.opened():
        reasons = unreadable(paths, progress, log)
    return [f"cannot be read: {path}: {why}" for path, why in zip(paths, reasons, strict=True) if why is not None]


def _not_as_published(found: Found) -> list[str]:
    """List what is missing and extra one by one."""
    missing = [f"missing: {found.listing.base / image.path} ({image.where})" for image in found.missing]
    return [*found.wrong, *missing, *(f"not listed: {path}" for path in found.extra)]


def _contents(found: Found) -> list[str]:
    images = found.listing.images
    splits = np.array([image.split for image in images])
    roles = np.array([image.role for image in images])
    contents = []
    for split, words in (("train", "training"), ("test", "test")):
        classes = len({image.class_id for image in images if image.split == split})
        text = f"{int((splits == split).sum()):,} {words} images of {classes:,} classes"
        if (roles[splits == split] != "").any():
            text += f" ({int((roles == 'query').sum()):,} queries, {int((roles == 'gallery').sum()):,} in the gallery)"
        contents.append(text)
    return contents


def _digest(file: Path, algorithm: str = "sha256") -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _other_checksums(found: Found, checksums: dict[str, str]) -> list[str]:
    """Compare index files with published checksums, and with those of the last check that found nothing wrong."""
    problems = []
    for file in found.listing.index_files:
        published = _MD5.get(file.name)
        if published is not None and (got := _digest(file, "md5")) != published:
            problems.append(f"{file}: not as published: its MD5 is {got} and not {published}")
    try:
        known = json.loads(_memory(found).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    for name, digest in checksums.items():
        if isinstance(known, dict) and known.get(name, digest) != digest:
            problems.append(
                f"{found.folder / name}: changed since a check found it whole; unpack the archive anew, or remove "
                f"{_memory(found)} if the change is meant"
            )
    return problems


def _remember(found: Found, checksums: dict[str, str]) -> None:
    file = _memory(found)
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return  # a folder that cannot be written to; the check has said so


def _memory(found: Found) -> Path:
    return CheckLog(found.folder, found.name).file.with_suffix(".json")
