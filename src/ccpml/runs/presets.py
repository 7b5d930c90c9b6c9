"""The paper's settings for each data set, read from files. Imports no torch."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ccpml.data_name import BENCHMARKS

__all__ = ["load_preset", "read_preset"]

_ELSEWHERE = {"backbone": "small_conv", "weights": "none"}


@cache
def read_preset(name: str) -> dict[str, Any]:
    """Read one of the files in ``ccpml/presets``, by its name without ``.yaml``."""
    content: dict[str, Any] = yaml.safe_load((files("ccpml") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def load_preset(data: str) -> dict[str, Any]:
    """Return the settings for some data: the paper's for its benchmarks, elsewhere CUB's with `small_conv`.

    Returns:
        ``settings`` by the names of `Settings`, and ``small_memory_batches``, the size of XBM-S.

    Example:
        >>> load_preset("sop")["settings"]["proxies_per_class"], load_preset("glyphs")["settings"]["backbone"]
        (4, 'small_conv')
    """
    preset = read_preset(data if data in BENCHMARKS else "cub")
    return preset if data in BENCHMARKS else {**preset, "settings": {**preset["settings"], **_ELSEWHERE}}
