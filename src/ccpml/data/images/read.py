"""Reading of images: common file formats, packed images and arrays, to uint8 pixels with one or three channels."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ccpml.artifacts import read_file
from ccpml.data.images.archived import ArchivedImage, read_archived
from ccpml.data.images.jpeg import Part, decode_jpeg, jpeg_size
from ccpml.data.images.opening import MAX_PIXELS, is_large, open_image
from ccpml.data.images.orientation import jpeg_orientation, orientation_of, upright, upright_shape
from ccpml.data.images.packed import PackedImage, read_packed
from ccpml.numbers import as_int, check_flags
from ccpml.progress import printable
from ccpml.system_errors import raise_shortage

__all__ = [
    "BadImage",
    "BadImageError",
    "BadImagesError",
    "ImageLike",
    "first_lines",
    "read_header",
    "read_image",
    "read_part",
]

MAX_LISTED: Final = 10

_WITH_ALPHA: Final = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_PHOTOMETRIC: Final = 262  # tag of TIFF: what 0 means
_GRAY_MODES: Final = frozenset({"1", "L", "LA", "La", "I"})

_REDUCIBLE: Final = frozenset({"L", "RGB", "LA", "RGBA", "CMYK", "YCbCr"})

P = TypeVar("P", bound=Part)

#: A file, its contents, a packed or archived image, or an array: uint8, (H, W), (H, W, 1) or (H, W, 3).
ImageLike: TypeAlias = Path | str | bytes | PackedImage | ArchivedImage | NDArray[np.uint8]


class BadImageError(ValueError):
    """An image that cannot be read, with its ``name`` (empty if it has none) and the ``reason``."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.name = name
        self.reason = reason


class BadImage(NamedTuple):
    """An unreadable image: its row in the table, its name, and why it cannot be read."""

    row: int
    name: str
    reason: str


class BadImagesError(ValueError):
    """Images that cannot be read, in the attribute ``bad``."""

    def __init__(self, message: str, bad: Sequence[BadImage] = ()) -> None:
        super().__init__(message)
        self.bad = list(bad)

    @classmethod
    def of(cls, bad: Sequence[BadImage], total: int, advice: str, listed_in: Path | None = None) -> Self:
        """Return the error of unreadable images among ``total``, all of which are listed in a file if there is one."""
        title = f"{len(bad):,} of {total:,} images cannot be read; {advice}:"
        lines = first_lines([f"{name}: {reason}" for _, name, reason in bad], listed_in)
        return cls("\n".join([title, *lines]), bad)


def first_lines(lines: Sequence[str], listed_in: Path | None) -> list[str]:
    """Return the first ten lines, indented, with a note if there are more, all of which are in a file if it is given.

    Example:
        >>> first_lines(["a.jpg: the file is empty"] * 12, Path("bad.txt"))[-1]
        '  and 2 more; all are listed in bad.txt'
    """
    shown = [f"  {printable(line)}" for line in lines[:MAX_LISTED]]
    if len(lines) > MAX_LISTED:
        all_in = "" if listed_in is None else f"; all are listed in {listed_in}"
        shown.append(f"  and {len(lines) - MAX_LISTED:,} more{all_in}")
    return shown


class _Header(NamedTuple):
    """Size of an image, whether it is stored in gray, with or without alpha, and that with 16 or 32 bits."""

    height: int
    width: int
    gray: bool
    deep: bool = False


class _Whole:
    """The whole image, as the part that is needed."""

    rows = None

    def __init__(self, shape: tuple[int, ...]) -> None:
        pass


