"""Opening of image files by Pillow, with a limit of pixels of our own.

Pillow's limit guards against files that unpack to far more memory than their size suggests. Photographs of phones and
cameras exceed it, so a larger one takes its place, and large images are reduced while they are decoded.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from ccpml.artifacts import open_file, pointer
from ccpml.data.images.formats import READ_HEIF, is_unread_heif, pillow_formats

__all__ = ["MAX_PIXELS", "is_here", "is_large", "open_image"]

_UNREAD_HEIF: Final = f"HEIC, which is read after {READ_HEIF}"

MAX_PIXELS: Final = 250_000_000
"""Pixels of the largest image that is read. Phones take photographs of 200 million."""

_LARGE: Final = 89_478_485  # Pillow's limit


def is_here(reason: str) -> bool:
    """Whether the reason why an image cannot be read says something against it, and not that it is elsewhere."""
    return not reason.startswith(("a pointer of ", _UNREAD_HEIF))


def is_large(height: int, width: int) -> bool:
    """Whether an image is so large that it is read at half its size or less."""
    return height * width > _LARGE


@contextmanager
def open_image(file: Path | io.BytesIO, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """Open an image of a known format, of any size: the caller compares it with `MAX_PIXELS` before it is decoded.

    Raises:
        UnidentifiedImageError: If it is none.
        OSError: If the file cannot be opened.
        Exception: Almost anything, if the file is damaged.
    """
    if isinstance(file, Path):
        with open_file(file) as opened, _identified(opened, formats) as image:
            yield image
    else:
        with _identified(file, formats) as image:
            yield image


def _identified(file: BinaryIO, formats: tuple[str, ...] | None) -> Image.Image:
    """Return the image in a file, as ``Image.open`` does without looking at its size."""
    start = file.read(32)
    for name in formats or pillow_formats():
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is None or accept(start)
            if accepted and not isinstance(accepted, str):  # a text says that Pillow was built without the format
                file.seek(0)
                image: Image.Image = factory(file, "")
                return image
        except (SyntaxError, IndexError, TypeError, struct.error):  # so plugins say that it is of another format
            continue
    if found := pointer(start, "image"):
        raise UnidentifiedImageError(found)
    if is_unread_heif(start):
        raise UnidentifiedImageError(_UNREAD_HEIF)
    raise UnidentifiedImageError("not an image of a known format, or damaged header")
