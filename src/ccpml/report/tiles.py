"""Rows of small images with captions; correct and wrong neighbors have frames and marks, further ones are faded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ccpml.report.images import Pixels
from ccpml.report.style import INK, MUTED, RIGHT, WIDTH, WRONG, legible, shorten, two_lines

__all__ = ["Row", "Tile", "draw_rows"]

_GAP: Final = 0.1
_TITLE: Final = 0.3
_LINE: Final = 0.155
"""Heights in inches: the title of a row, and a line of a caption."""


@dataclass(frozen=True, eq=False)
class Tile:
    """An image in a row."""

    image: Pixels | None  # None draws a placeholder
    caption: str = ""
    right: bool | None = None  # whether it is of the query's class; None for no mark
    faded: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """A row of images."""

    name: str  # of a class
    numbers: str  # beside the name
    tiles: Sequence[Tile]
    lead: int = 0  # number of leading images set apart from the others (the query)
    suggested: str = ""  # the class that it may be instead


def draw_rows(rows: Sequence[Row], per_row: int) -> Figure:
    """Draw rows of at most ``per_row`` images."""
    lead = _GAP * 2 * any(row.lead for row in rows)
    side = (WIDTH - 0.1 - lead) / per_row - _GAP
    captions = any(tile.caption for row in rows for tile in row.tiles)
    height = _TITLE + side + (2 * _LINE if captions else 0) + 0.12
    figure = Figure(figsize=(WIDTH, height * len(rows) + 0.05))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    for number, row in enumerate(rows):
        top = number * height
        title = f"{shorten(legible(row.name), 80)}   {row.numbers}"
        axis.text(0.05, top + _TITLE - 0.08, title, va="bottom", fontsize=9.5, fontweight="bold", color=INK)
        for place, tile in enumerate(row.tiles[:per_row]):
            left = 0.05 + place * (side + _GAP) + (lead if row.lead and place >= row.lead else 0)
            _draw_tile(axis, tile, left, top + _TITLE, side)
    axis.set(xlim=(0, WIDTH), ylim=(height * len(rows) + 0.05, 0), aspect="auto")
    return figure


def _draw_tile(axis: Axes, tile: Tile, left: float, top: float, side: float) -> None:
    axis.add_patch(Rectangle((left, top), side, side, facecolor="#eef1f3", edgecolor="none"))
    if tile.image is None:
        middle = left + side / 2, top + side / 2
        axis.text(*middle, "image\nnot found", ha="center", va="center", fontsize=8, color=MUTED)
    else:
        _draw_image(axis, tile.image, left, top, side)
    if tile.right is None:
        axis.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="#d5dbe0", linewidth=0.8))
    else:
        _mark(axis, tile.right, left, top, side)
    if tile.faded:
        veil: dict[str, Any] = {"facecolor": "white", "edgecolor": "white", "alpha": 0.65, "linewidth": 3, "zorder": 6}
        axis.add_patch(Rectangle((left, top), side, side, **veil))
    caption = two_lines(tile.caption, max(6, int(side / 0.073)))
    color = MUTED if tile.faded else INK
    axis.text(left + side / 2, top + side + 0.04, caption, ha="center", va="top", fontsize=7.5, color=color)


def _draw_image(axis: Axes, image: Pixels, left: float, top: float, side: float) -> None:
    """Draw an image within the square, keeping its aspect ratio."""
    height, width = image.shape[:2]
    w, h = side * width / max(height, width), side * height / max(height, width)
    x, y = left + (side - w) / 2, top + (side - h) / 2
    interpolation = "nearest" if max(height, width) <= 48 else "antialiased"
    axis.imshow(image, extent=(x, x + w, y + h, y), interpolation=interpolation, zorder=1.5)


def _mark(axis: Axes, right: bool, left: float, top: float, side: float) -> None:
    """Draw frame and sign; the sign and the dashes tell right from wrong without color."""
    color, sign = (RIGHT, "✓") if right else (WRONG, "✗")
    frame: dict[str, Any] = {"fill": False, "linewidth": 2.4, "zorder": 3}
    if right:
        axis.add_patch(Rectangle((left, top), side, side, edgecolor=color, **frame))
    else:
        axis.add_patch(Rectangle((left, top), side, side, edgecolor="#f6d2c8", **frame))
        axis.add_patch(Rectangle((left, top), side, side, edgecolor=color, linestyle=(0, (4, 1.5)), **frame))
    badge = {"boxstyle": "circle,pad=0.15", "facecolor": color, "edgecolor": "white", "linewidth": 0.8}
    look: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "color": "white", "zorder": 5, "bbox": badge}
    axis.text(left + side - 0.1, top + 0.1, sign, ha="center", va="center", **look)
