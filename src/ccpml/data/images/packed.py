"""Images in a packed file: raw pixels, mapped into memory and not decoded.

The pixels of an image are compared with their checksum when a process first reads them, and again if the packed file
has changed since: one pass over memory, which is small beside what training does with an image each time.
"""

import mmap
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedImage", "read_packed", "sum64"]


class PackedImage(NamedTuple):
    """Position of the pixels of an image in a packed file. Pickles without the pixels.

    ``path`` is the file from which the image was made; it names the image. ``checksum`` is the `sum64` of its pixels,
    -1 if none is known.
    """

    path: Path
    pack: Path
    offset: int
    height: int
    width: int
    channels: int
    checksum: int = -1

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.height * self.width * self.channels


def sum64(pixels: bytes) -> int:
    """Return the sum of bytes as 64-bit words, modulo 2⁶⁴, which changes with any single byte.

    Example:
        >>> sum64(bytes(9)), sum64(bytes([1] * 9))
        (0, 72340172838076674)
    """
    padded = pixels + bytes(-len(pixels) % 8)
    return int(np.frombuffer(padded, "<u8").sum())


def read_packed(image: PackedImage) -> NDArray[np.uint8]:
    """Return a read-only view of the pixels of an image in its pack: uint8, (H, W, C).

    Raises:
        ValueError: If the pack is truncated, or the pixels are not those that were packed.
    """
    pack = _mapped(image.pack)
    if pack.size() < image.offset + image.size:  # current size of the file: reading beyond it would kill the process
        _mapped.cache_clear()  # so that a pack that is built again in its place is read; likewise below
        raise ValueError(f"packed file {image.pack} is truncated")
    if image.checksum >= 0 and not pack.is_verified(image.offset):
        words, rest = divmod(image.size, 8)
        total = int(np.frombuffer(pack.memory, "<u8", words, image.offset).sum())
        end = image.offset + 8 * words
        if (total + sum64(pack.memory[end : end + rest])) % 2**64 != image.checksum:
            _mapped.cache_clear()
            raise ValueError(f"packed file {image.pack} is damaged (wrong checksum of this image)")
        pack.verified.add(image.offset)
    pixels = np.frombuffer(pack.memory, np.uint8, image.size, image.offset)
    return pixels.reshape(image.height, image.width, image.channels)


class _Pack:
    """A packed file mapped into memory, and the offsets of the images that were verified since it changed last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = os.stat(path).st_mtime_ns  # noqa: PTH116 -- a third faster, for each image
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ValueError(f"packed file {path} is empty")
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.verified = set[int]()

    def size(self) -> int:
        """Return the current size of the file."""
        return self.memory.size()

    def is_verified(self, offset: int) -> bool:
        """Whether the image at an offset was verified in the present state of the file."""
        try:
            state = os.stat(self.path).st_mtime_ns  # noqa: PTH116 -- as above
        except OSError:
            state = self.state  # removed; what is mapped remains
        if state != self.state:
            self.state = state
            self.verified.clear()
        return offset in self.verified


@lru_cache(maxsize=8)
def _mapped(path: Path) -> _Pack:
    """Map a packed file into memory, once per process."""
    return _Pack(path)
