"""The embedded data set ``glyphs``: characters of many scripts, drawn here, nothing downloaded.

One class per character, :data:`IMAGES_PER_CLASS` grey images of 64 × 64 each, light ink on black. Which
characters, and in which split, is said in :mod:`ccpml.data.sources.glyph_fonts`. The images of a class go round all
faces that have the character (sans, serif, mono; bold; oblique), and each is thickened or thinned, scaled
along both axes, sheared, turned by up to 20°, bent, shifted, sometimes struck through, blurred and made noisy.
Each image depends on its code point and its number alone, so that adding a class alters no other.

The set is drawn once and kept in a cache file; see :func:`load_glyphs`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import unicodedata
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, features
from PIL import __version__ as pillow_version

from ccpml.data.sources.glyph_fonts import draw, faces, font_folder, glyph_classes
from ccpml.progress import progress_bar

#: Number of the recipe: raise it whenever any image or class comes out differently.
RECIPE = 1
IMAGES_PER_CLASS = 16
SIDE = 64

_LONG_SIDE = 38  # of a glyph in the frame, before scaling
_ROOM = 27  # half the side of the square into which the straight glyph must fit; the rest is margin
_BEND = 2.0  # largest shift by bending, in pixels
_CELLS = 5  # the bent image is sampled from a grid of 5 × 5 cells
_FINE = 2 * SIDE  # sampled at twice the size, then averaged


@dataclass(frozen=True)
class Glyphs:
    """The data set in memory. Images are grouped by class; train classes first, then validation, then test.

    Attributes:
        images: Grey images, light ink on black, uint8 of shape (N, 64, 64).
        labels: Class of each image, int64 of shape (N,), from 0 to C − 1.
        names: Name of each class, such as ``"Greek/U+03B1 GREEK SMALL LETTER ALPHA"``; C of them.
        splits: Split of each class: ``"train"``, ``"validation"`` or ``"test"``; C of them.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    splits: tuple[str, ...]


def load_glyphs(cache_dir: Path | None = None, progress: bool = True) -> Glyphs:
    """Glyphs from the cache file, or drawn (about half a minute) and put there.

    The file's name holds a fingerprint of the recipe, the fonts and Pillow, so that a change of either draws
    anew. A damaged file is drawn anew too. It is written whole under another name and then renamed: neither an
    interruption nor a second process can leave or see half of it.

    Args:
        cache_dir: Where the cache file lies. By default the folder in the environment variable
            ``CCPML_CACHE``, else the user's cache folder of ``ccpml``.
        progress: Show a progress bar on stderr while drawing.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: matplotlib's fonts are missing.

    Warns:
        UserWarning: The cache cannot be written; the data set is returned all the same.
    """
    path = _cache_path(cache_dir)
    cached = _read(path)
    if cached is not None:
        return cached
    classes = glyph_classes()
    glyphs = Glyphs(
        images=render_glyphs([item.char for item in classes], progress=progress),
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), IMAGES_PER_CLASS),
        names=tuple(item.name for item in classes),
        splits=tuple(item.split for item in classes),
    )
    try:
        _write(path, glyphs)
    except OSError as error:
        advice = "set CCPML_CACHE to a folder that can be written, or they are drawn again next time"
        warnings.warn(f"cannot keep the drawn glyphs in {path.parent} ({error}); {advice}", stacklevel=2)
    return glyphs


def render_glyphs(chars: Sequence[str], progress: bool = False) -> NDArray[np.uint8]:
    """Images of each character, :data:`IMAGES_PER_CLASS` per character, in order.

    Args:
        chars: C characters; each must be drawn by at least one trusted face.
        progress: Show a progress bar on stderr.

    Returns:
        uint8 of shape (C * IMAGES_PER_CLASS, 64, 64).

    Raises:
        ValueError: No face draws the character.

    >>> render_glyphs("αЖ").shape
    (32, 64, 64)
    """
    bar = progress_bar(len(chars), "class", "drawing glyphs", over=chars, shown=progress)
    images = [render_glyph(char, number) for char in bar for number in range(IMAGES_PER_CLASS)]
    return np.stack(images) if images else np.empty((0, SIDE, SIDE), dtype=np.uint8)


def render_glyph(char: str, number: int) -> NDArray[np.uint8]:
    """Image of that number of the character, uint8 of shape (64, 64); the same one whenever called.

    Raises:
        ValueError: No face draws the character.
    """
    having = [face for face, codes in faces().items() if ord(char) in codes]
    ink = draw(char, having[number % len(having)]) if having else None
    if ink is None:
        raise ValueError(f"no trusted face draws U+{ord(char):04X}")
    rng = np.random.Generator(np.random.PCG64([ord(char), number]))
    image = _place(_weigh(ink, rng), ink.size, rng)
    return _soil(image, rng)


def _weigh(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Glyph with a border, its strokes thicker or thinner: blurred, then cut at another level of grey."""
    border = math.ceil(max(ink.size) * 0.1)
    framed = Image.new("L", (ink.width + 2 * border, ink.height + 2 * border))
    framed.paste(ink, (border, border))
    blurred = framed.filter(ImageFilter.GaussianBlur(max(ink.size) * 0.025))
    level = rng.uniform(0.15, 0.55)
    ramp = np.clip((np.arange(256) / 255 - level) / 0.2 + 0.5, 0, 1)
    return blurred.point(np.rint(ramp * 255).astype(int).tolist())


def _place(glyph: Image.Image, ink_size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Glyph in the frame: scaled, sheared, turned, bent and shifted, its ink inside with a margin."""
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


def _soil(image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Image sometimes struck through in black, then blurred, dimmed and noisy."""
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
    """Cache file: its name tells apart recipes, fonts and the libraries that draw."""
    folder = cache_dir or Path(os.environ.get("CCPML_CACHE") or platformdirs.user_cache_dir("ccpml"))
    fonts = [f"{path.name}:{path.stat().st_size}" for path in sorted(font_folder().glob("*.ttf"))]
    libraries = [pillow_version, str(features.version("freetype2")), unicodedata.unidata_version]
    fingerprint = hashlib.sha256("\n".join([*fonts, *libraries]).encode()).hexdigest()[:12]
    return folder.expanduser() / f"glyphs-v{RECIPE}-{fingerprint}.npz"


def _read(path: Path) -> Glyphs | None:
    """Data set in the cache file; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            glyphs = Glyphs(
                images=file["images"],
                labels=file["labels"],
                names=tuple(file["names"].tolist()),
                splits=tuple(file["splits"].tolist()),
            )
    except Exception:  # a damaged archive raises a dozen kinds, and the answer to each is to draw anew
        return None
    count = len(glyphs.names) * IMAGES_PER_CLASS
    sound = glyphs.images.shape == (count, SIDE, SIDE) and glyphs.images.dtype == np.uint8
    sound = sound and glyphs.labels.shape == (count,) and glyphs.labels.dtype == np.int64
    return glyphs if sound and len(glyphs.splits) == len(glyphs.names) else None


def _write(path: Path, glyphs: Glyphs) -> None:
    """Write the cache file whole, under another name first.

    Raises:
        OSError: The folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with unfinished.open("xb") as file:
            np.savez(
                file,
                images=glyphs.images,
                labels=glyphs.labels,
                names=np.array(glyphs.names),
                splits=np.array(glyphs.splits),
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
