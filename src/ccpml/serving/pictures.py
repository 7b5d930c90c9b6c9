"""What an index stores of an image file beside its embedding: size, hashes and a thumbnail."""

import hashlib
import io
import zlib
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.artifacts import read_file
from ccpml.data.images.archived import ArchivedImage, read_archived
from ccpml.data.images.read import BadImageError, read_header, read_image
from ccpml.serving.items import Metadata, Picture
from ccpml.system_errors import raise_shortage

__all__ = ["Content", "Digest", "NewItem", "content_hash", "digest", "perceptual_hash", "read_picture", "state_of"]

THUMBNAIL_SIDE: Final = 256
"""Longer side of a thumbnail in pixels."""


class Digest(NamedTuple):
    """What is stored of an image file; see `Item`. The thumbnail is a JPEG."""

    content_hash: str
    perceptual_hash: str
    width: int
    height: int
    thumbnail: bytes


class Content(NamedTuple):
    """Contents of a picture's file, with the path or name under which an index knows it, and the state of the file."""

    path: str
    size: int
    mtime_ns: int
    content: bytes


class NewItem(NamedTuple):
    """An item to insert: its file, size and time of change, label, metadata, digest and embedding, float32 (d,)."""

    path: str
    size: int
    mtime_ns: int
    label: str
    metadata: Metadata
    digest: Digest
    vector: NDArray[np.float32]


def state_of(picture: Picture) -> tuple[str, int, int]:
    """Return the path or name under which an index knows a picture, the size of its file and when that was changed.

    What is not in a file of its own has a checksum in place of the time.

    Raises:
        BadImageError: If the file cannot be opened.
    """
    image = picture.image
    if image is None:
        try:
            stat = picture.file.stat()
        except OSError as error:
            raise_shortage(error)
            raise BadImageError(f"cannot be opened ({error.strerror or error})", picture.name) from error
        return str(picture.file), stat.st_size, stat.st_mtime_ns
    if isinstance(image, ArchivedImage):
        return str(picture.path), image.size, image.crc32
    data = image.tobytes() if isinstance(image, np.ndarray) else image
    return str(picture.path), len(data), zlib.crc32(data)


def read_picture(picture: Picture) -> Content:
    """Read the file of a picture; pixels become a PNG.

    Raises:
        BadImageError: If it cannot be read.
    """
    state = state_of(picture)  # before the contents: a file that changes in between is noticed the next time
    image = picture.image
    try:
        if image is None:
            content = read_file(picture.file)
        elif isinstance(image, ArchivedImage):
            content = read_archived(image)
        else:
            content = _png(image) if isinstance(image, np.ndarray) else image
    except OSError as error:
        raise_shortage(error)
        raise BadImageError(f"cannot be opened ({error.strerror or error})", picture.name) from error
    except ValueError as error:
        raise BadImageError(str(error), picture.name) from error
    if not content:
        raise BadImageError("the file is empty", picture.name)
    return Content(*state, content)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    gray = pixels.ndim == 3 and pixels.shape[2] == 1
    Image.fromarray(pixels[:, :, 0] if gray else pixels).save(encoded, "PNG")
    return encoded.getvalue()


def content_hash(content: bytes) -> str:
    """Return the SHA-256 of the contents of a file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest(content: bytes) -> Digest:
    """Return size, hashes and thumbnail of an image, upright.

    Args:
        content: Content of the image file.

    Raises:
        BadImageError: If it cannot be read.
    """
    size = read_header(content)
    pixels = read_image(content, channels=3, min_size=2 * THUMBNAIL_SIDE)  # (H, W, 3), perhaps reduced
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return Digest(content_hash(content), perceptual_hash(pixels), size.width, size.height, encoded.getvalue())


def perceptual_hash(pixels: NDArray[np.uint8]) -> str:
    """Return the difference hash of an image: 64 bits, whether each of 8 × 8 cells is brighter than its right neighbor.

    Args:
        pixels: uint8, (H, W, 3).

    Source:
        N. Krawetz, "Kind of like that", 2013 (dHash).

    Example:
        >>> perceptual_hash(np.zeros((9, 9, 3), np.uint8))
        '0000000000000000'
    """
    gray = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.asarray(gray, dtype=np.int16)  # (8, 9)
    return np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes().hex()
