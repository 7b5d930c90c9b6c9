"""Images in a packed file: raw pixels, mapped into memory and not decoded."""

import mmap
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedImage", "read_packed"]


class PackedImage(NamedTuple):
    """Position of the pixels of an image in a packed file. Pickles without the pixels.

    ``path`` is the file from which the image was made; it names the image.
    """

    path: Path
    pack: Path
    offset: int
    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.height * self.width * self.channels


def read_packed(image: PackedImage) -> NDArray[np.uint8]:
    """Return a read-only view of the pixels of an image in its pack: uint8, (H, W, C)."""
    pack = _mapped(image.pack)
    if pack.size() < image.offset + image.size:  # current size of the file: reading beyond it would kill the process
        raise ValueError(f"packed file {image.pack} is truncated")
    pixels = np.frombuffer(pack, np.uint8, image.size, image.offset)
    return pixels.reshape(image.height, image.width, image.channels)


@lru_cache(maxsize=8)
def _mapped(pack: Path) -> mmap.mmap:
    """Map a packed file into memory, once per process."""
    with pack.open("rb") as file:
        if not pack.stat().st_size:
            raise ValueError(f"packed file {pack} is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
