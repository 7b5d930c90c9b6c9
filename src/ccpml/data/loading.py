"""Loading of any set of images by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

from ccpml.data.images.cache import pack_source, use_cache
from ccpml.data.sources.source import Source
from ccpml.data_name import DATA_KINDS, DataName
from ccpml.numbers import as_int, check_flags

__all__ = ["build_cache", "load_source", "read_source"]


def load_source(
    name: str,
    data_root: Path | str | None = None,
    allow_partial: bool = False,
    side: int | None = None,
    labeled: bool = True,
) -> Source:
    """Load a set of images; paths in the result are absolute, as files are read when images are needed.

    Args:
        name: ``groceries``, ``glyphs``, one of the benchmarks ``cub``, ``cars196``, ``sop`` and ``inshop``,
            ``folder:<path>``, ``csv:<file>``, or another name of the kinds of data in ``ccpml.data_name``.
        data_root: Folder of the benchmarks; see `load_benchmark`.
        allow_partial: Whether to accept a part of a benchmark; see `load_benchmark`.
        side: If given, images are taken from the cache of the set if it has one with at least this shorter side.
        labeled: Whether images need labels; if not, those of a folder may be in the folder itself, and a CSV file needs
            no column ``label``. The name of the class of images without a label is empty.

    Raises:
        ValueError: If the name is invalid, or the set cannot be used.

    Example:
        >>> load_source("groceries").table.num_classes
        81
    """
    check_flags(allow_partial=allow_partial, labeled=labeled)
    source = read_source(name, data_root, allow_partial, side, labeled)
    if source.folder is None:
        return source
    return replace(source, table=source.table.absolute(), folder=source.folder.absolute())


def read_source(
    name: str,
    data_root: Path | str | None = None,
    allow_partial: bool = False,
    side: int | None = None,
    labeled: bool = True,
) -> Source:
    """Load a set of images as `load_source` does, for use in the present folder: images are named as the set is."""
    data = DataName.parse(name)
    source = _load(data, data_root, allow_partial, labeled)
    return source if side is None else use_cache(source, data, side)


def build_cache(
    name: str, data_root: Path | str | None = None, allow_partial: bool = False, side: int = 256, progress: bool = True
) -> Path:
    """Build the cache of a set, or resume a build that was interrupted.

    Args:
        name: Name of the set; see `load_source` also for the next two arguments.
        data_root: Folder of the benchmarks.
        allow_partial: Whether to accept a part of a benchmark.
        side: Shorter side to which larger images are reduced.
        progress: Whether to show progress bars on standard error.

    Returns:
        Folder of the cache, inside the folder of the images.

    Raises:
        ValueError: If the set cannot be used, an image cannot be read, or the cache cannot be written.
    """
    check_flags(allow_partial=allow_partial, progress=progress)
    data, side = DataName.parse(name), as_int("side", side, 1)
    if data_root is not None and not isinstance(data_root, str | Path):
        raise ValueError(f"data_root: expected a folder, got {data_root!r}")
    return pack_source(_load(data, data_root, allow_partial), data, side, progress)


def _load(name: DataName, data_root: Path | str | None, allow_partial: bool, labeled: bool = True) -> Source:
    load: Callable[..., Source] = resolve_name(DATA_KINDS[name.kind].loader)
    if name.is_benchmark:
        return load(name.kind, data_root, allow_partial)
    if not labeled and DATA_KINDS[name.kind].takes_unlabeled:
        return load(name.path, labeled=False)
    return load(name.path) if name.path else load()
