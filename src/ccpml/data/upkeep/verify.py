"""Verification of a set of images: layout, counts, checksums of the index files, and every image decoded."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ccpml.data.images.cache import side_of_cache, use_cache
from ccpml.data.images.cache_index import CacheError
from ccpml.data.images.packed import PackedImage
from ccpml.data.images.read import MAX_LISTED
from ccpml.data.loading import read_source
from ccpml.data.sources.benchmarks import BenchmarkOnDisk, find_benchmark
from ccpml.data.sources.source import Source, count_ignored, name_notes
from ccpml.data.upkeep.check import unreadable
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.data.upkeep.depth import depth_note
from ccpml.data_name import DataName
from ccpml.download import file_digest
from ccpml.files import write_json
from ccpml.numbers import counted

__all__ = ["Verified", "verify_source"]

# From torchvision's reader of Cars196; no checksums are published for the parts of the other archives.
_MD5: Final = {"cars_test_annos_withlabels.mat": "b0a2b23655a3edd16d84508592a98d10"}


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Attributes:
        folder: Folder of the set; None if it comes with ccpml.
        contents: Numbers of images and classes, one phrase for each split.
        checksums: SHA-256 of each index file.
        problems: All problems, one line each.
        listed_in: File that lists them, if there are many.
        ignored: Files and folders that are not used, a phrase for each kind.
        notes: What may be a mistake in names of classes, and the size of the cache, a phrase each.
    """

    folder: Path | None
    contents: list[str]
    checksums: dict[str, str]
    problems: list[str]
    listed_in: Path | None = None
    ignored: Sequence[str] = ()
    notes: Sequence[str] = ()


def verify_source(name: str, data_root: Path | str | None = None, progress: bool = True) -> Verified:
    """Verify a set of images.

    For a benchmark: the index files are valid and the same as in the last verification without problems (and as
    published, where a checksum is), exactly the listed images exist, in the published numbers, and each can be
    decoded. For other sets: each image can be decoded. If the set has a cache, it can be used, as no image has changed.

    Readable images are recorded in ``.ccpml-check`` in the folder of the images, so that an interrupted verification
    resumes, and a run does not decode them again before it starts. The arguments are those of `load_source`.

    Raises:
        ValueError: If the set is not found, an index file is invalid, or another process is verifying it.
    """
    data = DataName.parse(name)
    if data.is_benchmark:
        return _verify_benchmark(data, data_root, progress)
    source = read_source(name)
    table = source.table
    contents = f"{counted(len(table), 'image')} of {counted(table.num_classes, 'class')}"
    if isinstance(table.images, np.ndarray):
        return Verified(None, [contents], {}, [])
    if source.folder is None:
        reasons = unreadable(table.images, progress)
        bad = [f"cannot be read: {table.name_of(row)}: {why}" for row, why in enumerate(reasons) if why is not None]
        return Verified(None, [contents], {}, bad)
    images = [image for image in table.images if isinstance(image, Path)]
    problems, notes = _look_at_cache(source, data, progress)
    bad = _decode(images, source.folder, data, progress) + problems
    listed_in = CheckLog(source.folder, data).write_list("problems", bad)
    ignored, dark = count_ignored(source.ignored, MAX_LISTED), depth_note(images)
    notes = [*name_notes(source), *notes, *([dark] if dark else [])]
    return Verified(source.folder, [contents], {}, bad, listed_in, ignored, notes)


def _verify_benchmark(name: DataName, data_root: Path | str | None, progress: bool) -> Verified:
    found = find_benchmark(name.kind, data_root)
    index = found.index
    paths = [index.base / image.path for image in found.present]
    unreadable_images = _decode(paths, found.folder, name, progress)
    checksums = {str(file.relative_to(found.folder)): file_digest(file) for file in index.index_files}
    memory = CheckLog(found.folder, name).file.with_suffix(".json")
    problems = [
        *found.wrong,
        *(f"not found: {index.base / image.path} ({image.where})" for image in found.missing),
        *(f"not listed: {path}" for path in found.extra),
        *_changed_index_files(found, checksums, memory),
        *unreadable_images,
    ]
    notes: list[str] = []
    if not problems:
        problems, notes = _look_at_cache(read_source(str(name), data_root), name, progress)
    if not problems:
        with suppress(OSError):  # a folder that is not writable, as CheckLog.opened has reported
            write_json(memory, checksums)
    listed_in = CheckLog(found.folder, name).write_list("problems", problems)
    return Verified(found.folder, _contents(found), checksums, problems, listed_in, notes=notes)


def _decode(paths: Sequence[Path], folder: Path, name: DataName, progress: bool) -> list[str]:
    log = CheckLog(folder, name)
    with log.opened():
        reasons = unreadable(paths, progress, log)
    return [f"cannot be read: {path}: {why}" for path, why in zip(paths, reasons, strict=True) if why is not None]


def _look_at_cache(source: Source, name: DataName, progress: bool) -> tuple[list[str], list[str]]:
    """Return why the cache of a set, if it has one, cannot be used by a training, or else for which it can be."""
    try:
        cached = use_cache(source, name)
        side = side_of_cache(source, name)
    except CacheError as error:
        return [str(error)], []
    if cached is not source:
        packed = [image for image in cached.table.images if isinstance(image, PackedImage)]
        reasons = zip(packed, unreadable(packed, progress), strict=True)
        if bad := [f"cannot be read from the cache: {image.path}: {why}" for image, why in reasons if why is not None]:
            return bad, []
    return [], [] if side is None else [f"cached with a shorter side of {side}; runs that need more read the files"]


def _contents(found: BenchmarkOnDisk) -> list[str]:
    contents = []
    for split, words in (("train", "training"), ("test", "test")):
        images = [image for image in found.index.images if image.split == split]
        text = f"{len(images):,} {words} images of {len({image.class_id for image in images}):,} classes"
        roles = Counter(image.role for image in images)
        if roles["query"] or roles["gallery"]:
            text += f" ({counted(roles['query'], 'query')}, {roles['gallery']:,} in the gallery)"
        contents.append(text)
    return contents


def _changed_index_files(found: BenchmarkOnDisk, checksums: dict[str, str], memory: Path) -> list[str]:
    """Compare index files with published checksums, and with those of the last verification without problems."""
    problems = []
    for file in found.index.index_files:
        published = _MD5.get(file.name)
        if published is not None and (got := file_digest(file, "md5")) != published:
            problems.append(f"{file}: MD5: expected {published}, got {got}")
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    for name, digest in checksums.items():
        if isinstance(known, dict) and known.get(name, digest) != digest:
            problems.append(
                f"{found.folder / name}: changed since the last verification; unpack the archive again, or remove "
                f"{memory} if the change is intended"
            )
    return problems
