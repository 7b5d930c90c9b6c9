"""JPEG by way of simplejpeg: at a reduced size where less is enough, and no further down than asked for."""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray

__all__ = ["Part", "decode_jpeg", "jpeg_size"]

_COLORSPACES: Final = frozenset({"Gray", "YCbCr", "RGB"})  # of the rest, Pillow knows what is meant
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})
_OTHER_FRAMES: Final = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xDA)})


class Part(Protocol):
    """What is needed of an image."""

    @property
    def rows(self) -> int | None:
        """Number of rows that are needed, from the first one on; None is all."""


P = TypeVar("P", bound=Part)


class _Size(NamedTuple):
    height: int
    width: int


def jpeg_size(data: bytes) -> _Size | None:
    """Read height and width of a JPEG in grey or in colour; None if it is neither, or its header is damaged.

    Args:
        data: The whole file.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return _Size(height, width) if colorspace in _COLORSPACES else None


def decode_jpeg(
    data: bytes, channels: int, min_size: int | None, part: Callable[[tuple[int, ...]], P]
) -> tuple[NDArray[np.uint8], P] | None:
    """Decode the rows of a JPEG that are needed: uint8, (rows, W, C), and what needs them.

    Args:
        data: The whole file, whose ``jpeg_size`` is known.
        channels: C: 1 for grey, 3 for RGB.
        min_size: If given, it may be decoded at half its size or less, if its shorter side is still at least this.
        part: Says what is needed of an image of a shape: H, W and C.

    Returns:
        None where simplejpeg's strict decoder complains, and Pillow shall decide.
    """
    options: dict[str, Any] = {"colorspace": "GRAY" if channels == 1 else "RGB"}
    try:
        full = size = _Size(*simplejpeg.decode_jpeg_header(data)[:2])
        if min_size is not None and min(full) >= 2 * min_size:
            options |= {"min_height": min_size, "min_width": min_size, "min_factor": 2}
            header = {name: option for name, option in options.items() if name != "colorspace"}
            size = _Size(*simplejpeg.decode_jpeg_header(data, **header)[:2])
        needed = part((*size, channels))
        eighths = 8 * size.height // full.height  # a reduced side is so many eighths of the full one, rounded up
        top = None if needed.rows is None else _top(data, needed.rows, full, eighths)
        if top is None:
            pixels = simplejpeg.decode_jpeg(data, **options)
        else:
            top_data, height = top
            if size != full:  # by the same factor, though it is less of an image now
                options |= {"min_height": height * eighths // 8, "min_width": 0}
            pixels = simplejpeg.decode_jpeg(top_data, **options, strict=False)  # it complains of what is left over
    except ValueError:
        return None
    return cast("NDArray[np.uint8]", pixels[: needed.rows]), needed


def _top(data: bytes, rows: int, full: _Size, eighths: int) -> tuple[bytearray, int] | None:
    """Make a JPEG of an image's first rows, by another height in its header; None where that is not worth it.

    The rest of its data stays behind the last row, and is passed over. Blocks are up to 16 pixels high, and colours
    are interpolated with those of the next two rows.
    """
    height = 16 * math.ceil((rows * 8 / eighths + 2) / 16) + (0 if eighths == 8 else 16)
    place = _place_of_height(data) if height < full.height else None
    if place is None:
        return None
    top = bytearray(data)
    top[place : place + 2] = height.to_bytes(2, "big")
    return top, height


def _place_of_height(data: bytes) -> int | None:
    """Find the height in the header of a JPEG in one scan from top to bottom, complete; None if it is none.

    A file that does not end with the marker of its end may have been cut off: only decoding it all tells.
    """
    if data[-2:] != b"\xff\xd9":
        return None
    place, frame, components = 2, None, 0
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _SEQUENTIAL:
            frame, components = place + 5, data[place + 9]
        elif marker == 0xDA:
            return frame if data[place + 4] == components else None
        elif marker in _OTHER_FRAMES or marker in _WITHOUT_LENGTH or marker == 0xFF:
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
