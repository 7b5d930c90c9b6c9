"""Pictures of a search: its history, each setting against the score, and each two settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from ccpml.report.style import COLORS, INK, MUTED, PAPER, WIDTH, Picture, style
from ccpml.tuning.results import Result, best_of
from ccpml.tuning.search_space import Choices, Field, Range
from ccpml.tuning.study import Search

__all__ = ["draw_contour", "draw_history", "draw_search", "draw_slices"]

_SCORE = "MAP@R on the validation classes"
_COMPLETE, _PRUNED = COLORS[0], INK
_COLUMNS = 3
_NAMES: Final = {
    "projections.strength": "strength λ",
    "proxies_per_class": "proxies per class K",
    "pool_size": "pool size b",
}
_STAR: Final[Any] = {"marker": "*", "markersize": 15, "color": COLORS[4], "markeredgecolor": PAPER, "linestyle": ""}


def draw_search(search: Search, results: Sequence[Result], shares: Mapping[str, float]) -> list[Path]:
    """Draw a search into its folder: ``history.png``, ``slices.png``, ``contour-<field>-<field>.png`` for each pair.

    Args:
        search: What was searched.
        results: Its trials.
        shares: The importance of each field, if it is known.

    Returns:
        The pictures; none if no trial has a score.
    """
    if not any(result.score is not None for result in results):
        return []
    with style():
        pictures = [draw_history(results), draw_slices(search.space, results, shares)]
        pictures += [draw_contour(x, y, results) for x, y in combinations(search.space, 2)]
    for picture in pictures:
        picture.write(search.out)
    return [search.out / picture.name for picture in pictures]


def draw_history(results: Sequence[Result]) -> Picture:
    """Draw the score of each trial, and the best so far."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axis = figure.subplots()
    complete, pruned = _scored(results, "complete"), _scored(results, "pruned")
    _points(axis, [one.number for one in complete], complete, "complete")
    _points(axis, [one.number for one in pruned], pruned, "pruned")
    if complete:
        numbers = np.array([one.number for one in complete])  # (n,)
        best = np.maximum.accumulate([_score(one) for one in complete])  # (n,)
        last = max(result.number for result in results)
        axis.step([*numbers, last], [*best, best[-1]], where="post", color=INK, linewidth=1.2, label="best so far")
    failed = [result.number for result in results if result.state == "failed"]
    if failed:
        bottom = axis.get_xaxis_transform()
        axis.plot(failed, [0.02] * len(failed), "x", color=MUTED, transform=bottom, label="failed", markersize=6)
    best_trial = best_of(results)
    if best_trial is not None:
        _star(axis, best_trial.number, best_trial)
    axis.set(title="Trials", xlabel="trial", ylabel=_SCORE)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axis.margins(x=0.03, y=0.12)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, handlelength=1.4)
    return Picture.of(figure, "history.png", f"The scores of {len(results)} trials, and the best so far.")


