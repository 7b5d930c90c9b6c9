"""Images as a network in evaluation sees them: read and cropped in threads, in batches. Imports no torch."""

from collections.abc import Generator, Mapping, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from ccpml.data.images.archived import ArchivedImage
from ccpml.data.images.orientation import orientation_of
from ccpml.data.images.packed import PackedImage
from ccpml.data.images.read import BadImageError, ImageLike, read_part
from ccpml.data.threads import in_threads
from ccpml.data.transforms import EvalTransform
from ccpml.numbers import as_int

__all__ = ["cropped_batches", "name_of_image"]


def cropped_batches(
    images: Sequence[Any], transform: EvalTransform, channels: int, batch_size: int, rotate: bool = True
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield images in order, in batches of uint8, (B, C, size, size); only about two batches are in memory.

    Args:
        images: Paths of image files, contents of files, images of a table, or arrays: uint8, (H, W), (H, W, 1) or
            (H, W, 3) in RGB, such as images of Pillow in mode L or RGB that are upright.
        transform: Crop and resize.
        channels: C, 1 for gray or 3 for RGB.
        batch_size: B; the last batch may be smaller.
        rotate: Whether files are rotated as their EXIF data say.

    Raises:
        BadImageError: If an image cannot be read, is none of these, or is an array of another shape or type; it is
            named by its path, or as "image 3".
        ValueError: If ``batch_size`` is not a positive integer, or ``images`` are not several.

    Example:
        >>> images = [np.zeros((20, 30), np.uint8)] * 3
        >>> [batch.shape for batch in cropped_batches(images, EvalTransform(8), channels=1, batch_size=2)]
        [(2, 1, 8, 8), (1, 1, 8, 8)]
    """
    batch_size = as_int("batch_size", batch_size, 1)
    if (alone := _in_words(images)) is not None:
        raise ValueError(f"images: expected a sequence of images, got {alone}; pass a list")

    def read(numbered: tuple[int, Any]) -> NDArray[np.uint8]:
        row, image = numbered
        try:
            part, view = read_part(_readable(image, rotate), channels, transform.view, transform.min_size, rotate)
        except BadImageError as error:
            if error.name not in {"", "image"}:  # that of a file
                raise
            raise BadImageError(error.reason, name_of_image(image, row)) from error
        return view.of(part).transpose(2, 0, 1)

    batch = list[NDArray[np.uint8]]()
    with closing(in_threads(read, enumerate(images))) as results:
        for _, pixels in results:
            batch.append(pixels)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch = []
    if batch:
        yield np.stack(batch)


def name_of_image(image: Any, row: int) -> str:
    """Return how errors name an image of several: by its path, or by its row.

    Example:
        >>> name_of_image(Path("cup.jpg"), 3), name_of_image(b"...", 3)
        ('cup.jpg', 'image 3')
    """
    return str(image) if isinstance(image, str | Path) else f"image {row}"


def _readable(image: Any, rotate: bool) -> ImageLike:
    if isinstance(image, str | Path | bytes | np.ndarray | PackedImage | ArchivedImage):
        return image
    if not hasattr(image, "__array_interface__"):
        raise BadImageError(f"expected a path, contents or an array, got {type(image).__name__}")
    # Pixels of other modes are numbers of colors, or inverse.
    if isinstance(image, Image) and image.mode not in {"L", "RGB"}:
        raise BadImageError(f"expected one of Pillow in mode L or RGB, got {image.mode}; convert it")
    # Its pixels may have been turned already; only Pillow's own function forgets the rotation then.
    if isinstance(image, Image) and rotate and orientation_of(image) != 1:
        raise BadImageError("an image of Pillow with an EXIF rotation; pass PIL.ImageOps.exif_transpose(image)")
    array: NDArray[np.uint8] = np.asarray(image)
    return array


def _in_words(images: Any) -> str | None:
    """Return what stands in place of several images in order; None for these."""
    if isinstance(images, str | Path):
        return f"the path {images}"
    if isinstance(images, bytes):
        return "the contents of a file"
    if isinstance(images, Image):
        return f"one of Pillow, {images.width} × {images.height}"
    if (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and (images.ndim == 2 or images.shape[2:] in {(1,), (3,)})
    ):
        return f"an array of shape {images.shape}"
    if isinstance(images, Set | Mapping) or not _is_iterable(images):
        return type(images).__name__
    return None


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:
        return False
    return True
