"""JPEG decoding with simplejpeg, at a reduced size where that is enough, and of the required rows only."""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ccpml.data.images.opening import is_large
from ccpml.data.images.orientation import upright, upright_shape

__all__ = ["Part", "decode_jpeg", "jpeg_size"]

_COLORSPACES: Final = frozenset({"Gray", "YCbCr", "RGB"})  # Pillow decodes the others
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})
_OTHER_FRAMES: Final = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xDA)})


class Part(Protocol):
    """The part of an image that is needed."""

    @property
    def rows(self) -> int | None:
        """Number of rows needed, from the first; None for all."""


P = TypeVar("P", bound=Part)


class _Size(NamedTuple):
    height: int
    width: int


def jpeg_size(data: bytes) -> _Size | None:
    """Return height and width of a gray or color JPEG; None for other data or a damaged header."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return _Size(height, width) if colorspace in _COLORSPACES else None


def decode_jpeg(
    data: bytes, channels: int, min_size: int | None, part: Callable[[tuple[int, ...]], P], orientation: int = 1
) -> tuple[NDArray[np.uint8], P] | None:
    """Decode only the required rows of a JPEG, or all if it is rotated; see ``read_part`` for the arguments.

    Returns:
        Pixels, uint8 (rows, W, C), and the part; None if simplejpeg's strict decoder fails, so that Pillow decides.
    """
    options: dict[str, Any] = {"colorspace": "GRAY" if channels == 1 else "RGB"}
    try:
        full = size = _Size(*simplejpeg.decode_jpeg_header(data)[:2])
        if is_large(*full):
            min_size = min(min(full) // 2, min_size or min(full))
        if min_size is not None and min(full) >= 2 * min_size:
            options |= {"min_height": min_size, "min_width": min_size, "min_factor": 2}
            header = {name: option for name, option in options.items() if name != "colorspace"}
            size = _Size(*simplejpeg.decode_jpeg_header(data, **header)[:2])
        needed = part((*upright_shape(*size, orientation), channels))
        rows = needed.rows if orientation in {1, 2} else None  # of the stored image
        eighths = 8 * size.height // full.height  # a reduced side is this many eighths of the full one, rounded up
        top = None if rows is None else _top(data, rows, full, eighths)
        if top is None:
            pixels = simplejpeg.decode_jpeg(data, **options)
        else:
            top_data, height = top
            if size != full:  # request the same factor for the shorter image
                options |= {"min_height": height * eighths // 8, "min_width": 0}
            pixels = simplejpeg.decode_jpeg(top_data, **options, strict=False)  # it reports the remaining data
    except ValueError:
        return None
    return upright(pixels[:rows], orientation), needed


def _top(data: bytes, rows: int, full: _Size, eighths: int) -> tuple[bytearray, int] | None:
    """Return a JPEG of the first rows and their number, by changing the height in the header; None if that is useless.

    The data of the other rows remain at the end and are ignored. Blocks are up to 16 pixels high, and colors are
    interpolated with those of the next two rows.
    """
    height = 16 * math.ceil((rows * 8 / eighths + 2) / 16) + (0 if eighths == 8 else 16)
    offset = _height_offset(data) if height < full.height else None
    if offset is None:
        return None
    top = bytearray(data)
    top[offset : offset + 2] = height.to_bytes(2, "big")
    return top, height


def _height_offset(data: bytes) -> int | None:
    """Return the offset of the height in the header of a complete JPEG with a single sequential scan; else None.

    A file without the end marker may be truncated, which only decoding all of it shows.
    """
    if data[-2:] != b"\xff\xd9":
        return None
    position, frame, components = 2, None, 0
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _SEQUENTIAL:
            frame, components = position + 5, data[position + 9]
        elif marker == 0xDA:
            return frame if data[position + 4] == components else None
        elif marker in _OTHER_FRAMES or marker in _WITHOUT_LENGTH or marker == 0xFF:
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
