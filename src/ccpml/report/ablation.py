"""One picture of the result of a benchmark: scores over the setting that an ablation varies, or the rows of a table."""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccpml.benchmark.ablations import ablation_title
from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import ROW_METHODS, Benchmark, Row
from ccpml.benchmark.results import RowResult
from ccpml.losses import LOSSES
from ccpml.report.style import COLORS, INK, MUTED, PAPER, WHOLE, WIDTH, Picture, end_at, legible, shorten, style

__all__ = ["draw_ablation", "draw_table"]

_SCORES: Final = {
    "validation": "Best validation MAP@R",
    "separated": "Test MAP@R, single models",
    "concatenated": "Test MAP@R, concatenated",
    "last": "Test MAP@R, last step",
}
_MARKERS: Final = "osD^vPX<>"
_DIAMOND: Final[Any] = {"color": PAPER, "markeredgecolor": INK, "markersize": 7}


def draw_ablation(benchmark: Benchmark, results: Sequence[RowResult], to: Path) -> Path:
    """Draw an ablation into a folder, as ``ablation.png``: MAP@R on validation and test classes over its setting."""
    values = list(dict.fromkeys(str(result.row.value) for result in results))
    default = [values.index(str(result.row.value)) for result in results if _is_default(benchmark, result.row)]
    families = [list(family) for _, family in groupby(results, lambda result: _family(result.row))]
    one_loss = len({result.row.loss for result in results}) == 1
    title = ablation_title(str(benchmark.ablation))
    with style():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        for axes, score in zip(figure.subplots(1, 2), ("validation", "separated"), strict=True):
            for number, family in enumerate(families):
                shift = 0.12 * (number - (len(families) - 1) / 2)
                color = _color(family[0].row) if one_loss else COLORS[number % len(COLORS)]
                look: dict[str, Any] = {
                    "label": _family(family[0].row).title,
                    "marker": _MARKERS[number % len(_MARKERS)],
                }
                scores = [_repeats(result, score) for result in family]
                places = [values.index(str(result.row.value)) + shift for result in family]
                _draw_scores(axes, places, scores, upright=True, color=color, markersize=6, **look)
            for place in default[:1]:
                axes.axvline(place, color=INK, linewidth=1.8, linestyle=":", zorder=1)
            names = [shorten(legible(value), 12) for value in values]
            axes.set_xticks(range(len(values)), names, rotation=30 if sum(map(len, names)) > 30 else 0)
            axes.set_xlim(-0.6, len(values) - 0.4)
            label = f"{title} (dotted: default)" if default else title
            axes.set(title=_SCORES[score], xlabel=label, ylabel="percent")
            axes.set_ylim(*end_at(100.0, *axes.get_ylim()))
        if len(families) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(families), 6))
        return Picture.of(figure, "ablation.png", f"MAP@R on validation and test classes over {title}").write(to)


def draw_table(benchmark: Benchmark, results: Sequence[RowResult], to: Path) -> Path:
    """Draw the rows of a table into a folder, as ``table.png``: the test MAP@R of each, grouped by loss."""
    shown = ["concatenated", "separated"] if len(benchmark.folds) > 1 else ["separated", "last"]
    shown = [score for score in shown if any(_repeats(result, score) for result in results)] or shown[:1]
    losses = pairwise(result.row.loss for result in results)
    places = list(accumulate((1.0 if before == loss else 1.5 for before, loss in losses), initial=0.0))
    papers = [paper_scores(benchmark, result.row) or {} for result in results]
    with style():
        figure = Figure(figsize=(WIDTH, 1.9 + 0.3 * places[-1]), layout="constrained")
        every = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
        for axes, score in zip(every, shown, strict=True):
            for result, place, paper in zip(results, places, papers, strict=True):
                scores = [_repeats(result, score)]
                _draw_scores(axes, [place], scores, upright=False, color=_color(result.row), marker="o", markersize=7)
                if score in paper:
                    axes.plot(100 * paper[score]["map_at_r"], place, "d", **_DIAMOND, **WHOLE)
            axes.set(title=_SCORES[score], xlabel="percent")
            axes.margins(x=0.08)
            axes.set_xlim(*end_at(100.0, *axes.get_xlim()))
            axes.grid(visible=False, axis="y")
        every[0].set_yticks(places, [shorten(legible(result.row.title), 40) for result in results])
        every[0].invert_yaxis()
        keys = "Large: mean over repeats; bar: standard deviation; small: single repeats"
        keys += "; diamond: the paper" if any(papers) else ""
        figure.supxlabel(keys, color=MUTED, fontsize=9)
        return Picture.of(figure, "table.png", "Test MAP@R of each row").write(to)


def _family(row: Row) -> Row:
    return Row(row.loss, row.method)


def _color(row: Row) -> str:
    """Return a color for each method, and one for all losses with proxies of their own."""
    number = len(ROW_METHODS) if LOSSES[row.loss].has_proxies else ROW_METHODS.index(row.method)
    return COLORS[number % len(COLORS)]


def _is_default(benchmark: Benchmark, row: Row) -> bool:
    """Whether a row has the settings of the benchmark unchanged."""
    plain = next(benchmark.row_cells(_family(row), 0)).settings
    return next(benchmark.row_cells(row, 0)).settings == plain


def _repeats(result: RowResult, score: str) -> list[float]:
    """Return a score of each repeat of a row, in percent."""
    if score == "concatenated":
        return [100 * scores["map_at_r"] for scores in result.ensembles.of_repeats().values()]
    key = {"validation": "validation", "separated": "test", "last": "test_last"}[score]
    models: dict[int, list[float]] = {}
    for model in result.cells:
        if key in model.scores:
            models.setdefault(model.cell.repeat, []).append(100 * model.scores[key]["map_at_r"])
    return [float(np.mean(scores)) for scores in models.values()]


def _draw_scores(
    axes: Axes, places: Sequence[float], scores: Sequence[list[float]], *, upright: bool, color: str, **look: Any
) -> None:
    """Draw the mean of the repeats at each place, their standard deviation as a bar, and, small, each repeat."""
    found = [(place, repeats) for place, repeats in zip(places, scores, strict=True) if repeats]
    for place, repeats in found:
        if len(repeats) > 1:
            x, y = [place] * len(repeats), repeats
            axes.plot(*((x, y) if upright else (y, x)), ".", color=color, alpha=0.5, markersize=5, **WHOLE)
    x, y = [place for place, _ in found], [float(np.mean(repeats)) for _, repeats in found]
    look["yerr" if upright else "xerr"] = [np.std(repeats, ddof=1) if len(repeats) > 1 else 0.0 for _, repeats in found]
    x, y = (x, y) if upright else (y, x)
    means, *_ = axes.errorbar(x, y, color=color, capsize=3, elinewidth=1, **look)
    means.set(**WHOLE)