def read_image(source: ImageLike, channels: int, min_size: int | None = None, rotate: bool = True) -> NDArray[np.uint8]:
    """Read an image as uint8 pixels, (H, W, C).

    Gray is repeated to obtain color; color becomes gray by luma (ITU-R 601). Transparent images are composed onto
    white, 16 bits are scaled to 8, and only the first frame of an animation is read.

    Args:
        source: An image file, its contents, a packed or archived image, or an array: uint8, (H, W), (H, W, 1) or
            (H, W, 3).
        channels: C, 1 for gray or 3 for RGB.
        min_size: If given, a JPEG may be decoded at half its size or less, as long as its shorter side is at least
            this. (Sizes between half and full decode no faster.) Images of more than 89 million pixels are read at half
            their size or less in any case.
        rotate: Whether to rotate and mirror the image of a file as its EXIF data say; otherwise it is read as stored.

    Raises:
        BadImageError: If the file is missing, truncated, not an image, or has more than 250 million pixels.
        ValueError: If ``channels`` is neither 1 nor 3, or the array has another shape or type.

    Example:
        >>> read_image(np.zeros((4, 6), np.uint8), channels=3).shape
        (4, 6, 3)
    """
    check_flags(rotate=rotate)
    if min_size is not None:
        min_size = as_int("min_size", min_size)
    pixels, _ = read_part(source, channels, _Whole, min_size, rotate)
    return pixels.copy() if isinstance(source, PackedImage) else pixels


def read_part(
    source: ImageLike,
    channels: int,
    part: Callable[[tuple[int, ...]], P],
    min_size: int | None = None,
    rotate: bool = True,
) -> tuple[NDArray[np.uint8], P]:
    """Read the upper rows of an image: those that are needed, or more. Otherwise like ``read_image``.

    ``part`` returns the part that is needed of an image of shape (H, W, C); it may be called twice. Rows below it are
    not decoded, so damage there may go unnoticed.

    Returns:
        Pixels, (rows or more, W, C), possibly read-only, and the result of ``part``.

    Example:
        >>> from ccpml.data import TrainTransform
        >>> transform, rng = TrainTransform(8), np.random.default_rng(0)
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> pixels, view = read_part(image, 3, lambda shape: transform.view(shape, rng))
        >>> view.of(pixels).shape
        (8, 8, 3)
    """
    if as_int("channels", channels) not in {1, 3}:
        raise ValueError(f"channels: expected 1 (gray) or 3 (RGB), got {channels}")
    if isinstance(source, np.ndarray | PackedImage):
        pixels = _convert_array(source if isinstance(source, np.ndarray) else _unpacked(source), channels)
        return pixels, part(pixels.shape)
    name, data = _contents(source)
    size = jpeg_size(data)
    if size is not None:
        _check_size(size.height, size.width, name)
        decoded = decode_jpeg(data, channels, min_size, part, jpeg_orientation(data) if rotate else 1)
        if decoded is not None:
            return decoded
    with _opened(io.BytesIO(data), name) as image:
        pixels = _convert_pillow(image, channels, rotate)
        return pixels, part(pixels.shape)


def read_header(source: Path | bytes | ArchivedImage, rotate: bool = True) -> _Header:
    """Read the header of an image file, or of its contents, with its size after the EXIF rotation if ``rotate``.

    Raises:
        BadImageError: If it cannot be read.
    """
    name, file = (str(source), source) if isinstance(source, Path) else _contents(source)
    with _opened(file if isinstance(file, Path) else io.BytesIO(file), name) as image:
        gray = image.mode in _GRAY_MODES or image.mode.startswith("I;16")
        # What is decoded tells of colors, which Pillow itself scales; it is known until the EXIF data are read.
        deep = image.mode == "I" or image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", ""))
        # Pillow itself rotates TIFF files, and its plugins HEIF
        orientation = orientation_of(image) if rotate and image.format not in {"TIFF", "HEIF"} else 1
        return _Header(*upright_shape(image.height, image.width, orientation), gray, deep)


def _contents(source: Path | str | bytes | ArchivedImage) -> tuple[str, bytes]:
    """Return the name of an image and the contents of its file."""
    if not isinstance(source, bytes | str | Path | ArchivedImage):
        raise ValueError(f"source: expected a path, contents or an array, got {type(source).__name__}")
    name = "" if isinstance(source, bytes) else source.name if isinstance(source, ArchivedImage) else str(source)
    try:
        if isinstance(source, bytes):
            data = source
        else:
            data = read_archived(source) if isinstance(source, ArchivedImage) else read_file(source)
    except OSError as error:
        raise_shortage(error)
        raise BadImageError(f"cannot be opened ({error.strerror or error})", name) from error
    except ValueError as error:
        raise BadImageError(str(error), name) from error
    if not data:
        raise BadImageError("the file is empty", name)
    return name, data


