"""Pictures of a comparison: differences with their intervals, and the classes by both runs."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ccpml.comparison.compare import Comparison
from ccpml.comparison.statistics import SCORES
from ccpml.comparison.versus import ClassChange, Versus
from ccpml.report.style import COLORS, INK, MUTED, PAPER, RIGHT, WHOLE, WRONG, Layout, Picture, end_at, shorten

__all__ = ["draw_versus"]

_MIN_EXTENT = 0.001  # of the axis of differences, on either side
_LABELED = 2  # classes with the largest gains, and with the largest losses


def draw_versus(comparison: Comparison, versus: Versus) -> Picture:
    """Draw the differences of a run from the reference, and the mean MAP@R of each class by both."""
    name, reference = comparison.runs[versus.run].name, comparison.runs[0].name
    found = versus.differences["map_at_r"]
    alt = (
        f"First: differences of {len(SCORES)} scores of {name} from {reference} with 95 % intervals; MAP@R "
        f"{found.value:+.4f}. Second: MAP@R of {len(versus.classes):,} classes by both runs."
    )
    return Picture.in_layouts(partial(_draw, comparison, versus), f"versus{versus.run}.png", alt)


def _draw(comparison: Comparison, versus: Versus, layout: Layout) -> Figure:
    engine = ConstrainedLayoutEngine(w_pad=0.12)  # the fonts of a browser can be wider
    figure = Figure(figsize=(layout.width, 7.6 if layout.is_narrow else 4.6), layout=engine)
    first, second = figure.subplots(*((2, 1) if layout.is_narrow else (1, 2)))
    _draw_differences(first, versus)
    _draw_classes(second, versus.classes, layout)
    names = [shorten(layout.text(comparison.runs[number].name), 34) for number in (0, versus.run)]
    second.set(title="MAP@R of each class", xlabel=names[0], ylabel=names[1])
    return figure


def _draw_differences(axes: Axes, versus: Versus) -> None:
    places = np.arange(len(SCORES))[::-1]
    for place, name in zip(places, SCORES, strict=True):
        found = versus.differences[name]
        color = {"better": RIGHT, "worse": WRONG}.get(found.verdict, MUTED)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.4, solid_capstyle="round")
        inside = color if found.verdict in {"better", "worse"} else PAPER
        look: dict[str, Any] = {"markersize": 8, "markerfacecolor": inside, "markeredgewidth": 1.8}
        axes.plot(found.value, place, marker="o", color=color, **look)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(places, list(SCORES.values()))
    axes.tick_params(axis="y", colors=INK, length=0)
    axes.grid(visible=False, axis="y")
    axes.set(title="Difference from the reference", xlabel="filled: better or worse; hollow: not distinguishable")
    axes.margins(x=0.12, y=0.1)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -_MIN_EXTENT), max(high, _MIN_EXTENT))  # differences by rounding alone are no differences
    axes.locator_params(axis="x", nbins=5)


def _draw_classes(axes: Axes, classes: Sequence[ClassChange], layout: Layout) -> None:
    x, y = np.array([(each.reference, each.value) for each in classes]).T  # (C,) each
    axes.plot([-1, 2], [-1, 2], color=MUTED, linewidth=1)
    for rows, color, marker in ((y > x, COLORS[0], "^"), (y < x, COLORS[4], "v"), (y == x, MUTED, "o")):
        if rows.any():  # at 0 and 1, marks reach beyond the axes
            look: dict[str, Any] = {"marker": marker, "markersize": 6, "color": color, "alpha": 0.8, **WHOLE}
            axes.plot(x[rows], y[rows], linestyle="", zorder=3, **look)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    pad = max(0.08 * (high - low), 0.01)
    low, high = end_at(1.0, low - pad, high + pad)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.locator_params(nbins=5)
    gains = [each for each in classes if each.change > 0][:_LABELED]
    losses = [each for each in classes[::-1] if each.change < 0][:_LABELED]
    # Above the line there is room on the left, and below it on the right.
    for labeled, end, side in ((gains, low, "left"), (losses, high, "right")):
        _label(axes, sorted(labeled, key=lambda each: each.value), end, side, (high - low), layout)


def _label(axes: Axes, classes: Sequence[ClassChange], end: float, side: str, extent: float, layout: Layout) -> None:
    """Write the names of classes at the end of the axes, with a line to their marks."""
    inner = end + (0.03 if side == "left" else -0.03) * extent
    for number, each in enumerate(classes):
        height = (0.93 - 0.08 * (len(classes) - 1 - number)) if side == "left" else 0.05 + 0.08 * number
        bottom = axes.get_ylim()[0]
        axes.annotate(
            shorten(layout.text(each.name), 26),
            (each.reference, each.value),
            (inner, bottom + height * extent),
            ha=side,
            va="center",
            fontsize=8.5,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkB": 4},
        )
