"""EXIF orientation: how stored pixels are rotated and mirrored to stand upright."""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ccpml.data.images.opening import open_image
from ccpml.system_errors import raise_shortage

__all__ = ["jpeg_orientation", "orientation_of", "upright", "upright_shape"]

_SWAPPED: Final = 5  # from here on, height and width are swapped


def jpeg_orientation(data: bytes) -> int:
    """Return the orientation of a JPEG, 1..8; 1 if it has none or its EXIF data are damaged."""
    if not _may_have_exif(data):
        return 1
    try:
        with open_image(io.BytesIO(data), ("JPEG",)) as image:
            return orientation_of(image)
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise_shortage(error)
        return 1


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of an image, as for `jpeg_orientation`."""
    try:
        value: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # so do damaged EXIF data
        raise_shortage(error)
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return pixels (H, W, C) rotated and mirrored, contiguous: (W, H, C) for the orientations 5..8."""
    if orientation >= _SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def upright_shape(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Return height and width of upright pixels."""
    return (width, height) if orientation >= _SWAPPED else (height, width)


def _may_have_exif(data: bytes) -> bool:
    """Whether the header of a JPEG has a segment of EXIF or XMP, or is unusual."""
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker in {b"\xda", b"\xe1"}:
            return marker == b"\xe1"
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
