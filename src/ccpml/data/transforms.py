"""The paper's crops. A transform turns an image of any size into a square one; both are uint8, (H, W, C).

Which part it takes, its *view*, is known from the image's size alone, so that nothing else has to be read. Each
resizes in one pass, bilinear and antialiased as Pillow does it.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

__all__ = ["EvalTransform", "TrainTransform", "Transform", "View"]

_TRIES = 10


@dataclass(frozen=True)
class View:
    """A part of an image, resized to size × size, and perhaps flipped left to right.

    Attributes:
        size: Side of the result.
        box: Left, top, right and bottom, in pixels of the image.
        flip: Whether to flip.
        cut: Whether the box is cut out before it is resized, as torchvision does it, by torch's vectorised kernel:
            in a quarter of Pillow's time, to Pillow's values but for rounding: a level in some pixels. It must be
            a box of whole pixels of a colour image then. Otherwise Pillow itself resizes, and pixels beside the
            box that its filter reaches count too.

    Example:
        >>> View(2, (0, 0, 4, 4)).of(np.full((9, 9, 1), 7, np.uint8)).tolist()
        [[[7], [7]], [[7], [7]]]
    """

    size: int
    box: tuple[float, float, float, float]
    flip: bool = False
    cut: bool = False

    @property
    def rows(self) -> int | None:
        """Number of rows of the image, from its first, that are enough; None is all.

        What Pillow's filter reaches is little more than the box, but which direction it resizes first, and so how
        it rounds, depends on the size of the image.
        """
        return int(self.box[3]) if self.cut else None

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Take the view of an image, of which the first ``rows`` are enough.

        Args:
            image: uint8, (H, W, C), C 1 or 3.

        Returns:
            uint8, (size, size, C).
        """
        result = self._cut(image) if self.cut else self._resized(image)
        return result[:, ::-1] if self.flip else result

    def _cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        left, top, right, bottom = map(int, self.box)
        batch = torch.from_numpy(np.array(image[top:bottom, left:right]))[None].permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True)
        pixels: NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
        return pixels

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grey = image.shape[2] == 1
        picture = Image.fromarray(image[:, :, 0] if grey else image)
        result = np.array(picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self.box))
        return result[:, :, None] if grey else result


class Transform(Protocol):
    """What a dataset applies to an image."""

    @property
    def min_size(self) -> int:
        """Shorter side that an image must keep when its JPEG is decoded at a reduced size."""

    def view(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> View:
        """Say which part to take of an image of a shape: H, W and C."""

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Turn an image, (H, W, C), into one of (size, size, C)."""


@dataclass(frozen=True)
class TrainTransform:
    """A random crop, resized to size × size, and flipped left to right half of the time.

    The crop has a share of the image's area that is uniform in [min_area, max_area], an aspect (width / height)
    whose logarithm is uniform in that of ``aspect``, and lies anywhere in the image. If it does not fit in ten
    tries, it is the largest crop from the centre whose aspect is in the range.

    Attributes:
        size: Side of the result.
        min_area: Smallest share of the area.
        max_area: Largest share.
        flip: Whether to flip.
        aspect: Narrowest and widest aspect.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> transform = TrainTransform(8)
        >>> transform(np.zeros((20, 30, 3), np.uint8), np.random.default_rng(0)).shape
        (8, 8, 3)
    """

    size: int
    min_area: float = 0.16
    max_area: float = 1.0
    flip: bool = True
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected 1 or more, got {self.size}")
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(f"area: expected 0 < min <= max <= 1, got {self.min_area} and {self.max_area}")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect: expected 0 < narrowest <= widest, got {self.aspect}")

    @property
    def min_size(self) -> int:
        """Shorter side at which even the smallest crop still has ``size`` pixels along either side."""
        elongation = max(1.0, self.aspect[1], 1 / self.aspect[0])
        return math.ceil(self.size * math.sqrt(elongation / self.min_area))

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Crop at random.

        Args:
            image: uint8, (H, W, C), C 1 or 3.
            rng: Source of all randomness.

        Returns:
            uint8, (size, size, C).

        Raises:
            ValueError: If there is no ``rng``.
        """
        return self.view(image.shape, rng).of(image)

    def view(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> View:
        """Choose a crop, and whether it is flipped; of a colour image it is cut out before it is resized.

        Args:
            shape: H, W and C of the image.
            rng: Source of all randomness.

        Raises:
            ValueError: If there is no ``rng``.
        """
        if rng is None:
            raise ValueError("rng: a random crop needs a generator")
        height, width, channels = shape
        left, top, w, h = self.crop(width, height, rng)
        flip = self.flip and rng.random() < 0.5
        return View(self.size, (left, top, left + w, top + h), flip, cut=channels == 3)

    def crop(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Choose a crop of an image of width × height: left, top, width and height in pixels."""
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        for _ in range(_TRIES):
            area = width * height * rng.uniform(self.min_area, self.max_area)
            aspect = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        w = min(width, max(1, round(height * self.aspect[1])))
        h = min(height, max(1, round(width / self.aspect[0])))
        return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class EvalTransform:
    """The shorter side resized to ``resize``, then a size × size crop from the centre.

    Attributes:
        size: Side of the result.
        resize: Length of the shorter side before the crop; by default round(size · 256 / 227), the paper's
            proportion.

    Raises:
        ValueError: If ``size`` is less than 1 or ``resize`` less than ``size``.

    Example:
        >>> EvalTransform(227).side, EvalTransform(64)(np.zeros((1, 50, 1), np.uint8)).shape
        (256, (64, 64, 1))
    """

    size: int
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected 1 or more, got {self.size}")
        if self.side < self.size:
            raise ValueError(f"resize: expected {self.size} (the size of the crop) or more, got {self.resize}")

    @property
    def side(self) -> int:
        """Length to which the shorter side is resized."""
        return round(self.size * 256 / 227) if self.resize is None else self.resize

    @property
    def min_size(self) -> int:
        """Twice the length of the shorter side, so that the last halving at least is this transform's own."""
        return 2 * self.side

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Resize and crop from the centre.

        Args:
            image: uint8, (H, W, C), C 1 or 3.
            rng: Not used.

        Returns:
            uint8, (size, size, C).
        """
        return self.view(image.shape).of(image)

    def view(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> View:
        """Give the central crop of an image of a shape, H, W and C; ``rng`` is not used."""
        height, width, _ = shape
        crop = self.size * min(width, height) / self.side  # the crop's side in pixels of the image
        left, top = (width - crop) / 2, (height - crop) / 2
        box = (left, top, min(width, left + crop), min(height, top + crop))
        return View(self.size, box)
