"""A cache of small images: shorter side 256, raw pixels in one packed file, so that epochs decode nothing.

A cache lies in ``.ccpml-cache`` in the folder of the images. While it is built its folder has another name
(``….partial``), with a journal of what is done; it is renamed when every pixel has been read back and verified.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ccpml.data.images.cache_build import build, damaged
from ccpml.data.images.cache_index import Index, file_state, index_key, read_index
from ccpml.data.images.packed import PackedImage
from ccpml.data.sources.own import Source
from ccpml.data.upkeep.disk import only_one

__all__ = ["cache_folder", "pack_source", "use_cache", "verify_cache"]

_HOME: Final = ".ccpml-cache"
_SHOWN: Final = 10


def cache_folder(folder: Path, name: str) -> Path:
    """Say where the cache of a set is: its own place for each CSV file of a folder.

    Args:
        folder: Folder of the images.
        name: The set as named on the command line: ``cub``, ``folder:<path>``, ``csv:<file>``.

    Example:
        >>> cache_folder(Path("birds"), "csv:birds/half.csv").as_posix()
        'birds/.ccpml-cache/csv-half.csv'
    """
    kind, _, path = name.partition(":")
    return folder / _HOME / (f"{kind}-{Path(path).name}" if kind == "csv" else kind)


def use_cache(source: Source, folder: Path, name: str, side: int = 0) -> Source:
    """Give a set with packed images in place of paths, if it has a cache; pixels are not read.

    Args:
        source: The set.
        folder: Folder of its images.
        name: The set as named on the command line.
        side: Shorter side that images must have; a cache of smaller ones is not used.

    Returns:
        The set with all its images packed, or unchanged if there is no complete cache, or images are in memory.

    Raises:
        ValueError: If the cache is damaged, or an image is not in it or was changed since; the message names the
            file and the way out.
    """
    images, home = source.table.images, cache_folder(folder, name)
    if isinstance(images, np.ndarray) or not home.is_dir():
        return source
    index = _index(home, name)
    if index.side < side:
        return source
    pack = home / index.pack_name
    entry_of = {entry.key: entry for entry in index.entries}
    packed = []
    for path in map(_file_of, images):
        entry = entry_of.get(index_key(path, folder))
        if entry is None:
            raise ValueError(f"{path}: not among the images packed in {home}; {_way_out(home, name)}")
        if file_state(path) != (entry.size, entry.mtime_ns):
            raise ValueError(f"{path}: changed or gone since it was packed; {_way_out(home, name)}")
        packed.append(entry.packed(path, pack))
    return replace(source, table=replace(source.table, images=tuple(packed)))


def verify_cache(folder: Path, name: str, progress: bool = True) -> int:
    """Read every pixel of a cache and compare checksums.

    Args:
        folder: Folder of the images.
        name: The set as named on the command line.
        progress: Show a progress bar on standard error.

    Returns:
        Number of images.

    Raises:
        ValueError: If there is no cache, or it is damaged; the message names the first ten images.
    """
    home = cache_folder(folder, name)
    index = _index(home, name)
    bad = damaged(home / index.pack_name, index.entries, progress)
    if bad:
        names = ", ".join(entry.key for entry in bad[:_SHOWN])
        raise ValueError(
            f"{home / index.pack_name}: the pixels of {len(bad):,} of {len(index.entries):,} images are damaged "
            f"({names}{', …' if len(bad) > _SHOWN else ''}); {_way_out(home, name)}"
        )
    return len(index.entries)


def pack_source(source: Source, folder: Path, name: str, side: int = 256, progress: bool = True) -> Path:
    """Make the cache of a set: each image once, smaller where it is larger, verified.

    The shorter side becomes ``side``, bilinear and antialiased, the aspect kept; an image whose shorter side is
    no longer than that is kept as it is. What a build that was stopped or killed has done is not done again. A
    cache that is there is verified: if images have changed it is made anew, if pixels are damaged they are mended.

    Args:
        source: The set.
        folder: Folder of its images; the cache comes to lie in ``.ccpml-cache`` there.
        name: The set as named on the command line.
        side: Length of the shorter side.
        progress: Show progress bars on standard error.

    Returns:
        The cache's folder.

    Raises:
        BadImagesError: If images cannot be read; no cache is made.
        ValueError: If images are in memory, the disk has no room, or the folder cannot be written to.
    """
    if isinstance(source.table.images, np.ndarray):
        raise ValueError(f"{name}: its images are in memory already, so there is nothing to cache")
    if side < 1:
        raise ValueError(f"side: expected 1 or more, got {side}")
    home = cache_folder(folder, name)
    paths = [_file_of(image) for image in source.table.images]
    try:
        home.parent.mkdir(exist_ok=True)
        with only_one(home.with_name(f"{home.name}.lock"), f"making the cache of {name}"):
            build(paths, folder, home, name, side, progress)
    except OSError as error:
        raise ValueError(
            f"{error.filename or home}: the cache cannot be written ({error.strerror or error}); it lies in the "
            "folder of the images, which must be writable and have room"
        ) from error
    return home


def _index(home: Path, name: str) -> Index:
    try:
        return read_index(home)
    except ValueError as error:
        raise ValueError(f"{error}; {_way_out(home, name)}") from error


def _way_out(home: Path, name: str) -> str:
    return f"run `ccpml data cache {name}` again, or remove {home}"


def _file_of(image: Path | PackedImage) -> Path:
    return image.path if isinstance(image, PackedImage) else image
