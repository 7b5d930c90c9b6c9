"""Images in a packed file: raw pixels, mapped into memory, so that nothing is decoded."""

import mmap
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedImage", "read_packed"]


class PackedImage(NamedTuple):
    """Where the pixels of an image lie in a packed file. It is small, and pickles without them.

    Attributes:
        path: The file that the image was made from; it names the image.
        pack: The packed file.
        offset: Its first byte there.
        height: H.
        width: W.
        channels: C: 1 for grey, 3 for RGB.

    Example:
        >>> PackedImage(Path("a.jpg"), Path("pixels.bin"), 0, 256, 341, 3).size
        261888
    """

    path: Path
    pack: Path
    offset: int
    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Number of its bytes."""
        return self.height * self.width * self.channels


def read_packed(image: PackedImage) -> NDArray[np.uint8]:
    """Give the pixels of an image where they lie in its pack: uint8, (H, W, C), read-only.

    Raises:
        ValueError: If the packed file ends before the image does.
        OSError: If it cannot be opened.
    """
    pack = _mapped(image.pack)
    if pack.size() < image.offset + image.size:  # asked of the file: what it has lost must not be touched
        raise ValueError(f"the packed file {image.pack} is cut off")
    pixels = np.frombuffer(pack, np.uint8, image.size, image.offset)
    return pixels.reshape(image.height, image.width, image.channels)


@lru_cache(maxsize=8)
def _mapped(pack: Path) -> mmap.mmap:
    """Map a packed file, once in each process."""
    with pack.open("rb") as file:
        if not pack.stat().st_size:
            raise ValueError(f"the packed file {pack} is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
