"""Comparison of two pictures by their pixels: the same, encoded again or resized, or only similar."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["likeness"]

_SIDE: Final = 64  # longer side in which pictures are compared
_MIN_SIDE: Final = 24
_BLOCKS: Final = 8  # per side
_LIMIT: Final = 0.2  # of the difference of whole pictures, as a fraction of their contrast
_BLOCK_LIMIT: Final = 0.5  # of the difference of one block
_MIN_CONTRAST: Final = 10.0  # gray levels; pictures with less are compared as if they had this,
_FAINT_LIMIT: Final = 0.5  # but may not differ by more than this fraction of what they have
_PLAIN: Final = 0.1  # gray levels; pictures of one color have less
_NOISE: Final = 1.5  # gray levels by which an encoding changes a color


def likeness(
    first: Image.Image,
    second: Image.Image,
    limit: float = _LIMIT,
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> float:
    """Return how alike two pictures are if they are the same but for encoding and size; else 0.

    Both are reduced to the smaller size, of at most 64 pixels, or half of it if their sizes differ, so that ways of
    resizing do not matter. They are the same if the root mean square of their differences is at most a fifth of
    the contrast, and in none of 8 × 8 blocks more than half of it: so an object that moved, or a label in another
    color, is a difference. Pictures with almost no contrast may differ by the noise of an encoding. A picture that is
    mirrored, rotated, in gray, or cropped by more than a few percent is another one.

    Args:
        first: A picture in RGB.
        second: Another one.
        limit: The difference up to which whole pictures are the same, as a fraction of their contrast.
        shapes: Height and width before the pictures were reduced; by default their sizes.

    Returns:
        1 for equal pixels, down to 1 − ``limit``; 0 if they are not the same.

    Example:
        >>> gradient = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 64, 1).repeat(3, 2))
        >>> likeness(gradient, gradient.resize((40, 40))) > 0.95, likeness(gradient, gradient.rotate(90))
        (True, 0.0)
    """
    one, other = shapes or ((first.height, first.width), (second.height, second.width))
    tolerance = 0.01 + 1.0 / min(*one, *other)  # of sizes that were rounded
    if abs(math.log(one[0] * other[1] / (one[1] * other[0]))) > tolerance:
        return 0.0
    width, height = min(first.width, second.width), min(first.height, second.height)
    longer = max(width, height)
    side = _SIDE if one == other else max(_MIN_SIDE, min(_SIDE, longer // 2))
    scale = min(1.0, side / longer)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = (np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) for image in (first, second))
    faint, other_contrast = sorted(float(z.std(axis=(0, 1)).max()) for z in (x, y))
    contrast = max(faint, _MIN_CONTRAST)
    squares = np.square(x - y).mean(axis=2) / contrast**2  # (h, w)
    difference = math.sqrt(float(squares.mean()))
    if difference * contrast > (_NOISE if other_contrast < _PLAIN else _FAINT_LIMIT * faint):
        return 0.0
    if difference > limit or math.sqrt(_largest_block(squares)) > _BLOCK_LIMIT * limit / _LIMIT:
        return 0.0
    return 1.0 - difference


def _largest_block(squares: NDArray[np.float32]) -> float:
    """Return the largest mean of a block of at least 4 × 4 pixels."""
    sums = squares.astype(np.float64)
    for axis in (0, 1):
        length = sums.shape[axis]
        count = max(1, min(_BLOCKS, length // 4))
        starts = np.arange(count) * length // count
        sizes = np.diff([*starts, length]).reshape((-1, 1) if axis == 0 else (1, -1))
        sums = np.add.reduceat(sums, starts, axis=axis) / sizes
    return float(sums.max())
