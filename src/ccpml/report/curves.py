"""Curves over steps: score, loss, and the geometry of the classes, with a mark where an instance converged."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from ccpml.report.style import COLORS, INK, MUTED, PAPER, WHOLE, Layout, Picture, end_at

__all__ = ["History", "draw_geometry", "draw_progress"]

_TRAIN, _VALIDATION, _PROXIES, _SPREAD = COLORS[0], COLORS[4], COLORS[2], COLORS[3]
_MAX_NUMBERED = 12
"""More switches than this are marked but not numbered."""


@dataclass(frozen=True)
class History:
    """The validations of a run."""

    rows: Sequence[dict[str, float]]  # the rows of metrics.csv: numbers by column
    best_step: int

    @property
    def switches(self) -> list[int]:
        """Step at which each instance converged, in order."""
        latest = np.maximum.accumulate(np.nan_to_num(self.column("instance")).clip(min=0))  # (n,)
        return [int(step) for step in self.column("step")[np.diff(latest, prepend=0) > 0]]

    @property
    def begin(self) -> int | None:
        """Step at which the first proxies were placed, None if that was before training or never."""
        waiting = self.column("instance") < 0  # (n,)
        return int(self.column("step")[~waiting][0]) if waiting.any() and not waiting.all() else None

    def has_proxies(self, step: int) -> bool:
        """Whether the first proxies were placed before a step."""
        return not any(row["step"] == step and row.get("instance", 0) < 0 for row in self.rows)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column, NaN where it is empty."""
        return np.array([row.get(name, np.nan) for row in self.rows])

    @property
    def numbered(self) -> bool:
        """Whether the switches are few enough to be numbered."""
        return 0 < len(self.switches) <= _MAX_NUMBERED

    @property
    def title_pad(self) -> float:
        """Space below the title of the axes, in points, with room for numbers."""
        return 18 if self.numbered else 8

    def has(self, name: str) -> bool:
        """Whether a column has numbers."""
        return bool(np.isfinite(self.column(name)).any())


def draw_progress(history: History) -> Picture:
    """Draw MAP@R on the validation classes and the training loss."""
    steps = int(history.rows[-1]["step"])
    alt = f"Curves over {steps:,} steps: MAP@R on validation, best at step {history.best_step:,}; training loss"
    return Picture.in_layouts(partial(_progress, history), "progress.png", alt + _describe_switches(history))


def _progress(history: History, layout: Layout) -> Figure:
    figure = Figure(figsize=(layout.width, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _line(top, history, "map_at_r", _VALIDATION, "")
    _line(bottom, history, "loss", _TRAIN, "")
    top.set_title("MAP@R on validation", pad=history.title_pad)
    bottom.set_title("Training loss")
    top.set_xlabel("")
    low, high = top.get_ylim()
    top.set_ylim(*end_at(1.0, low, high + 0.2 * (high - low)))  # with room for the best score above the curve
    for line in top.lines:
        line.set(**WHOLE)
    _mark_switches(top, history)
    _mark_switches(bottom, history, numbers=False)
    best = [row for row in history.rows if row["step"] == history.best_step]
    if best:
        value = best[0]["map_at_r"]
        star: dict[str, Any] = {"marker": "*", "markersize": 14, "color": _VALIDATION, "markeredgecolor": PAPER}
        top.plot([history.best_step], [value], **star, **WHOLE)
        first, last = history.rows[0]["step"], history.rows[-1]["step"]
        position = (history.best_step - first) / max(last - first, 1)
        side = "left" if position < 0.08 else "right" if position > 0.92 else "center"
        box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
        low, high = top.get_ylim()
        vertical, offset = ("bottom", 9) if value < high - 0.16 * (high - low) else ("top", -9)
        beside: dict[str, Any] = {"textcoords": "offset points", "ha": side, "va": vertical, "bbox": box}
        point = (history.best_step, value)
        top.annotate(f"best {value:.4f}", point, (0, offset), color=INK, fontweight="bold", **beside)
    return figure


def draw_geometry(history: History) -> Picture:
    """Draw covering radii, distances between classes, and, where there are proxies, their radius and spread."""
    shown = ", ".join(title.lower() for title in _geometry_titles(history))
    alt = f"Curves over steps: {shown}" + _describe_switches(history)
    return Picture.in_layouts(partial(_geometry, history), "geometry.png", alt)


def _geometry_titles(history: History) -> list[str]:
    titles = ["Average covering radius", "Average inter-class distance", "Proxies"]
    return titles if history.has("proxy_covering_radius") else titles[:2]


def _geometry(history: History, layout: Layout) -> Figure:
    titles = _geometry_titles(history)
    shape, height = ((len(titles), 1), 3.2 * len(titles)) if layout.is_narrow else ((1, len(titles)), 3.5)
    figure = Figure(figsize=(layout.width, height), layout="constrained")
    axes = list(figure.subplots(*shape))
    for axis, title, name in zip(axes, titles, ("covering_radius", "interclass_distance"), strict=False):
        _line(axis, history, f"train_{name}", _TRAIN, "training classes")
        _line(axis, history, f"val_{name}", _VALIDATION, "validation classes")
        axis.set_title(title, pad=history.title_pad)
    if len(titles) > 2:
        _line(axes[2], history, "proxy_covering_radius", _PROXIES, "covering radius")
        _line(axes[2], history, "proxy_spread", _SPREAD, "spread")
        axes[2].set_title(titles[2], pad=history.title_pad)
    for axis in axes:
        _mark_switches(axis, history)
        axis.set_ylim(bottom=0, top=axis.get_ylim()[1] * 1.02)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=1.4, columnspacing=1.2)
    figure.draw_without_rendering()  # the layout has room for long numbers beside the axes at the second time only
    return figure


def _line(axis: Axes, history: History, name: str, color: str, label: str) -> None:
    marker = "o" if len(history.rows) <= 60 else ""
    axis.plot(history.column("step"), history.column(name), color=color, label=label, marker=marker)
    switches = history.switches if history.numbered else ()
    switched = [row for row in history.rows if row["step"] in switches and name in row]
    diamond: dict[str, Any] = {"marker": "D", "markersize": 6, "markeredgecolor": PAPER, "linestyle": ""}
    axis.plot([row["step"] for row in switched], [row[name] for row in switched], color=color, **diamond)
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.margins(x=0.03)


def _mark_switches(axis: Axes, history: History, numbers: bool = True) -> None:
    """Draw vertical lines where each instance converged, with its number above, and where the first one began."""
    width = 1.0 if history.numbered else 0.6
    above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    above |= {"ha": "center", "va": "bottom", "fontsize": 8.5, "color": MUTED}
    if history.begin is not None:
        axis.axvline(history.begin, color=MUTED, linewidth=1.0, linestyle=":", zorder=1)
    for number, step in enumerate(history.switches, start=1):
        axis.axvline(step, color=MUTED, linewidth=width, linestyle=(0, (4, 3)), zorder=1)
        if numbers and history.numbered:
            axis.annotate(str(number), (step, 1), (0, 3), **above)


def _describe_switches(history: History) -> str:
    begin = "" if history.begin is None else f"; first proxies placed at step {history.begin:,}"
    if not history.switches:
        return f"{begin}."
    shown = ", ".join(f"{step:,}" for step in history.switches[:_MAX_NUMBERED])
    more = "" if len(history.switches) <= _MAX_NUMBERED else " and more"
    return f"{begin}; instances converged at steps {shown}{more}."
