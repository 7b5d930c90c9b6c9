"""Images for the tests of this folder."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def smooth(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """Return waves that JPEG leaves nearly unchanged: (H, W) for one channel, else (H, W, C)."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [127.5 + 100 * np.sin(5 * x + 3 * y * (c + 1) + c) for c in range(channels)]
    pixels = np.stack(waves, axis=-1).astype(np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def encoded(image: Image.Image | NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def touch(root: Path, *names: str) -> None:
    """Create empty files and their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def png_16_bit_rgb(value: int) -> bytes:
    """Return a PNG of 2 × 2 pixels in color with 16 bits, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">3H", value, value, value) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