def _unpacked(image: PackedImage) -> NDArray[np.uint8]:
    try:
        return read_packed(image)
    except (OSError, ValueError) as error:
        raise_shortage(error)
        why = f"packed file {image.pack} cannot be opened" if isinstance(error, OSError) else str(error)
        reason = f"{why}; build the cache again, or remove {image.pack.parent}"
        raise BadImageError(reason, str(image.path)) from error


@contextmanager
def _opened(file: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """Open an image of a known format; exceptions of Pillow, here and in the body, become a ``BadImageError``."""
    try:
        with open_image(file) as image:
            _check_size(image.height, image.width, name)
            yield image
    except BadImageError as error:
        raise BadImageError(error.reason, name) from None
    except UnidentifiedImageError as error:
        raise BadImageError(str(error), name) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(_too_large(error), name) from error
    except OSError as error:
        raise_shortage(error)
        why = f"opened ({error.strerror})" if error.errno is not None else f"decoded ({error})"
        raise BadImageError(f"cannot be {why}", name) from error
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise_shortage(error)
        raise BadImageError(f"cannot be decoded ({error})", name) from error


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise BadImageError(
            f"too large: expected at most {MAX_PIXELS / 1e6:.0f} million pixels, got {height} × {width}; reduce it",
            name,
        )


def _too_large(error: Exception) -> str:
    """Return the reason for an image that Pillow does not decode: for some formats its own limit holds."""
    found = re.search(r"\((\d+) pixels\) exceeds limit of (\d+)", str(error))
    if found is None:
        return f"too large: {error}; reduce it"
    got, limit = (f"{int(number) / 1e6:,.0f} million" for number in found.groups())
    return f"too large: expected at most {limit} pixels in this format, got {got}; reduce it, or save it as JPEG or PNG"


def _convert_pillow(image: Image.Image, channels: int, rotate: bool) -> NDArray[np.uint8]:
    if is_large(image.height, image.width):
        image.draft(None, (image.width // 2, image.height // 2))  # a JPEG is decoded at half its size
    image.load()
    orientation = orientation_of(image) if rotate else 1
    image = _halved(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = _from_16_bits(np.asarray(image))
        image = Image.fromarray(255 - pixels if _is_white_zero(image) else pixels)
    elif image.mode == "F":
        raise BadImageError("pixels are floating-point numbers of unknown range")
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if image.mode not in {"1", "L", "RGB"}:
        image = image.convert("RGB")  # Pillow cannot convert all modes to gray
    mode = "L" if channels == 1 else "RGB"
    pixels = np.array(_halved(image if image.mode == mode else image.convert(mode)))
    return upright(pixels[:, :, None] if channels == 1 else pixels, orientation)


def _halved(image: Image.Image) -> Image.Image:
    """Return a large image at half its size, before its copies need several times its memory, if its mode allows."""
    return image.reduce(2) if is_large(image.height, image.width) and image.mode in _REDUCIBLE else image


def _is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF of 16 bits, as of scanners; for 8 bits Pillow knows it."""
    tags: Any = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC) == 0)


def _from_16_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 0..65535 to 0..255, with rounding."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BadImageError("pixels are 32-bit numbers of unknown range, beyond 0..65535")
    scaled = pixels.astype(np.uint32)
    scaled *= 255
    scaled += 32767
    scaled //= 65535
    return scaled.astype(np.uint8)


def check_pixels(array: NDArray[Any]) -> None:
    """Check that an array is an image.

    Raises:
        BadImageError: If it is not uint8 of shape (H, W), (H, W, 1) or (H, W, 3).
    """
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {1, 3})
    if array.dtype != np.uint8 or not is_image or 0 in array.shape:
        expected = "expected uint8 (H, W), (H, W, 1) or (H, W, 3)"
        raise BadImageError(f"{expected}, got {array.dtype} {array.shape}", "image")


def _convert_array(array: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    check_pixels(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=2)
    return np.array(Image.fromarray(array).convert("L"))[:, :, None]
