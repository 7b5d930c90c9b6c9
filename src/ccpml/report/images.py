"""Thumbnails of the images behind embeddings: from files, or from the sets that come with the package."""

from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccpml.data import load_source, read_image
from ccpml.data.images.formats import READ_HEIF
from ccpml.data.images.read import ImageLike
from ccpml.data_name import DataName

__all__ = ["Images", "Pixels"]

Pixels = NDArray[np.uint8]
_SIDE: Final = 160


class Images:
    """Thumbnails by the names of the images, as the files of embeddings have them.

    Args:
        data: Data of the run, as in its settings.

    Attributes:
        missing: Names of images that could not be read, and why.
    """

    def __init__(self, data: str) -> None:
        self.data = data
        self.missing = dict[str, str]()

    def small(self, name: str) -> Pixels | None:
        """Return the thumbnail of an image, (h, w, 3); None, noted in ``missing``, if it cannot be read."""
        try:
            pixels = read_image(self._find(name), 3, min_size=_SIDE, rotate=not DataName.parse(self.data).is_benchmark)
        except (ValueError, IndexError, OSError) as error:
            self.missing[name] = getattr(error, "reason", "") or getattr(error, "strerror", "") or "not found"
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        return np.array(image)

    def problem(self) -> str:
        """Return a sentence about the images that could not be read; empty if there is none."""
        if not self.missing:
            return ""
        count, (name, reason) = len(self.missing), next(iter(self.missing.items()))
        what = "an image is missing here:" if count == 1 else f"{count:,} images are missing here, such as"
        way_out = "" if READ_HEIF in reason else f"; restore {'it' if count == 1 else 'them'}"
        return f"{what} {name}: {reason}{way_out}"

    def _find(self, name: str) -> ImageLike:
        return self._built_in.get(name, Path(name))

    @cached_property
    def _built_in(self) -> dict[str, ImageLike]:
        """All images by name, if the data come with the package."""
        if not DataName.parse(self.data).is_built_in:
            return {}
        table = load_source(self.data).table
        return {table.name_of(row): image for row, image in enumerate(table.images)}
