"""Pictures from clients: what their headers say, before anything is decoded."""

import hashlib
import io
from typing import Final, NamedTuple

from PIL import Image, UnidentifiedImageError

from ccpml.data.images.opening import open_image
from ccpml.data.images.orientation import jpeg_orientation, upright_shape
from ccpml.serving.service.refused import RefusedError
from ccpml.system_errors import raise_shortage

__all__ = ["Upload", "check_upload"]

_SUFFIXES: Final = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
_START_OF_SCAN: Final = b"\xff\xda"
_MAX_SCANS: Final = 100
"""A progressive JPEG has about ten. Each costs time in proportion to the pixels, but needs only a few bytes."""


class Upload(NamedTuple):
    """A picture: content, its SHA-256, suffix for a file, and size in pixels, upright."""

    content: bytes
    digest: str
    suffix: str
    width: int
    height: int


def check_upload(content: bytes, max_pixels: int, name: str = "picture") -> Upload:
    """Return what the header of a picture says.

    Args:
        content: Content of a file.
        max_pixels: Pixels that it may have.
        name: What messages call it.

    Raises:
        RefusedError: If it is no picture, or has too many pixels.
    """
    if not content:
        raise RefusedError(422, f"{name}: the file is empty")
    limit = f"expected at most {max_pixels / 1e6:g} million pixels"
    try:
        with open_image(io.BytesIO(content)) as image:
            width, height, kind = image.width, image.height, image.format or ""
    except Image.DecompressionBombError as error:
        raise RefusedError(413, f"{name}: {limit}, got far more") from error
    except UnidentifiedImageError as error:
        raise RefusedError(422, f"{name}: {error}") from error
    except Exception as error:  # damaged headers make Pillow raise almost anything
        raise_shortage(error)
        raise RefusedError(422, f"{name}: not an image of a known format, or damaged header") from error
    if width * height > max_pixels:
        raise RefusedError(413, f"{name}: {limit}, got {width} × {height}")
    if kind in {"JPEG", "MPO"}:
        if content.count(_START_OF_SCAN) > _MAX_SCANS:
            raise RefusedError(422, f"{name}: expected a JPEG of at most {_MAX_SCANS} scans, got more")
        height, width = upright_shape(height, width, jpeg_orientation(content))
    suffix = _SUFFIXES.get(kind, f".{kind.lower()}")
    return Upload(content, hashlib.sha256(content).hexdigest(), suffix, width, height)
