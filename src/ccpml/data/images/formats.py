"""Formats of image files that can be read."""

from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Final

__all__ = ["image_suffixes", "pillow_formats"]

# Pillow reads many more, some of which start other programs (EPS). MPO, a JPEG with more images, comes with JPEG.
_FORMATS: Final = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM")
_SUFFIXES: Final = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".mpo")
_HEIF_PLUGINS: Final = ("pi_heif", "pillow_heif")


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
    more = {"AVIF": (".avif",), "HEIF": (".heic", ".heif")}
    return frozenset(_SUFFIXES).union(*(more.get(name, ()) for name in pillow_formats()))
