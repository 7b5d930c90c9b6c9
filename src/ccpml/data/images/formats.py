"""Formats of image files that can be read."""

from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Final

__all__ = ["READ_HEIF", "image_suffixes", "is_unread_heif", "pillow_formats", "unread_suffixes"]

# Pillow reads many more, some of which start other programs (EPS). MPO, a JPEG with more images, comes with JPEG.
_FORMATS: Final = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM")
_SUFFIXES: Final = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".mpo")
_OPTIONAL: Final = {"AVIF": (".avif",), "HEIF": (".heic", ".heif")}
_HEIF_PLUGINS: Final = ("pi_heif", "pillow_heif")
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
READ_HEIF: Final = "pip install pi-heif"
"""The command after which HEIC is read."""

_COMMANDS: Final = {"AVIF": "pip install --upgrade pillow", "HEIF": READ_HEIF}


@cache
def pillow_formats() -> tuple[str, ...]:
    """Return the formats by Pillow's names: AVIF if Pillow was built with it, HEIF if it has a plugin for it."""
    avif = ("AVIF",) if find_spec("PIL._avif") else ()
    for plugin in _HEIF_PLUGINS:
        with suppress(ImportError):
            import_module(plugin).register_heif_opener()
            return (*_FORMATS, *avif, "HEIF")
    return (*_FORMATS, *avif)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case."""
    return frozenset(_SUFFIXES).union(*(_OPTIONAL.get(name, ()) for name in pillow_formats()))


def unread_suffixes() -> dict[str, str]:
    """Return the suffixes of image files that nothing installed here reads, with the command after which they are."""
    missing = _OPTIONAL.keys() - set(pillow_formats())
    return {suffix: _COMMANDS[name] for name in sorted(missing) for suffix in _OPTIONAL[name]}


def is_unread_heif(start: bytes) -> bool:
    """Whether a file that begins so is HEIC, and nothing that is installed reads it.

    Example:
        >>> is_unread_heif(b"GIF89a")
        False
    """
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and "HEIF" not in pillow_formats()
