"""Cache of reduced images: raw pixels in one packed file, so that training decodes nothing.

A cache is a folder in ``.ccpml-cache`` in the folder of the images. While it is built the folder is named
``….partial`` and has a journal of what is done; it is renamed when all pixels have been read back and verified.
"""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ccpml.artifacts import path_kind
from ccpml.data.images.archived import ArchivedImage
from ccpml.data.images.cache_build import build
from ccpml.data.images.cache_index import CacheError, file_state, index_key, read_index
from ccpml.data.images.packed import PackedImage
from ccpml.data.sources.source import Source
from ccpml.data.table import StoredImage
from ccpml.data_name import DataName
from ccpml.files import exclusive_lock
from ccpml.system_errors import advice

__all__ = ["cache_folder", "pack_source", "side_of_cache", "use_cache"]

_FOLDER: Final = ".ccpml-cache"
_OF_FOLDER: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})


def cache_folder(folder: Path, name: DataName) -> Path:
    """Return the folder of the cache of the set with a name whose images are in a folder.

    Example:
        >>> cache_folder(Path("birds"), DataName.parse("csv:birds/half.csv")).as_posix()
        'birds/.ccpml-cache/csv-half.csv'
    """
    return folder / _FOLDER / name.file_stem


def use_cache(source: Source, name: DataName, side: int = 0) -> Source:
    """Return a set with all its images packed if it has a cache of the given shorter side or larger.

    Pixels are not read. A set in memory, in an archive or without a complete cache is returned unchanged.

    Raises:
        CacheError: If the cache is damaged, or an image is not in it or has changed since.
    """
    images = source.table.images
    if isinstance(images, np.ndarray) or source.folder is None:
        return source
    home = _checked(cache_folder(source.folder, name))
    if not home.is_dir():
        return source
    index = read_index(home)
    if index.side < side:
        return source
    pack = home / index.pack_name
    entry_of = {entry.key: entry for entry in index.entries}
    packed = []
    for path in map(_file_of, images):
        entry = entry_of.get(index_key(path, source.folder))
        if entry is None:
            raise CacheError.of(home, f"{path} not found in it")
        if file_state(path) != (entry.size, entry.mtime_ns):
            raise CacheError.of(home, f"{path} has changed or was removed since it was packed")
        packed.append(PackedImage(path, pack, entry.offset, entry.height, entry.width, entry.channels, entry.sum64))
    return replace(source, table=replace(source.table, images=tuple(packed)))


def side_of_cache(source: Source, name: DataName) -> int | None:
    """Return the shorter side to which a set was cached; None if it has no cache."""
    home = None if source.folder is None else cache_folder(source.folder, name)
    return None if home is None or not home.is_dir() else read_index(home).side


def pack_source(source: Source, name: DataName, side: int = 256, progress: bool = True) -> Path:
    """Build the cache of a set: every image once, reduced if it is larger, and verified.

    The shorter side becomes ``side``, bilinear and antialiased, with the aspect ratio kept. Images whose shorter side
    is not longer are stored unchanged. An interrupted build resumes. An existing cache is verified: it is built again
    if images have changed, and damaged pixels are repaired. Returns the folder of the cache.

    Raises:
        BadImagesError: If images cannot be read; no cache is made.
        CacheError: If a file or a broken link is in the place of the cache.
        ValueError: If images are in memory or in an archive, the disk is full, or the folder is not writable.
    """
    if isinstance(source.table.images, np.ndarray) or source.folder is None:
        raise ValueError(
            f"{name}: expected a folder, a CSV file or a benchmark, got a set that comes with ccpml; there is nothing "
            "to cache"
        )
    if side < 1:
        raise ValueError(f"side: expected 1 or more, got {side}")
    home = _checked(cache_folder(source.folder, name))
    paths = [_file_of(image) for image in source.table.images]
    try:
        home.parent.mkdir(exist_ok=True)
        with exclusive_lock(home.with_name(f"{home.name}.lock"), f"building the cache of {name}"):
            build(paths, source.folder, home, side, source.table.rotate, progress)
    except OSError as error:
        advised = "; the folder of the images must be writable and have free space"
        way_out = advised if error.errno in _OF_FOLDER else advice(error)
        raise ValueError(
            f"{error.filename or home}: the cache cannot be written ({error.strerror or error}){way_out}"
        ) from error
    return home


def _checked(home: Path) -> Path:
    """Return the folder of a cache, if nothing else is in its place."""
    for folder in (home.parent, home):
        if (kind := path_kind(folder)) not in {"", "a folder"}:
            raise CacheError(f"{folder}: expected the folder of a cache, got {kind}; remove it")
    return home


def _file_of(image: StoredImage) -> Path:
    if isinstance(image, ArchivedImage):
        return image.archive
    return image.path if isinstance(image, PackedImage) else image
