"""Pictures of a search: scores over trials, over each setting, and over each pair of settings."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.tri import Triangulation
from numpy.typing import ArrayLike, NDArray

from ccpml.report.style import COLORS, INK, MUTED, PAPER, WHOLE, WIDTH, Picture, end_at, style
from ccpml.tuning.results import Result, best_of
from ccpml.tuning.search_space import Choices, Field
from ccpml.tuning.study import Search

__all__ = ["Scale", "draw_contour", "draw_history", "draw_search", "draw_slices", "triangulate"]

_SCORE = "MAP@R on the validation classes"
_LABELS: Final = {
    "projections.strength": "strength λ",
    "proxies_per_class": "proxies per class K",
    "pool_size": "pool size b",
    "nearest_positives": "nearest positives n",
}
_LOOKS: Final[Any] = {
    "complete": {"marker": "o", "color": COLORS[0], **WHOLE},
    "pruned": {"marker": "v", "color": INK, "markerfacecolor": "none", **WHOLE},
}
_STAR: Final[Any] = {
    **{"marker": "*", "markersize": 15, "color": COLORS[4], "markeredgecolor": PAPER, "linestyle": ""},
    **WHOLE,
}


def draw_search(search: Search, results: Sequence[Result], shares: Mapping[str, float]) -> list[Path]:
    """Draw a search into its folder: ``history.png``, ``slices.png``, ``contour-<field>-<field>.png`` for each pair.

    Args:
        search: The search.
        results: Its trials.
        shares: Importance of each field, as a fraction, where it is known.

    Returns:
        The files; none if no trial has a score.
    """
    if all(result.score is None for result in results):
        return []
    with style():
        pictures = [draw_history(results), draw_slices(search.space, results, shares)]
        pictures += [draw_contour(x, y, results) for x, y in combinations(search.space, 2)]
    return [picture.write(search.out) for picture in pictures]


def draw_history(results: Sequence[Result]) -> Picture:
    """Draw the score of each trial, and the best up to it."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axis = figure.subplots()
    _draw_trials(axis, results, lambda shown: [result.number for result in shown], _scores)
    complete = _scored(results, "complete")
    if complete:
        best = np.maximum.accumulate(_scores(complete))  # (n,)
        numbers = [*(result.number for result in complete), max(result.number for result in results)]
        axis.step(numbers, [*best, best[-1]], where="post", color=INK, linewidth=1.2, label="best so far")
    failed = [result.number for result in results if result.state == "failed"]
    if failed:
        bottom = axis.get_xaxis_transform()
        axis.plot(failed, [0.02] * len(failed), "x", color=MUTED, transform=bottom, label="failed", markersize=6)
    axis.set(title="Trials", xlabel="trial", ylabel=_SCORE)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axis.margins(x=0.03, y=0.12)
    axis.set_ylim(*end_at(1.0, *axis.get_ylim()))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, handlelength=1.4)
    return Picture.of(figure, "history.png", f"Scores of {len(results)} trials, and the best so far.")


