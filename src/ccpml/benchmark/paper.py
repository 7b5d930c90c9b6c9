"""The paper's own figures, to stand beside ours."""

from collections.abc import Mapping

from ccpml.benchmark.protocol import Row
from ccpml.data_name import BENCHMARKS
from ccpml.runs.presets import read_preset

__all__ = ["paper_scores"]

_METRICS = ("precision_at_1", "r_precision", "map_at_r")


def paper_scores(data: str, row: Row) -> Mapping[str, Mapping[str, float]] | None:
    """Give what the paper reports for a row, under the MLRC protocol.

    Args:
        data: As in `Experiment`.
        row: Which row; the paper has none with a variant.

    Returns:
        ``concatenated`` (512-D) and ``separated`` (128-D), each with the scores by name, in 0..1 as ours are; None
        where the paper has no such row.

    Source: Gürbüz et al., WACV 2024, supplement, tables 1 and 2.

    Example:
        >>> paper_scores("cub", Row("contrastive", "ccp"))["concatenated"]["map_at_r"]
        0.2802
        >>> paper_scores("glyphs", Row("contrastive", "ccp")) is None
        True
    """
    if data not in BENCHMARKS or row.variant or row.changes:
        return None
    large = "-L" if row.method in {"ccp", "xbm"} else ""
    found = read_preset("paper")[data].get(row.title + large)
    if found is None:
        return None
    return {
        setting: {name: round(score / 100, 6) for name, score in zip(_METRICS, scores, strict=True)}
        for setting, scores in found.items()
    }
