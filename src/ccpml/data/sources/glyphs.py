"""The generated data set ``glyphs``: characters of many scripts, drawn from matplotlib's fonts without any download.

Each class is a character and has :data:`IMAGES_PER_CLASS` gray images of 64 × 64 pixels, light ink on black.
:mod:`ccpml.data.sources.glyph_fonts` defines which characters are used and their splits. The images of a class cycle
through all faces that have the character (sans, serif, mono; bold; oblique). Each glyph is thickened or thinned,
scaled along both axes, sheared, rotated by up to 20°, bent, shifted, sometimes struck through, blurred, and noise is
added. An image depends on its code point and number alone, so that adding a class changes no other.

The set is drawn once and cached in a file; see :func:`load_glyphs`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, features
from PIL import __version__ as pillow_version

from ccpml.artifacts import expand_home
from ccpml.data.sources.glyph_fonts import draw, faces, font_folder, glyph_classes
from ccpml.data.sources.source import Source
from ccpml.data.table import ImageTable
from ccpml.files import write_arrays
from ccpml.progress import progress_bar
from ccpml.system_errors import raise_shortage

#: Version of the recipe; increase it whenever an image or class changes.
RECIPE = 1
IMAGES_PER_CLASS = 16
SIDE = 64

_LONG_SIDE = 38  # of a glyph in the frame, before scaling
_ROOM = 27  # half the side of the square into which the undistorted glyph must fit; the rest is margin
_BEND = 2.0  # maximum displacement by bending, in pixels
_CELLS = 5  # the bent image is sampled from a grid of 5 × 5 cells
_FINE = 2 * SIDE  # sampled at twice the size, then averaged


def load_glyphs(cache_dir: Path | None = None, progress: bool = True) -> Source:
    """Load the glyphs from the cache file, or draw them (about half a minute) and write that file.

    The name of the file contains a fingerprint of the recipe, the fonts and Pillow: if one of them changes, or the
    file is damaged, the glyphs are drawn again.

    Args:
        cache_dir: Folder of the cache file. By default the environment variable ``CCPML_CACHE``, or else the user's
            cache folder for ``ccpml``.
        progress: Whether to show a progress bar on standard error while drawing.

    Returns:
        Gray images (N, 64, 64), grouped by class, with their split; class names are like
        ``"Greek/U+03B1 GREEK SMALL LETTER ALPHA"``.

    Raises:
        FileNotFoundError: If matplotlib's fonts are missing.
    """
    path = _cache_path(cache_dir)
    cached = _read(path)
    if cached is not None:
        return cached
    classes = glyph_classes()
    arrays: dict[str, NDArray[Any]] = {
        "images": render_glyphs([item.char for item in classes], progress=progress),
        "labels": np.repeat(np.arange(len(classes), dtype=np.int64), IMAGES_PER_CLASS),
        "names": np.array([item.name for item in classes]),
        "splits": np.array([item.split for item in classes]),
    }
    try:
        write_arrays(path, **arrays)
    except OSError as error:
        advice = "set CCPML_CACHE to a writable folder, or they are drawn again next time"
        warnings.warn(f"glyphs cannot be cached in {path.parent} ({error.strerror}); {advice}", stacklevel=2)
    return _source(**arrays)


def render_glyphs(chars: Sequence[str], progress: bool = False) -> NDArray[np.uint8]:
    """Return the images of C characters, :data:`IMAGES_PER_CLASS` of each: uint8, (C · IMAGES_PER_CLASS, 64, 64).

    >>> render_glyphs("αЖ").shape
    (32, 64, 64)
    """
    bar = progress_bar(len(chars), "class", "drawing glyphs", over=chars, shown=progress)
    images = [render_glyph(char, number) for char in bar for number in range(IMAGES_PER_CLASS)]
    return np.stack(images) if images else np.empty((0, SIDE, SIDE), dtype=np.uint8)


def render_glyph(char: str, number: int) -> NDArray[np.uint8]:
    """Return one image of a character, uint8 of shape (64, 64); raise a ``ValueError`` if no face draws it."""
    faces_with_char = [face for face, codes in faces().items() if ord(char) in codes]
    ink = draw(char, faces_with_char[number % len(faces_with_char)]) if faces_with_char else None
    if ink is None:
        raise ValueError(f"U+{ord(char):04X}: not drawn by any trusted face")
    rng = np.random.Generator(np.random.PCG64([ord(char), number]))
    return _degrade(_place(_vary_stroke_width(ink, rng), ink.size, rng), rng)


def _vary_stroke_width(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Randomly thicken or thin the strokes, and add a border: blur, then threshold at a random level."""
    border = math.ceil(max(ink.size) * 0.1)
    framed = Image.new("L", (ink.width + 2 * border, ink.height + 2 * border))
    framed.paste(ink, (border, border))
    blurred = framed.filter(ImageFilter.GaussianBlur(max(ink.size) * 0.025))
    level = rng.uniform(0.15, 0.55)
    ramp = np.clip((np.arange(256) / 255 - level) / 0.2 + 0.5, 0, 1)
    return blurred.point(np.rint(ramp * 255).astype(int).tolist())


