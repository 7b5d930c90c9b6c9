"""The crops of the paper. A transform turns an image of any size into a square one; both are uint8, (H, W, C).

The part that it takes, its *view*, depends only on the size of the image, so that nothing else has to be read. Images
are resized in one pass, bilinear and antialiased as in Pillow.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.numbers import as_int, check_flags, is_finite

__all__ = ["EvalTransform", "TrainTransform", "Transform", "View"]

_TRIES = 10


@dataclass(frozen=True)
class View:
    """A part of an image, resized to size × size and optionally flipped left to right.

    Attributes:
        size: Side of the result.
        box: Left, top, right and bottom, in pixels of the image.
        flip: Whether to flip.
        cut: Whether to cut out the box before resizing, as torchvision does. This requires whole pixels and a color
            image, and uses torch's vectorized kernel: four times as fast as Pillow, and equal up to rounding.
            Otherwise Pillow resizes, and its filter also reaches pixels around the box.

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
        """Number of rows needed, from the first; None for all.

        Pillow's filter reaches little beyond the box, but the size of the image determines which direction it resizes
        first, and so how it rounds.
        """
        return int(self.box[3]) if self.cut else None

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the view of an image, of which the first ``rows`` suffice.

        Args:
            image: uint8, (H, W, C), C 1 or 3.

        Returns:
            uint8, (size, size, C).
        """
        result = self._cut(image) if self.cut else self._resized(image)
        return result[:, ::-1] if self.flip and self.size > 1 else result  # a single pixel would keep its stride

    def _cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import torch  # only for crops of training: serving needs none

        left, top, right, bottom = map(int, self.box)
        batch = torch.from_numpy(np.array(image[top:bottom, left:right]))[None].permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True)
        pixels: NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
        return pixels

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        gray = image.shape[2] == 1
        picture = Image.fromarray(image[:, :, 0] if gray else image)
        result = np.array(picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self.box))
        return result[:, :, None] if gray else result


class Transform(ABC):
    """Crop and resize applied by a dataset."""

    is_random: ClassVar[bool] = False
    """Whether the view is chosen at random."""

    @property
    @abstractmethod
    def min_size(self) -> int:
        """Minimum shorter side of an image when its JPEG is decoded at a reduced size."""

    @abstractmethod
    def view(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> View:
        """Return the part to take of an image of shape (H, W, C)."""

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Return the transformed image.

        Args:
            image: uint8, (H, W, C), C 1 or 3.
            rng: Random generator, required by random transforms.

        Returns:
            uint8, (size, size, C).

        Raises:
            ValueError: If the image or the generator is another one.
        """
        if not isinstance(image, np.ndarray):
            raise ValueError(f"image: expected a NumPy array, uint8 (H, W, C), got {type(image).__name__}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in {1, 3} or image.size == 0:
            expected = "uint8 of shape (H, W, C), C 1 or 3"
            raise ValueError(f"image: expected {expected}, got {image.dtype} of {image.shape}")
        return self.view(image.shape, rng).of(image)


@dataclass(frozen=True)
class TrainTransform(Transform):
    """A random crop, resized to size × size and flipped left to right with probability 1/2.

    The area of the crop is a uniform fraction in [min_area, max_area] of the image, the logarithm of its aspect ratio
    (width / height) is uniform in the range ``aspect``, and its position is uniform. If no crop fits in ten tries, it
    is the largest center crop with an aspect ratio in the range.

    Attributes:
        size: Side of the result.
        min_area: Smallest fraction of the area.
        max_area: Largest fraction of the area.
        flip: Whether to flip at random.
        aspect: Smallest and largest aspect ratio.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> transform = TrainTransform(8)
        >>> transform(np.zeros((20, 30, 3), np.uint8), np.random.default_rng(0)).shape
        (8, 8, 3)
    """

    is_random: ClassVar[bool] = True

    size: int
    min_area: float = 0.16
    max_area: float = 1.0
    flip: bool = True
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_flags(flip=self.flip)
        object.__setattr__(self, "size", as_int("size", self.size, 1))
        if not _are_ordered(self.min_area, self.max_area) or self.max_area > 1:
            got = f"{self.min_area!r} and {self.max_area!r}"
            raise ValueError(f"area: expected 0 < min_area <= max_area <= 1, got {got}")
        if not (
            isinstance(self.aspect, Sequence | np.ndarray) and len(self.aspect) == 2 and _are_ordered(*self.aspect)
        ):
            raise ValueError(f"aspect: expected two numbers, 0 < smallest <= largest, got {self.aspect!r}")

    @property
    def min_size(self) -> int:
        """Shorter side at which the smallest crop has at least ``size`` pixels along each side."""
        elongation = max(1.0, self.aspect[1], 1 / self.aspect[0])
        return math.ceil(self.size * math.sqrt(elongation / self.min_area))

    def view(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> View:
        """Choose a crop and whether to flip it; color images are cut before they are resized.

        Args:
            shape: H, W and C of the image.
            rng: Random generator; required.

        Raises:
            ValueError: If ``rng`` is none.
        """
        if not isinstance(rng, np.random.Generator):
            raise ValueError(f"rng: expected one of numpy.random.default_rng for the random crop, got {rng!r}")
        height, width, channels = shape
        left, top, w, h = self.crop(width, height, rng)
        flip = self.flip and rng.random() < 0.5
        return View(self.size, (left, top, left + w, top + h), flip, cut=channels == 3)

    def crop(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Choose a crop of an image: return left, top, width and height in pixels."""
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


def _are_ordered(smallest: float, largest: float) -> bool:
    """Whether two values are finite numbers above 0, in this order."""
    return is_finite(smallest) and is_finite(largest) and 0 < smallest <= largest


@dataclass(frozen=True)
class EvalTransform(Transform):
    """The shorter side resized to ``resize``, then a size × size center crop.

    Attributes:
        size: Side of the result.
        resize: Shorter side before the crop; by default round(size · 256 / 227), the proportion of the paper.

    Raises:
        ValueError: If ``size`` is less than 1 or ``resize`` less than ``size``.

    Example:
        >>> EvalTransform(227).side, EvalTransform(64)(np.zeros((1, 50, 1), np.uint8)).shape
        (256, (64, 64, 1))
    """

    size: int
    resize: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_int("size", self.size, 1))
        if self.resize is not None:
            object.__setattr__(self, "resize", as_int("resize", self.resize))
        if self.side < self.size:
            raise ValueError(f"resize: expected {self.size} (the size of the crop) or more, got {self.resize}")

    @property
    def side(self) -> int:
        """Shorter side after resizing."""
        return round(self.size * 256 / 227) if self.resize is None else self.resize

    @property
    def min_size(self) -> int:
        """Twice the resized shorter side, so that this transform does at least the last halving itself."""
        return 2 * self.side

    def view(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> View:
        """Return the center crop of an image of shape (H, W, C); ``rng`` is unused."""
        height, width, _ = shape
        crop = self.size * min(width, height) / self.side  # the crop's side in pixels of the image
        left, top = (width - crop) / 2, (height - crop) / 2
        box = (left, top, min(width, left + crop), min(height, top + crop))
        return View(self.size, box)