def draw_slices(space: Sequence[Field], results: Sequence[Result], shares: Mapping[str, float]) -> Picture:
    """Draw the scores over each field."""
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(WIDTH, 3.4 * rows), layout="constrained")
    axes = np.array(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    for axis, field in zip(axes, space, strict=False):
        scale = Scale(field)
        _draw_trials(axis, results, scale.positions_of, _scores)
        axis.set_title(scale.label)
        scale.apply(axis, "x")
        axis.set_xlabel(f"importance {100 * shares[field.name]:.0f} %" if field.name in shares else "")
        axis.margins(y=0.12)
    axes[0].set_ylim(*end_at(1.0, *axes[0].get_ylim()))  # shared
    for axis in axes[len(space) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel(_SCORE)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=1.4)
    names = ", ".join(field.name for field in space)
    return Picture.of(figure, "slices.png", f"Scores of the trials over {names}.")


def draw_contour(x: Field, y: Field, results: Sequence[Result]) -> Picture:
    """Draw the score over two fields, interpolated between complete trials."""
    figure = Figure(figsize=(0.75 * WIDTH, 5.2), layout="constrained")
    axis = figure.subplots()
    across, up = Scale(x), Scale(y)
    complete = _scored(results, "complete")
    scores = _scores(complete)
    if complete:
        low, high = scores.min(), max(scores.max(), scores.min() + 1e-6)
        positions = across.positions_of(complete), up.positions_of(complete)
        surface = triangulate(*positions, scores)
        if surface is not None and scores.max() > scores.min():
            axis.tricontourf(*surface, levels=np.linspace(low, high, 11), cmap="viridis", alpha=0.85)
        look: dict[str, Any] = {"s": 42, "edgecolors": PAPER, "linewidths": 1.0, "zorder": 3, "label": "complete"}
        shown = axis.scatter(*positions, c=scores, cmap="viridis", vmin=low, vmax=high, **look)
        figure.colorbar(shown, ax=axis, label=_SCORE)
    _draw_trials(axis, results, across.positions_of, up.positions_of, {"pruned": "pruned"})
    axis.set(title=f"{across.label} and {up.label}", xlabel=across.label, ylabel=up.label)
    across.apply(axis, "x")
    up.apply(axis, "y")
    axis.grid(visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, handlelength=1.4)
    alt = f"MAP@R on the validation classes over {x.name} and {y.name}, {len(complete)} complete trials."
    return Picture.of(figure, f"contour-{x.name}-{y.name}.png", alt)


@dataclass(frozen=True)
class Scale:
    """The axis of a field: logarithmic, linear, or one position per choice."""

    field: Field

    @property
    def label(self) -> str:
        """Label of the axis."""
        return _LABELS.get(self.field.name, self.field.name)

    def positions_of(self, results: Sequence[Result]) -> NDArray[np.float64]:
        """Return the position of each result, (n,)."""
        return self.positions([result.values[self.field.name] for result in results])

    def positions(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the position of each value, (n,)."""
        if isinstance(self.field, Choices):
            order = sorted(self.field.values)
            return np.array([order.index(value) for value in values], dtype=float)
        return np.log10(values) if self.field.log else np.asarray(values, dtype=float)

    def ticks(self) -> list[float]:
        """Return the values to label: all choices, or round numbers."""
        field = self.field
        if isinstance(field, Choices):
            return sorted(field.values)
        low, high = field.low - 1e-9 * abs(field.low), field.high + 1e-9 * abs(field.high)
        even = MaxNLocator(nbins=8, integer=field.is_integer, steps=[1, 2, 5, 10])
        round_factors = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))
        for locator in [LogLocator(subs=subs, numticks=99) for subs in round_factors] if field.log else [even]:
            ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
            if len(ticks) >= 4:
                break
        return ticks[:: -(-len(ticks) // 9)] if len(ticks) > 1 else [field.low, field.high]

    def apply(self, axis: Axes, side: str) -> None:
        """Set limits and ticks of the side ``x`` or ``y``."""
        first, last = self.positions([min(self.field.extremes), max(self.field.extremes)])
        margin = 0.05 * (last - first)
        labels = [re.sub(r"e\+?(-?)0*", r"e\1", f"{tick:g}") for tick in self.ticks()]  # 1e-6, not 1e-06
        ticks = {f"{side}ticks": self.positions(self.ticks()), f"{side}ticklabels": labels}
        axis.set(**{f"{side}lim": (first - margin, last + margin)}, **ticks)


def triangulate(
    x: NDArray[np.float64], y: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[Triangulation, NDArray[np.float64]] | None:
    """Return triangles between the distinct points (x, y) and the mean score of each; None if all lie on a line."""
    points, index = np.unique(np.stack([x, y], axis=1), axis=0, return_inverse=True)  # (m, 2), (n,)
    means = np.bincount(index.ravel(), scores) / np.bincount(index.ravel())  # (m,)
    span = points.max(axis=0) - points.min(axis=0)  # (2,)
    if len(points) < 3 or not span.all():
        return None
    unit = (points - points.min(axis=0)) / span  # (m, 2)
    if np.linalg.matrix_rank(unit - unit.mean(axis=0), tol=1e-6) < 2:
        return None
    triangles = Triangulation(unit[:, 0], unit[:, 1]).triangles
    return Triangulation(points[:, 0], points[:, 1], triangles), means


def _scored(results: Sequence[Result], state: str) -> list[Result]:
    return [result for result in results if result.state == state and result.score is not None]


def _scores(results: Sequence[Result]) -> NDArray[np.float64]:
    return np.array([result.score for result in results], dtype=float)


def _draw_trials(
    axis: Axes,
    results: Sequence[Result],
    x: Callable[[Sequence[Result]], ArrayLike],
    y: Callable[[Sequence[Result]], ArrayLike],
    labels: Mapping[str, str] = {"complete": "complete", "pruned": "pruned: best score"},
) -> None:
    """Draw trials as points, by state: those of ``labels`` that have a score; and the best as a star."""
    for state, label in labels.items():
        shown = _scored(results, state)
        if shown:
            axis.plot(x(shown), y(shown), markersize=5, linestyle="", label=label, **_LOOKS[state])
    best = best_of(results)
    if best is not None:
        axis.plot(x([best]), y([best]), zorder=5, label=f"best {best.score:.4f}", **_STAR)
