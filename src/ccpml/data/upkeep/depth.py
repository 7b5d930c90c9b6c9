"""Images of 16 bits that hold fewer, as of cameras of 10 or 12 bits, and are read as dark or black."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.data.images.archived import ArchivedImage
from ccpml.data.images.packed import PackedImage
from ccpml.data.images.read import BadImageError, ImageLike, read_header, read_image
from ccpml.numbers import counted

__all__ = ["depth_note"]

_LOOKED_AT: Final = 500  # images whose headers are read
_DECODED: Final = 20  # images of 16 bits
_DARK: Final = 64  # of 255: the white of 14 bits


def depth_note(images: Sequence[ImageLike] | NDArray[np.uint8]) -> str:
    """Return a note if no image of 16 bits, of some that are looked at, is brighter than a quarter of white.

    Images that cannot be read are passed over.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> files = [io.BytesIO() for _ in range(2)]
        >>> for file in files:
        ...     Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(file, "PNG")
        >>> depth_note([file.getvalue() for file in files])[:71]
        'images of 16 bits: 2 of 2 images looked at, whose brightest pixel is 16'
    """
    if isinstance(images, np.ndarray):
        return ""
    looked_at = [images[row] for row in _spread(len(images), _LOOKED_AT)]
    stored = [image.path if isinstance(image, PackedImage) else image for image in looked_at]
    files = [Path(image) if isinstance(image, str) else image for image in stored if not isinstance(image, np.ndarray)]
    deep = [file for file in files if _is_deep(file)]
    brightest = -1
    for row in _spread(len(deep), _DECODED):
        with suppress(BadImageError):
            brightest = max(brightest, int(read_image(deep[row], 1).max()))
            if brightest > _DARK:
                return ""
    if brightest < 0:
        return ""
    return (
        f"images of 16 bits: {len(deep):,} of {counted(len(files), 'image')} looked at, whose brightest pixel is "
        f"{brightest} of 255 when their 65,536 values are scaled; if they hold fewer bits, scale their values up, or "
        "they look dark or black"
    )


def _is_deep(image: Path | bytes | ArchivedImage) -> bool:
    with suppress(BadImageError):
        return read_header(image).deep
    return False


def _spread(count: int, most: int) -> list[int]:
    """Return rows spread evenly over a table, at most as many as given."""
    rows: list[int] = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist() if count else []
    return rows