def _place(glyph: Image.Image, ink_size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Place the glyph in the frame: scale, shear, rotate, bend and shift it, with a margin around its ink."""
    turn = math.radians(rng.uniform(-20, 20))
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    shear = np.array([[1, rng.uniform(-0.25, 0.25)], [0, 1]])
    matrix = rotate @ shear @ np.diag(rng.uniform(0.75, 1.15, size=2)) * _LONG_SIDE / max(ink_size)
    extent = np.abs(matrix) @ (np.array(ink_size) / 2)
    shrink = min(1.0, _ROOM / float(extent.max()))
    matrix, extent = matrix * shrink, extent * shrink
    shift = rng.uniform(-1, 1, size=2) * np.minimum(_ROOM - extent, 6)

    ticks = np.rint(np.linspace(0, _FINE, _CELLS + 1)).astype(int)
    nodes = np.stack(np.meshgrid(ticks, ticks), axis=-1) * (SIDE / _FINE)  # (6, 6, 2): x, y in the frame
    waves = rng.uniform(-0.75, 0.75, size=(2, 2)) * 2 * math.pi / SIDE
    bend = rng.uniform(0, _BEND, size=2) * np.sin(nodes @ waves + rng.uniform(0, 2 * math.pi, size=2))
    source = (nodes + bend - SIDE / 2 - shift) @ np.linalg.inv(matrix).T + np.array(glyph.size) / 2
    corners = np.concatenate([source[:-1, :-1], source[1:, :-1], source[1:, 1:], source[:-1, 1:]], axis=-1)
    cuts = [(int(start), int(end)) for start, end in itertools.pairwise(ticks)]
    boxes = [(left, top, right, bottom) for top, bottom in cuts for left, right in cuts]
    mesh = list(zip(boxes, corners.reshape(-1, 8).tolist(), strict=True))
    fine = glyph.transform((_FINE, _FINE), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return fine.reduce(_FINE // SIDE)


def _degrade(image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Degrade the image: strike-through (sometimes), blur, dimming, noise."""
    if rng.random() < 0.2:
        angle = rng.uniform(0, math.pi)
        middle = SIDE / 2 + rng.uniform(-10, 10, size=2)
        reach = SIDE * np.array([math.cos(angle), math.sin(angle)])
        ends = (*(middle - reach).tolist(), *(middle + reach).tolist())
        ImageDraw.Draw(image).line(ends, fill=0, width=int(rng.integers(2, 5)))
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.9)))
    pixels = np.asarray(blurred, dtype=np.float64) * rng.uniform(0.6, 1.0)
    noise = rng.normal(0, rng.uniform(2, 12), size=(SIDE, SIDE))
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _cache_path(cache_dir: Path | None) -> Path:
    """Return the cache file; its name distinguishes recipes, fonts and the libraries that draw."""
    folder = cache_dir or Path(os.environ.get("CCPML_CACHE") or platformdirs.user_cache_dir("ccpml"))
    fonts = [f"{path.name}:{path.stat().st_size}" for path in sorted(font_folder().glob("*.ttf"))]
    libraries = [pillow_version, str(features.version("freetype2")), unicodedata.unidata_version]
    fingerprint = hashlib.sha256("\n".join([*fonts, *libraries]).encode()).hexdigest()[:12]
    return expand_home(folder) / f"glyphs-v{RECIPE}-{fingerprint}.npz"


def _read(path: Path) -> Source | None:
    """Return the data set in the cache file; None if the file does not exist or is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            source = _source(images := file["images"], file["labels"], file["names"], file["splits"])
    except Exception as error:  # damaged archives raise many exceptions; the answer to each is to draw again
        raise_shortage(error)
        return None
    return source if images.shape == (source.table.num_classes * IMAGES_PER_CLASS, SIDE, SIDE) else None


def _source(
    images: NDArray[np.uint8], labels: NDArray[np.int64], names: NDArray[np.str_], splits: NDArray[np.str_]
) -> Source:
    table = ImageTable(images, labels, tuple(names.tolist()), name="glyphs")
    return Source(table, dict(zip(names.tolist(), splits.tolist(), strict=True)))
