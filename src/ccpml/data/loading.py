"""One name for each set of images: from what the command line says to their table."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ccpml.data.images.cache import pack_source, use_cache
from ccpml.data.sources.benchmarks import load_benchmark
from ccpml.data.sources.own import Source, SplitName, load_csv, load_folder
from ccpml.data.table import ImageTable
from ccpml.data_name import BENCHMARKS

__all__ = ["build_cache", "load_source"]


def load_source(
    name: str, data_root: Path | str | None = None, allow_partial: bool = False, side: int | None = None
) -> Source:
    """Load a set of images.

    Args:
        name: ``glyphs``, one of the benchmarks ``cub``, ``cars196``, ``sop`` and ``inshop``, ``folder:<path>`` or
            ``csv:<file>``.
        data_root: Where benchmarks lie; see `load_benchmark`.
        allow_partial: Whether a benchmark need not be whole.
        side: If given, images come from the set's cache, if it has one of at least this shorter side.

    Raises:
        ValueError: If the name has none of these forms, or what it names cannot be used.

    Example:
        >>> load_source("glyphs").table.num_classes > 100
        True
    """
    source = _load(name, data_root, allow_partial)
    if side is None or source.folder is None:
        return source
    return use_cache(source, source.folder, name, side)


def build_cache(
    name: str, data_root: Path | str | None = None, allow_partial: bool = False, side: int = 256, progress: bool = True
) -> Path:
    """Make the cache of a set; what a call that was stopped has done is not done again.

    Args:
        name: As for `load_source`.
        data_root: As for `load_source`.
        allow_partial: As for `load_source`.
        side: Length of the shorter side of images that are larger.
        progress: Show progress bars on standard error.

    Returns:
        The cache's folder, in that of the images.

    Raises:
        ValueError: If the set cannot be used, an image cannot be read, or the cache cannot be written.
    """
    source = _load(name, data_root, allow_partial)
    if source.folder is None:
        raise ValueError(f"{name}: its images are in memory already, so there is nothing to cache")
    return pack_source(source, source.folder, name, side, progress)


def _load(name: str, data_root: Path | str | None, allow_partial: bool) -> Source:
    kind, colon, path = name.partition(":")
    if name == "glyphs":
        from ccpml.data.sources.glyphs import load_glyphs

        glyphs = load_glyphs()
        table = ImageTable(glyphs.images, glyphs.labels, glyphs.names, name="glyphs")
        return Source(table, cast("Mapping[str, SplitName]", dict(zip(glyphs.names, glyphs.splits, strict=True))))
    if name in BENCHMARKS:
        return load_benchmark(name, data_root, allow_partial)
    if kind == "folder" and colon and path:
        return load_folder(path)
    if kind == "csv" and colon and path:
        return load_csv(path)
    raise ValueError(f"unknown data {name!r}: expected glyphs, {', '.join(BENCHMARKS)}, folder:<path> or csv:<file>")
