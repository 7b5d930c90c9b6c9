"""The figures that the paper reports."""

from collections.abc import Mapping

from ccpml.benchmark.protocol import METRICS, Benchmark, Row
from ccpml.data_name import BENCHMARKS
from ccpml.presets import read_preset

__all__ = ["paper_scores"]


def paper_scores(benchmark: Benchmark, row: Row) -> Mapping[str, Mapping[str, float]] | None:
    """Return what the paper reports for a row of a benchmark under the MLRC protocol.

    Returns:
        Scores by name, in 0..1, for ``concatenated`` (512-D) and ``separated`` (128-D) embeddings; None if the paper
        has no such row.

    Source: Gürbüz et al., WACV 2024, supplement, tables 1 and 2.

    Example:
        >>> from pathlib import Path
        >>> from ccpml.runs.settings import Settings
        >>> row = Row("contrastive", "ccp")
        >>> paper_scores(Benchmark(Settings(data="cub"), (row,), Path("out")), row)["concatenated"]["map_at_r"]
        0.2802
    """
    data = benchmark.base.data
    if benchmark.protocol != "mlrc" or data not in BENCHMARKS or row.variant or row.changes:
        return None
    size = "-L" if row.method in {"ccp", "xbm"} else ""
    reported = read_preset("paper")[data].get(row.title + size)
    if reported is None:
        return None
    return {
        name: {metric: round(score / 100, 6) for metric, score in zip(METRICS, scores, strict=True)}
        for name, scores in reported.items()
    }
