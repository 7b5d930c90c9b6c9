"""The images behind embeddings, small: from files, or from the set that comes with the package."""

import re
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.data import read_image

__all__ = ["Images", "Pixels"]

Pixels = NDArray[np.uint8]
_SIDE: Final = 160


class Images:
    """Find an image by the name that a run's embeddings give it.

    Args:
        data: The run's data, as its experiment names them.

    Attributes:
        missing: Names of those that were asked for and could not be read.
    """

    def __init__(self, data: str) -> None:
        self.data = data
        self.missing = set[str]()

    def small(self, name: str) -> Pixels | None:
        """Read an image and make it small, (h, w, 3); None, and counted as missing, if it is gone or unreadable."""
        try:
            pixels = read_image(self._find(name), 3, min_size=_SIDE)
        except (ValueError, IndexError, OSError):
            self.missing.add(name)
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        return np.array(image)

    def _find(self, name: str) -> Path | Pixels:
        in_memory = re.fullmatch(r"glyphs\[(\d+)\]", name) if self.data == "glyphs" else None
        return self._glyphs[int(in_memory[1])] if in_memory else Path(name)

    @cached_property
    def _glyphs(self) -> Pixels:
        from ccpml.data import load_source

        images = load_source("glyphs").table.images
        assert isinstance(images, np.ndarray)
        return images
