"""Why two pictures are similar: how covering a region of one changes their distance. Works with any model."""

import io
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.serving.embedder import Embedder

__all__ = ["PairMaps", "draw_map", "explain_pair", "occlusion_map", "peak", "shrink"]

CELLS: Final = 7
"""Cells of a map along each side."""

MAX_SIDE: Final = 512
"""Longer side, in pixels, of the pictures that are measured."""

_BATCH: Final = 16  # covered pictures embedded at a time
_MAP_SIDE: Final = 256  # longer side of a drawn map in pixels
_ORANGE: Final = (245, 130, 0)
_BLUE: Final = (38, 110, 220)
_OPACITY: Final = 0.8
_LEAST_CHANGE: Final = 1e-5  # of the distance; below are errors of rounding


class PairMaps(NamedTuple):
    """What the distance of a pair rests on.

    Attributes:
        query: Change of the distance when a cell of the query is covered, float32 (CELLS, CELLS).
        item: The same for the item.
        distance: Distance of the pair with nothing covered.
    """

    query: NDArray[np.float32]
    item: NDArray[np.float32]
    distance: float

    @property
    def largest(self) -> float:
        """The largest change of the distance; 0 if covering changes nothing."""
        change = float(max(np.abs(self.query).max(), np.abs(self.item).max()))
        return change if change > _LEAST_CHANGE else 0.0


def explain_pair(embedder: Embedder, query: NDArray[np.uint8], item: NDArray[np.uint8]) -> PairMaps:
    """Measure which regions of two pictures their distance rests on.

    Covers each region of one picture with its mean color while the other stays as it is: 2 · 64 + 2 embeddings.

    Args:
        embedder: The model.
        query: uint8 (H, W, 3).
        item: uint8 (H, W, 3), of any other size.

    Raises:
        ValueError: If an array has another shape or type.

    Source:
        M. D. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 4.2,
        there of the score of a class.
    """
    query, item = shrink(query), shrink(item)
    ends = _embed(embedder, [query, item])  # (2, d)
    return PairMaps(
        occlusion_map(embedder, query, ends[1], ends[0]),
        occlusion_map(embedder, item, ends[0], ends[1]),
        float(np.linalg.norm(ends[0] - ends[1])),
    )


def occlusion_map(
    embedder: Embedder, pixels: NDArray[np.uint8], other: NDArray[np.float64], whole: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Return how the distance to an embedding changes when a region of a picture is covered.

    A window of 2 × 2 cells is moved by one cell at a time over 7 × 7 cells, half outside at the edges. The value of a
    cell is the mean over the four windows that cover it. Positive values belong to regions that make the picture
    similar.

    Args:
        embedder: The model.
        pixels: The picture, uint8 (H, W, 3).
        other: The embedding, (d,).
        whole: The embedding of the picture, (d,), if it is known.

    Returns:
        float32, (7, 7).
    """
    if whole is None:
        whole = _embed(embedder, [pixels])[0]
    before = np.linalg.norm(whole - other)
    color = pixels.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    rows, columns = (np.linspace(0, side, CELLS + 1).round().astype(int) for side in pixels.shape[:2])
    windows = [
        (slice(max(top, 0), top + 2), slice(max(left, 0), left + 2))
        for top in range(-1, CELLS)
        for left in range(-1, CELLS)
    ]
    total = np.zeros((CELLS, CELLS))
    for start in range(0, len(windows), _BATCH):
        part = windows[start : start + _BATCH]
        covered = [pixels.copy() for _ in part]
        for (height, width), image in zip(part, covered, strict=True):
            image[_span(rows, height), _span(columns, width)] = color
        changes = np.linalg.norm(_embed(embedder, covered) - other, axis=1) - before  # (B,)
        for window, change in zip(part, changes, strict=True):
            total[window] += change
    return (total / 4).astype(np.float32)


def _span(edges: NDArray[np.int64], cells: slice) -> slice:
    return slice(edges[cells.start], edges[min(cells.stop, CELLS)])


def peak(values: NDArray[np.float32], least: float = _LEAST_CHANGE) -> str:
    """Return in words where a map is largest, such as "top left"; empty if it is nowhere above ``least``.

    Example:
        >>> peak(np.eye(7, dtype=np.float32)[::-1] * np.arange(7))
        'top right'
    """
    if values.max() <= least:
        return ""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    vertical = ("top", "", "bottom")[min(2, int(row) * 3 // values.shape[0])]
    horizontal = ("left", "", "right")[min(2, int(column) * 3 // values.shape[1])]
    return " ".join(part for part in (vertical, horizontal) if part) or "center"


def draw_map(values: NDArray[np.float32], largest: float, shape: tuple[int, ...]) -> bytes:
    """Return a map as a PNG to lay over its picture: orange where values are positive, blue where negative.

    Args:
        values: float32, (7, 7).
        largest: Absolute value of the full color; 0 draws nothing.
        shape: Height and width of the picture, whose aspect ratio the map has.
    """
    height, width = (max(1, round(side * _MAP_SIDE / max(shape[:2]))) for side in shape[:2])
    smooth = np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    strength = np.clip(np.abs(smooth) / largest, 0, 1) if largest > 0 else np.zeros_like(smooth)  # (H, W)
    drawn = np.empty((*smooth.shape, 4), np.uint8)
    drawn[..., :3] = np.where((smooth > 0)[..., None], _ORANGE, _BLUE)
    drawn[..., 3] = np.round(255 * _OPACITY * strength)
    content = io.BytesIO()
    Image.fromarray(drawn).save(content, "PNG")
    return content.getvalue()


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture whose longer side has at most 512 pixels, uint8 (H, W, 3).

    Raises:
        ValueError: If the array has another shape or type.
    """
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"picture: expected an array, uint8 (H, W, 3), got {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"picture: expected uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    if max(pixels.shape[:2]) <= MAX_SIDE:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
    return np.array(image)


def _embed(embedder: Embedder, images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    return np.asarray(embedder.embed(images), dtype=np.float64)
