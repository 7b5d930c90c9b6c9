"""One picture of the result of a benchmark: scores over the setting that an ablation varies, or the rows of a table."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccpml.benchmark.ablations import ablation_title
from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import ROW_METHODS, Benchmark, Row
from ccpml.benchmark.results import RowResult
from ccpml.losses import LOSSES
from ccpml.report.style import COLORS, INK, MUTED, PAPER, WIDTH, Picture, legible, shorten, style

__all__ = ["draw_ablation", "draw_table"]

_SCORES: Final = {
    "validation": "Best validation MAP@R",
    "separated": "Test MAP@R, single models",
    "concatenated": "Test MAP@R, concatenated",
    "last": "Test MAP@R, last step",
}
_MARKERS: Final = "osD^vPX<>"
_DIAMOND: Final[Any] = {"color": PAPER, "markeredgecolor": INK, "markersize": 7}


class _Point(NamedTuple):
    """Score of a row in percent: of each repeat, their mean, and their standard deviation (0 for one repeat)."""

    repeats: list[float]
    mean: float
    std: float


def draw_ablation(benchmark: Benchmark, results: Sequence[RowResult], to: Path) -> Path:
    """Draw an ablation: MAP@R on validation and test classes over the setting that it varies.

    Args:
        benchmark: The ablation.
        results: Results of its rows.
        to: Folder of the picture.

    Returns:
        The file, ``ablation.png``.
    """
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
                _line(axes, values, family, score, shift, (color, _MARKERS[number % len(_MARKERS)]))
            for place in default[:1]:
                axes.axvline(place, color=INK, linewidth=1.8, linestyle=":", zorder=1)
            names = [shorten(legible(value), 12) for value in values]
            axes.set_xticks(range(len(values)), names, rotation=30 if sum(map(len, names)) > 30 else 0)
            axes.set_xlim(-0.6, len(values) - 0.4)
            label = f"{title} (dotted: default)" if default else title
            axes.set(title=_SCORES[score], xlabel=label, ylabel="percent")
        if len(families) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(families), 6))
        return Picture.of(figure, "ablation.png", f"MAP@R on validation and test classes over {title}").write(to)


def draw_table(benchmark: Benchmark, results: Sequence[RowResult], to: Path) -> Path:
    """Draw the rows of a table: the test MAP@R of each, grouped by loss.

    Args:
        benchmark: The benchmark.
        results: Results of its rows.
        to: Folder of the picture.

    Returns:
        The file, ``table.png``.
    """
    shown = ["concatenated", "separated"] if len(benchmark.folds) > 1 else ["separated", "last"]
    shown = [score for score in shown if any(_point(result, score) for result in results)] or shown[:1]
    places = _places(results)
    papers = [paper_scores(benchmark, result.row) or {} for result in results]
    with style():
        figure = Figure(figsize=(WIDTH, 1.6 + 0.3 * (max(places, default=0) + 1)), layout="constrained")
        every = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
        for axes, score in zip(every, shown, strict=True):
            for result, place, paper in zip(results, places, papers, strict=True):
                _dot(axes, result, score, place)
                if score in paper:
                    axes.plot(100 * paper[score]["map_at_r"], place, "d", **_DIAMOND)
            axes.set(title=_SCORES[score], xlabel="percent")
            axes.margins(x=0.08)
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


def _point(result: RowResult, score: str) -> _Point | None:
    """Return a score of a row; None if no model has it."""
    if score == "concatenated":
        found: Mapping[int, float] = {r: scores["map_at_r"] for r, scores in result.ensembles.of_repeats().items()}
    else:
        key = {"validation": "validation", "separated": "test", "last": "test_last"}[score]
        models: dict[int, list[float]] = {}
        for model in result.cells:
            if key in model.scores:
                models.setdefault(model.cell.repeat, []).append(model.scores[key]["map_at_r"])
        found = {repeat: float(np.mean(scores)) for repeat, scores in models.items()}
    if not found:
        return None
    repeats = [100 * value for value in found.values()]
    return _Point(repeats, float(np.mean(repeats)), float(np.std(repeats, ddof=1)) if len(repeats) > 1 else 0.0)


def _line(
    axes: Axes, values: list[str], family: Sequence[RowResult], score: str, shift: float, look: tuple[str, str]
) -> None:
    """Draw the scores of a loss with a method over the values of the setting."""
    color, marker = look
    found = [(values.index(str(x.row.value)) + shift, point) for x in family if (point := _point(x, score)) is not None]
    for place, point in found:
        if len(point.repeats) > 1:
            axes.plot([place] * len(point.repeats), point.repeats, ".", color=color, alpha=0.45, markersize=5)
    places, means, stds = [p for p, _ in found], [x.mean for _, x in found], [x.std for _, x in found]
    label = _family(family[0].row).title
    axes.errorbar(places, means, stds, color=color, marker=marker, capsize=3, label=label, elinewidth=1, markersize=6)


def _dot(axes: Axes, result: RowResult, score: str, place: float) -> None:
    """Draw the score of a row."""
    point = _point(result, score)
    if point is None:
        return
    color = _color(result.row)
    if len(point.repeats) > 1:
        axes.plot(point.repeats, [place] * len(point.repeats), ".", color=color, alpha=0.5, markersize=5)
    axes.errorbar([point.mean], [place], xerr=[point.std], fmt="o", color=color, capsize=3, elinewidth=1, markersize=7)


def _places(results: Sequence[RowResult]) -> list[float]:
    """Return the height of each row, with rows of one loss together."""
    places, height = list[float](), -1.0
    for number, result in enumerate(results):
        apart = number > 0 and results[number - 1].row.loss != result.row.loss
        height += 1.5 if apart else 1.0
        places.append(height)
    return places
