"""Maps of some classes in two dimensions, one panel per instance, as in figures 1 and 2 of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from ccpml.method import lipschitz_normalize
from ccpml.report.embedded import Embedded, Instance, evenly_spaced
from ccpml.report.style import COLORS, INK, MUTED, Layout, Picture, shorten

__all__ = ["ProjectedInstance", "choose_instances", "draw_maps", "last_instance"]

_PANELS: Final = 8
_CLASSES: Final = 6
_SAMPLES: Final = 60
"""Largest number of samples of a class in the panel of the best weights."""

_LEGEND: Final[Any] = {"loc": "upper left", "handletextpad": 0.3, "columnspacing": 1.4, "borderaxespad": 0}

Points = NDArray[np.float64]


def choose_instances(files: Sequence[Path]) -> list[Path]:
    """Return at most 8 of the files, evenly spaced, the first and the last among them."""
    return [files[i] for i in evenly_spaced(len(files), _PANELS)]


def last_instance(train: Embedded, proxies: Tensor | None, like: Instance | None, step: int) -> Instance:
    """Return the last panel: training images and proxies by the best weights.

    Args:
        train: Training images.
        proxies: Not normalized, (C, K, d), or None.
        like: Instance of the same run that has the classes to show; None chooses classes evenly.
        step: Step of the best weights.
    """
    present = np.unique(train.labels)
    even = present[evenly_spaced(len(present), _CLASSES)]
    classes = even if like is None else np.intersect1d(like.classes, present)
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
    """Draw a panel for each instance; a single one is large, with its legend on the right."""
    several = f", in {len(instances)} panels" if len(instances) > 1 else ""
    alt = f"Map of the classes {', '.join(_colors(instances))}{several}."
    return Picture.in_layouts(partial(_panels if several else _single, instances), "maps.png", alt)


def _panels(instances: Sequence[Instance], layout: Layout) -> Figure:
    columns = 4 if len(instances) in {4, 7, 8} else min(3, len(instances))
    columns = 2 if layout.is_narrow else columns
    rows = -(-len(instances) // columns)
    side = layout.width / columns
    classes, marks = _legend(instances, _colors(instances), layout)
    above = 0.2 * len(classes + marks) + 0.2 if layout.is_narrow else 0.9
    figure = Figure(figsize=(layout.width, rows * (side + 0.15) + above + 0.05), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - above / figure.get_figheight()))  # type: ignore[union-attr, call-arg]  # the declared type is too wide
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    colors = _colors(instances)
    means: dict[int, Points] = {}
    for axis, instance in zip(axes, instances, strict=False):
        flat = ProjectedInstance.of(instance, means)
        means = flat.means
        _draw_panel(axis, instance, flat, colors)
        axis.title.set_fontsize(8.5 if layout.is_narrow else 10.5)
    for axis in axes[len(instances) :]:
        axis.set_axis_off()
    height = figure.get_figheight()
    if layout.is_narrow:
        figure.legend(handles=classes + marks, bbox_to_anchor=(0.01, 1 - 0.08 / height), **_LEGEND)
    else:
        figure.legend(handles=classes, ncols=3, bbox_to_anchor=(0.01, 1 - 0.08 / height), **_LEGEND)
        figure.legend(handles=marks, ncols=3, bbox_to_anchor=(0.01, 1 - 0.58 / height), **_LEGEND)
    return figure


def _single(instances: Sequence[Instance], layout: Layout) -> Figure:
    colors = _colors(instances)
    classes, marks = _legend(instances, colors, layout)
    if layout.is_narrow:
        height = 4.3 + 0.25 * len(classes + marks)
        figure = Figure(figsize=(layout.width, height))
        axis, beside = figure.add_axes((0.02, 0.02, 0.96, 3.9 / height)), (0.02, 1 - 0.1 / height)
    else:
        figure = Figure(figsize=(layout.width, 5.5))
        axis, beside = figure.add_axes((0.01, 0.02, 0.51, 0.91)), (0.56, 0.92)
    _draw_panel(axis, instances[0], ProjectedInstance.of(instances[0], {}), colors, scale=2.5)
    spacing = 0.3 if layout.is_narrow else 0.8
    figure.legend(handles=classes + marks, bbox_to_anchor=beside, labelspacing=spacing, **_LEGEND)
    return figure


@dataclass(frozen=True)
class ProjectedInstance:
    """The points of an instance in two dimensions."""

    samples: Points  # (n, 2)
    converged: Points | None  # (c, K, 2)
    following: Points | None  # (c, K, 2)
    means: dict[int, Points]  # mean of the samples of each class, by label

    @classmethod
    def of(cls, instance: Instance, previous: dict[int, Points]) -> "ProjectedInstance":
        """Project on two principal components, rotated or reflected towards the class means of the previous panel."""
        sets = [instance.samples, instance.converged, instance.following]
        dim = instance.samples.shape[1]
        points = np.concatenate([part.reshape(-1, dim) for part in sets if part is not None], dtype=np.float64)
        center, axes = points.mean(0), _principal_axes(points)
        labels = np.unique(instance.labels)
        means = {int(c): (instance.samples[instance.labels == c].mean(0) - center) @ axes for c in labels}
        rotation = _align(means, previous)
        samples, converged, following = (None if part is None else (part - center) @ axes @ rotation for part in sets)
        assert samples is not None
        return cls(samples, converged, following, {label: mean @ rotation for label, mean in means.items()})


def _principal_axes(points: Points) -> Points:
    """Return the first two principal axes, (d, 2); zero where the points have fewer dimensions."""
    axes = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][:2]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # the SVD leaves them open
    return np.pad((axes * signs[:, None]).T, ((0, 0), (0, 2 - len(axes))))


def _align(means: dict[int, Points], previous: dict[int, Points]) -> Points:
    """Return the rotation or reflection that brings class means nearest to the previous ones (Procrustes)."""
    common = sorted(means.keys() & previous.keys())
    if not common:
        return np.eye(2)
    rotation: Points = orthogonal_procrustes([means[c] for c in common], [previous[c] for c in common])[0]
    return rotation


def _draw_panel(
    axis: Axes, instance: Instance, flat: ProjectedInstance, colors: dict[str, str], scale: float = 1
) -> None:
    square: dict[str, Any] = {"s": 42 * scale, "marker": "s", "edgecolors": INK, "linewidths": 0.9}
    ring: dict[str, Any] = {"s": 58 * scale, "marker": "o", "facecolors": "none", "linewidths": 1.7}
    for number, (label, name) in enumerate(zip(instance.classes, instance.class_names, strict=True)):
        samples = flat.samples[instance.labels == label]
        axis.scatter(samples[:, 0], samples[:, 1], s=9 * scale, color=colors[name], alpha=0.75, linewidths=0)
        if flat.converged is not None:
            axis.scatter(*flat.converged[number].T, color=colors[name], **square)
        if flat.following is not None:
            axis.scatter(*flat.following[number].T, edgecolors=colors[name], **ring)
    axis.set(title=instance.title, xticks=[], yticks=[])
    axis.spines[["top", "right"]].set_visible(True)
    _frame(axis)


def _frame(axis: Axes) -> None:
    """Set square limits around the points drawn so far, and draw a scale bar of a round length."""
    low, high = axis.dataLim.get_points()
    side = 1.2 * float((high - low).max()) or 1.0
    left, bottom = (low + high) / 2 - side / 2
    axis.set(xlim=(left, left + side), ylim=(bottom - 0.07 * side, bottom + side), aspect="equal")
    power = 10.0 ** np.floor(np.log10(side / 4))
    length = power * max(m for m in (1, 2, 5) if m * power <= side / 4 * 1.0001)
    x, y = left + 0.04 * side, bottom - 0.02 * side
    axis.plot([x, x + length], [y, y], color=MUTED, linewidth=2, solid_capstyle="butt")
    offset: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": MUTED}
    axis.annotate(f"{length:g}", (x + length, y), (4, 0), **offset)


def _colors(instances: Sequence[Instance]) -> dict[str, str]:
    names = dict.fromkeys(name for instance in instances for name in instance.class_names)
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}


def _legend(instances: Sequence[Instance], colors: dict[str, str], layout: Layout) -> tuple[list[Line2D], list[Line2D]]:
    """Return the entries of the legend: classes and marks."""

    def mark(label: str, **how: Any) -> Line2D:
        return Line2D([], [], linestyle="", label=label, **how)

    classes = [mark(shorten(layout.text(n), 30), marker="o", markersize=6, color=c) for n, c in colors.items()]
    marks = [mark("sample", marker="o", markersize=3.5, color=MUTED)]
    if any(instance.converged is not None for instance in instances):
        marks.append(mark("trained proxy", marker="s", markersize=7, color="#c5ccd3", markeredgecolor=INK))
    if any(instance.following is not None for instance in instances):
        look = {"markerfacecolor": "none", "markeredgecolor": MUTED, "markeredgewidth": 1.7}
        marks.append(mark("next proxy", marker="o", markersize=8, **look))
    return classes, marks