def draw_slices(space: Sequence[Field], results: Sequence[Result], shares: Mapping[str, float]) -> Picture:
    """Draw the scores over each field."""
    columns = min(_COLUMNS, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(WIDTH, 3.4 * rows), layout="constrained")
    best = best_of(results)
    axes = np.array(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    for axis, field in zip(axes, space, strict=False):
        scale = _Scale(field)
        for state in ("complete", "pruned"):
            shown = _scored(results, state)
            _points(axis, scale.places(shown), shown, state)
        if best is not None:
            _star(axis, scale.places([best])[0], best)
        axis.set_title(scale.label)
        scale.mark(axis, "x")
        axis.set_xlabel(f"importance {100 * shares[field.name]:.0f} %" if field.name in shares else "")
        axis.margins(y=0.12)
    for axis in axes[len(space) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel(_SCORE)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=1.4)
    names = ", ".join(field.name for field in space)
    return Picture.of(figure, "slices.png", f"The scores of the trials over {names}.")


def draw_contour(x: Field, y: Field, results: Sequence[Result]) -> Picture:
    """Draw the score over two fields, interpolated between the trials that are complete."""
    figure = Figure(figsize=(0.75 * WIDTH, 5.2), layout="constrained")
    axis = figure.subplots()
    across, up = _Scale(x), _Scale(y)
    complete, pruned = _scored(results, "complete"), _scored(results, "pruned")
    scores = np.array([_score(one) for one in complete])  # (n,)
    if len(complete):
        low, high = scores.min(), max(scores.max(), scores.min() + 1e-6)
        surface = _surface(across.places(complete), up.places(complete), scores)
        if surface is not None and scores.max() > scores.min():
            levels = np.linspace(low, high, 11)
            axis.tricontourf(surface[0], surface[1], levels=levels, cmap="viridis", alpha=0.85)
        shown = axis.scatter(
            *(across.places(complete), up.places(complete)),
            c=scores,
            cmap="viridis",
            vmin=low,
            vmax=high,
            s=42,
            edgecolors=PAPER,
            linewidths=1.0,
            zorder=3,
            label="complete",
        )
        figure.colorbar(shown, ax=axis, label=_SCORE)
    _points(axis, across.places(pruned), pruned, "pruned", up.places(pruned))
    best = best_of(results)
    if best is not None:
        axis.plot(across.places([best]), up.places([best]), zorder=5, label=f"best {_score(best):.4f}", **_STAR)
    axis.set(title=f"{across.label} and {up.label}", xlabel=across.label, ylabel=up.label)
    across.mark(axis, "x")
    up.mark(axis, "y")
    axis.grid(visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, handlelength=1.4)
    alt = f"MAP@R on the validation classes over {x.name} and {y.name}, {len(complete)} complete trials."
    return Picture.of(figure, f"contour-{x.name}-{y.name}.png", alt)


@dataclass(frozen=True)
class _Scale:
    """Where a field's values lie on an axis: by their logarithm, as they are, or side by side."""

    field: Field

    @property
    def label(self) -> str:
        return _NAMES.get(self.field.name, self.field.name)

    def places(self, results: Sequence[Result]) -> NDArray[np.float64]:
        """Give the place of each result, (n,)."""
        return self.place([result.values[self.field.name] for result in results])

    def place(self, values: Sequence[float]) -> NDArray[np.float64]:
        if isinstance(self.field, Choices):
            order = sorted(self.field.values)
            return np.array([order.index(value) for value in values], dtype=float)
        return np.log10(values) if self.field.log else np.asarray(values, dtype=float)

    def mark(self, axis: Axes, side: str) -> None:
        """Set the limits and ticks of an axis."""
        values = self._ticks(self.field) if isinstance(self.field, Range) else sorted(self.field.values)
        first, last = self.place([min(self.field.extremes), max(self.field.extremes)])
        margin = 0.05 * (last - first)
        axis.set(**{f"{side}lim": (first - margin, last + margin)})
        axis.set(**{f"{side}ticks": self.place(values), f"{side}ticklabels": [_short(value) for value in values]})

    @staticmethod
    def _ticks(field: Range) -> list[float]:
        if not field.log:
            places = MaxNLocator(nbins=8, integer=field.is_integer, steps=[1, 2, 5, 10]).tick_values(
                field.low, field.high
            )
            return [float(place) for place in places if field.low <= place <= field.high]
        decades = range(int(np.floor(np.log10(field.low))), int(np.ceil(np.log10(field.high))) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            ticks = [factor * 10.0**decade for decade in decades for factor in factors]
            ticks = [tick for tick in ticks if field.low * (1 - 1e-9) <= tick <= field.high * (1 + 1e-9)]
            if len(ticks) >= 4:
                break
        return ticks[:: -(-len(ticks) // 9)] if len(ticks) > 1 else [field.low, field.high]


def _short(value: float) -> str:
    """Write a number as people do: 1e-6, not 1e-06."""
    return re.sub(r"e([+-])0*", r"e\1", f"{value:g}").replace("e+", "e")


def _surface(
    x: NDArray[np.float64], y: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[Triangulation, NDArray[np.float64]] | None:
    """Give triangles between places, and the mean score at each; None if there are none but on a line."""
    places, of = np.unique(np.stack([x, y], axis=1), axis=0, return_inverse=True)  # (m, 2), (n,)
    means = np.bincount(of.ravel(), scores) / np.bincount(of.ravel())  # (m,)
    span = places.max(axis=0) - places.min(axis=0)  # (2,)
    if len(places) < 3 or not span.all():
        return None
    unit = (places - places.min(axis=0)) / span  # (m, 2)
    if np.linalg.matrix_rank(unit - unit.mean(axis=0), tol=1e-6) < 2:
        return None
    triangles = Triangulation(unit[:, 0], unit[:, 1]).triangles
    return Triangulation(places[:, 0], places[:, 1], triangles), means


def _scored(results: Sequence[Result], state: str) -> list[Result]:
    return [result for result in results if result.state == state and result.score is not None]


def _score(result: Result) -> float:
    assert result.score is not None
    return result.score


def _points(
    axis: Axes,
    x: Sequence[float] | NDArray[np.float64],
    results: Sequence[Result],
    state: str,
    y: NDArray[np.float64] | None = None,
) -> None:
    """Draw results as points; those that were pruned are hollow."""
    if not results:
        return
    heights = [_score(one) for one in results] if y is None else y
    hollow = state == "pruned"
    axis.plot(
        x,
        heights,
        marker="v" if hollow else "o",
        color=_PRUNED if hollow else _COMPLETE,
        markerfacecolor="none" if hollow else _COMPLETE,
        markersize=5,
        linestyle="",
        label="pruned, at its best" if hollow and y is None else state,
    )


def _star(axis: Axes, x: float, best: Result) -> None:
    axis.plot([x], [_score(best)], zorder=5, label=f"best {_score(best):.4f}", **_STAR)
