"""The paper's settings for each data set, as files; imports no torch."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ccpml.data_name import BENCHMARKS

__all__ = ["load_preset", "read_preset"]

_ELSEWHERE = {"backbone": "small_conv", "weights": "none"}


@cache
def read_preset(name: str) -> dict[str, Any]:
    """Read one of the files in ``ccpml/presets``.

    Args:
        name: The file's, without ``.yaml``.
    """
    content: dict[str, Any] = yaml.safe_load((files("ccpml") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def load_preset(data: str) -> dict[str, Any]:
    """Give the settings for some data: the paper's for its four benchmarks, elsewhere those for CUB with `small_conv`.

    Returns:
        ``settings`` by the names of `Experiment`; ``losses``, the parameters of each loss; ``small_memory_batches``,
        the size of XBM-S.

    Example:
        >>> load_preset("sop")["losses"]["triplet"], load_preset("glyphs")["settings"]["backbone"]
        ({'margin': 0.0451}, 'small_conv')
    """
    preset = read_preset(data if data in BENCHMARKS else "cub")
    return preset if data in BENCHMARKS else {**preset, "settings": {**preset["settings"], **_ELSEWHERE}}
