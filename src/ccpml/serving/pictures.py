"""What an index stores of an image file beside its embedding: size, hashes and a thumbnail."""

import hashlib
import io
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.data.images.read import read_image

__all__ = ["Digest", "digest", "perceptual_hash"]

THUMBNAIL_SIDE: Final = 256
"""Longer side of a thumbnail in pixels."""


class Digest(NamedTuple):
    """What is stored of an image file; see `Item`. The thumbnail is a JPEG."""

    content_hash: str
    perceptual_hash: str
    width: int
    height: int
    thumbnail: bytes


def digest(content: bytes) -> Digest:
    """Return size, hashes and thumbnail of an image, upright.

    Args:
        content: Content of the image file.

    Raises:
        BadImageError: If it cannot be read.
    """
    pixels = read_image(content, channels=3)  # (H, W, 3)
    height, width, _ = pixels.shape
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return Digest(hashlib.sha256(content).hexdigest(), perceptual_hash(pixels), width, height, encoded.getvalue())


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
