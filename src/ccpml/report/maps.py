"""Maps of some classes in two dimensions, one for each instance, as in the paper's figures 1 and 2."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from ccpml.method import lipschitz_normalize
from ccpml.report.embedded import Embedded, Instance
from ccpml.report.style import COLORS, INK, MUTED, WIDTH, Picture, legible, shorten

__all__ = ["choose_instances", "draw_maps", "last_instance"]

_PANELS: Final = 8
_CLASSES: Final = 6
_SAMPLES: Final = 60
"""Samples of a class at most on the map of a finished run."""

_LEGEND: Final[Any] = {"loc": "upper left", "handletextpad": 0.3, "columnspacing": 1.4, "borderaxespad": 0}

Points = NDArray[np.float64]


def choose_instances(files: Sequence[Path]) -> list[Path]:
    """Choose evenly among the instances, the first and the last included, if there are too many to show."""
    if len(files) <= _PANELS:
        return list(files)
    return [files[i] for i in np.linspace(0, len(files) - 1, _PANELS).round().astype(int)]


def last_instance(train: Embedded, proxies: Tensor | None, like: Instance | None, step: int) -> Instance:
    """Give the end of the run: training images by the best weights, with the proxies that belong to them.

    Args:
        train: Training images.
        proxies: As they are stored, (C, K, d), or None.
        like: An instance of the same run, whose classes are shown; None chooses classes evenly.
        step: Of the best weights.
    """
    there = np.unique(train.labels)
    even = there[np.linspace(0, len(there) - 1, min(_CLASSES, len(there))).round().astype(int)]
    classes = even if like is None else np.intersect1d(like.classes, there)
    classes = classes if classes.size else even
    rows = np.concatenate([np.flatnonzero(train.labels == label)[:_SAMPLES] for label in classes])
    converged = None
    if proxies is not None and classes.max() < len(proxies):
        converged = lipschitz_normalize(proxies[torch.from_numpy(classes)]).numpy()
    return Instance(
        title=f"Best weights, step {step:,}",
        classes=classes,
        class_names=tuple(train.class_names[label] for label in classes),
        samples=train.embeddings[rows],
        labels=train.labels[rows],
        converged=converged,
    )


def draw_maps(instances: Sequence[Instance]) -> Picture:
    """Draw a panel for each instance."""
    if len(instances) == 1:
        return _draw_one(instances[0])
    columns = 4 if len(instances) in {4, 7, 8} else min(3, len(instances))
    rows = -(-len(instances) // columns)
    side = WIDTH / columns
    figure = Figure(figsize=(WIDTH, rows * (side + 0.15) + 0.95), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.9 / figure.get_figheight()))  # type: ignore[union-attr, call-arg]  # the constrained one
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    colors = _colors(instances)
    before: dict[int, Points] = {}
    for axis, instance in zip(axes, instances, strict=False):
        flat = _Flat.of(instance, before)
        before = flat.means
        _draw_panel(axis, instance, flat, colors)
    for axis in axes[len(instances) :]:
        axis.set_axis_off()
    classes, marks = _legend(instances, colors)
    height = figure.get_figheight()
    figure.legend(handles=classes, ncols=3, bbox_to_anchor=(0.01, 1 - 0.08 / height), **_LEGEND)
    figure.legend(handles=marks, ncols=3, bbox_to_anchor=(0.01, 1 - 0.58 / height), **_LEGEND)
    return Picture.of(figure, "maps.png", f"Maps of the classes {', '.join(colors)}, in {len(instances)} panels.")


def _draw_one(instance: Instance) -> Picture:
    """Draw a single panel, large, with its legend to the right."""
    figure = Figure(figsize=(WIDTH, 5.5))
    axis = figure.add_axes((0.01, 0.02, 0.51, 0.91))
    colors = _colors([instance])
    _draw_panel(axis, instance, _Flat.of(instance, {}), colors, scale=2.5)
    classes, marks = _legend([instance], colors)
    figure.legend(handles=classes + marks, bbox_to_anchor=(0.56, 0.92), labelspacing=0.8, **_LEGEND)
    return Picture.of(figure, "maps.png", f"Map of the classes {', '.join(colors)}.")


@dataclass(frozen=True)
class _Flat:
    """A panel's points in two dimensions.

    Attributes:
        samples: (n, 2).
        converged: (c, K, 2) or None.
        following: (c, K, 2) or None.
        means: Of each class's samples, by label.
    """

    samples: Points
    converged: Points | None
    following: Points | None
    means: dict[int, Points]

    @classmethod
    def of(cls, instance: Instance, before: dict[int, Points]) -> "_Flat":
        """Project by principal components, turned so that the classes lie as near as may be to the panel before."""
        sets = [instance.samples, instance.converged, instance.following]
        points = [np.reshape(part, (-1, instance.samples.shape[1])) for part in sets if part is not None]
        flat = _principal(np.concatenate(points).astype(np.float64))
        parts = iter(np.split(flat, np.cumsum([len(part) for part in points])[:-1]))
        shaped = [None if part is None else next(parts).reshape(*part.shape[:-1], 2) for part in sets]
        samples = shaped[0]
        assert samples is not None
        means = {int(c): samples[instance.labels == c].mean(0) for c in np.unique(instance.labels)}
        turn = _turn(means, before)
        samples, converged, following = (None if part is None else part @ turn for part in shaped)
        assert samples is not None
        return cls(samples, converged, following, {label: mean @ turn for label, mean in means.items()})


def _principal(points: Points) -> Points:
    """Project on the first two principal components."""
    centerd = points - points.mean(0)
    if centerd.shape[1] < 2:
        centerd = np.pad(centerd, ((0, 0), (0, 1)))
    axes = np.linalg.svd(centerd, full_matrices=False)[2][:2]
    if len(axes) < 2:
        return np.pad(centerd @ axes.T, ((0, 0), (0, 1)))
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])  # else the machine would choose
    projected: Points = centerd @ (axes * signs[:, None]).T
    return projected


def _turn(means: dict[int, Points], before: dict[int, Points]) -> Points:
    """Find the rotation or reflection that brings class means nearest to what they were (Procrustes)."""
    common = sorted(means.keys() & before.keys())
    if not common:
        return np.eye(2)
    u, _, v = np.linalg.svd(np.array([means[c] for c in common]).T @ np.array([before[c] for c in common]))
    turn: Points = u @ v
    return turn


def _draw_panel(axis: Axes, instance: Instance, flat: _Flat, colors: dict[str, str], scale: float = 1) -> None:
    for number, (label, name) in enumerate(zip(instance.classes, instance.class_names, strict=True)):
        color = colors[name]
        _scatter(axis, flat.samples[instance.labels == label], s=9 * scale, color=color, alpha=0.75, linewidths=0)
        if flat.converged is not None:
            _scatter(
                axis, flat.converged[number], s=42 * scale, marker="s", color=color, edgecolors=INK, linewidths=0.9
            )
        if flat.following is not None:
            ring = {"marker": "o", "facecolors": "none", "edgecolors": color, "linewidths": 1.7}
            _scatter(axis, flat.following[number], s=58 * scale, **ring)
    axis.set_title(instance.title)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["top", "right"]].set_visible(True)
    _frame(axis, np.concatenate([part.reshape(-1, 2) for part in _parts(flat)]))


def _scatter(axis: Axes, points: Points, **how: Any) -> None:
    axis.scatter(points[:, 0], points[:, 1], **how)


def _parts(flat: _Flat) -> Iterable[Points]:
    return (part for part in (flat.samples, flat.converged, flat.following) if part is not None)


def _frame(axis: Axes, points: Points) -> None:
    """Show a square around the points, with a bar of a round length in its corner, as the panels differ in scale."""
    low, high = points.min(0), points.max(0)
    side = 1.2 * float((high - low).max()) or 1.0
    left, bottom = (low + high) / 2 - side / 2
    axis.set(xlim=(left, left + side), ylim=(bottom - 0.07 * side, bottom + side), aspect="equal")
    power = 10.0 ** np.floor(np.log10(side / 4))
    length = power * max(m for m in (1, 2, 5) if m * power <= side / 4 * 1.0001)
    x, y = left + 0.04 * side, bottom - 0.02 * side
    axis.plot([x, x + length], [y, y], color=MUTED, linewidth=2, solid_capstyle="butt")
    axis.annotate(
        f"{length:g}", (x + length, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=MUTED
    )


def _colors(instances: Sequence[Instance]) -> dict[str, str]:
    names = dict.fromkeys(name for instance in instances for name in instance.class_names)
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}


def _legend(instances: Sequence[Instance], colors: dict[str, str]) -> tuple[list[Line2D], list[Line2D]]:
    """Give the legend's entries: of the classes, and of the marks."""

    def mark(label: str, **how: Any) -> Line2D:
        return Line2D([], [], linestyle="", label=label, **how)

    classes = [
        mark(shorten(legible(n), 44 if len(instances) == 1 else 30), marker="o", markersize=6, color=c)
        for n, c in colors.items()
    ]
    marks = [mark("sample", marker="o", markersize=3.5, color=MUTED)]
    if any(instance.converged is not None for instance in instances):
        marks.append(mark("converged proxy", marker="s", markersize=7, color="#c5ccd3", markeredgecolor=INK))
    if any(instance.following is not None for instance in instances):
        look = {"markerfacecolor": "none", "markeredgecolor": MUTED, "markeredgewidth": 1.7}
        marks.append(mark("next proxy", marker="o", markersize=8, **look))
    return classes, marks
