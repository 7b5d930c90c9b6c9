"""The paper's settings for each data set, read from files. Imports no torch."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ccpml.data_name import BENCHMARKS

__all__ = ["load_preset", "read_preset"]


@cache
def read_preset(name: str) -> dict[str, Any]:
    """Read one of the files of this package, by its name without ``.yaml``."""
    content: dict[str, Any] = yaml.safe_load((files("ccpml.presets") / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def load_preset(data: str) -> dict[str, Any]:
    """Return the paper's settings for a benchmark; for other data those of CUB, of which only sizes are used.

    Returns:
        ``settings`` by the names of `Settings`, and ``small_memory_batches``, the size of XBM-S.

    Example:
        >>> load_preset("sop")["settings"]["proxies_per_class"], load_preset("glyphs")["settings"]["proxies_per_class"]
        (4, 8)
    """
    return read_preset(data if data in BENCHMARKS else "cub")
