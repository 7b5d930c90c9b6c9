"""Pictures of a comparison: differences with their intervals, and the classes by both runs."""

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccpml.comparison.compare import Comparison, Versus
from ccpml.comparison.statistics import SCORES
from ccpml.report.style import COLORS, INK, MUTED, PAPER, RIGHT, WRONG, Layout, Picture, shorten

__all__ = ["draw_versus"]

_BETTER, _WORSE, _LABELED = RIGHT, WRONG, 3


def draw_versus(comparison: Comparison, versus: Versus) -> Picture:
    """Draw the differences of a run from the reference, and the mean MAP@R of each class by both."""
    name, reference = comparison.runs[versus.run].name, comparison.runs[0].name
    found = versus.differences["map_at_r"]
    alt = (
        f"Left: differences of {len(SCORES)} scores of {name} from {reference} with 95 % intervals; MAP@R "
        f"{found.value:+.4f}. Right: MAP@R of {len(versus.classes):,} classes by both runs."
    )
    return Picture.in_layouts(partial(_draw, comparison, versus), f"versus{versus.run}.png", alt)


def _draw(comparison: Comparison, versus: Versus, layout: Layout) -> Figure:
    size = (layout.width, 8.0) if layout.is_narrow else (layout.width, 4.4)
    figure = Figure(figsize=size, layout="constrained")
    shape = (2, 1) if layout.is_narrow else (1, 2)
    left, right = figure.subplots(*shape)
    names = [shorten(layout.text(comparison.runs[number].name), 34) for number in (0, versus.run)]
    _differences(left, versus)
    _classes(right, versus, layout, names)
    return figure


def _differences(axes: Axes, versus: Versus) -> None:
    places = np.arange(len(SCORES))[::-1]
    for place, name in zip(places, SCORES, strict=True):
        found = versus.differences[name]
        color = {"better": _BETTER, "worse": _WORSE}.get(found.verdict, MUTED)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.4, solid_capstyle="round")
        filled = found.verdict in {"better", "worse"}
        axes.plot(
            *(found.value, place),
            marker="o",
            markersize=8,
            color=color,
            markerfacecolor=color if filled else PAPER,
            markeredgewidth=1.8,
        )
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(places, list(SCORES.values()))
    axes.tick_params(axis="y", colors=INK, length=0)
    axes.grid(visible=False, axis="y")
    axes.set(title="Difference from the reference", xlabel="less · 0 · more (filled: better or worse)")
    axes.margins(x=0.12, y=0.1)


def _classes(axes: Axes, versus: Versus, layout: Layout, names: list[str]) -> None:
    x = np.array([each.reference for each in versus.classes])
    y = np.array([each.value for each in versus.classes])
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
    for rows, color, marker in ((y >= x, COLORS[0], "^"), (y < x, COLORS[4], "v")):
        axes.plot(x[rows], y[rows], linestyle="", marker=marker, markersize=5.5, color=color, alpha=0.75, mew=0)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    pad = max(0.06 * (high - low), 0.01)
    limits = max(low - pad, -0.02), min(high + pad, 1.02)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title="MAP@R of each class")
    axes.set(xlabel=names[0], ylabel=names[1])
    extremes = [*versus.classes[:_LABELED], *versus.classes[::-1][:_LABELED]]
    for each in {each.name: each for each in extremes if abs(each.change) > 0}.values():
        to_right = each.reference > (limits[0] + limits[1]) / 2
        axes.annotate(
            shorten(layout.text(each.name), 24),
            (each.reference, each.value),
            (-6 if to_right else 6, 6 if each.change > 0 else -6),
            textcoords="offset points",
            ha="right" if to_right else "left",
            va="bottom" if each.change > 0 else "top",
            fontsize=8,
            color=INK,
        )
