"""Selection of the characters of the data set ``glyphs``, and their splits.

Rules, in order of application:

1. **Faces.** Of the fonts that ship with matplotlib, those with a full-repertoire Unicode character map
   (platform 3, encoding 10). This keeps DejaVu Sans, Sans Mono, Serif and STIX General in their weights and
   slants, and excludes faces whose codes cannot be trusted or whose glyphs are not letters: the BaKoMa ``cm*``
   fonts, STIX NonUni and Size, the Display faces, and Last Resort.
2. **Characters.** Letters and decimal digits (Unicode categories Lu, Ll, Lo, Nd) of the scripts in
   :data:`SCRIPTS` that the reference face, DejaVu Sans, draws with ink, without a Unicode compatibility
   decomposition: ligatures, presentation forms and styled letters duplicate other characters. Accented letters
   are kept. The script is the first word of the character's Unicode name.
3. **Look-alikes.** In order of code points, a character is dropped if its shape in any of the reference faces
   has a correlation above :data:`LOOKALIKE` with a character already kept, of any script. Shapes are cropped to
   their ink and scaled with their aspect ratio, then the shorter side is widened by up to 1.4, so that O and 0,
   or 3 and З, are one shape, but l and — are two. No class of one split looks like a class of another.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ccpml.data.sources.source import SplitName

#: First word of the Unicode name → (script as shown, split). Each script belongs to one split.
SCRIPTS: dict[str, tuple[str, SplitName]] = {
    "LATIN": ("Latin", "train"),
    "DIGIT": ("Digit", "train"),
    "GREEK": ("Greek", "train"),
    "COPTIC": ("Coptic", "train"),
    "CYRILLIC": ("Cyrillic", "train"),
    "ARMENIAN": ("Armenian", "train"),
    "GEORGIAN": ("Georgian", "train"),
    "OLD": ("Old-Italic", "validation"),
    "OGHAM": ("Ogham", "validation"),
    "LAO": ("Lao", "validation"),
    "CANADIAN": ("Canadian", "test"),
    "ARABIC": ("Arabic", "validation"),
    "HEBREW": ("Hebrew", "test"),
    "TIFINAGH": ("Tifinagh", "test"),
    "NKO": ("Nko", "validation"),
}
#: Splits in the order of their classes.
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
#: Correlation of two shapes above which the later character is dropped.
LOOKALIKE = 0.88
#: Faces in which shapes are compared; a character must be in the first.
REFERENCE_FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneralItalic")

_CATEGORIES = frozenset({"Lu", "Ll", "Lo", "Nd"})
_FONT_SIZE = 120
_SHAPE_SIDE = 32
_SHAPE_INK = 24
_SHAPE_BLUR = 1.5
_STRETCH = 1.4


class GlyphClass(NamedTuple):
    """A class: a character, its script as shown, such as ``"Greek"``, and its split."""

    char: str
    script: str
    split: SplitName

    @property
    def name(self) -> str:
        """Script, code point and the character's own name.

        >>> GlyphClass("α", "Greek", "train").name
        'Greek/U+03B1 GREEK SMALL LETTER ALPHA'
        """
        return f"{self.script}/U+{ord(self.char):04X} {unicodedata.name(self.char)}"


def font_folder() -> Path:
    """Return the folder of the fonts that ship with matplotlib, without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("matplotlib: not installed; its fonts are needed to draw the glyphs")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    if not folder.is_dir():  # some system packages keep the data elsewhere
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: matplotlib's fonts not found; reinstall matplotlib from its wheel")
    return folder


@functools.cache
def faces() -> dict[str, frozenset[int]]:
    """Return the code points drawn by each trusted face, by file stem, in alphabetical order."""
    from fontTools.ttLib import TTFont

    found: dict[str, frozenset[int]] = {}
    for path in sorted(font_folder().glob("*.ttf")):
        with TTFont(path, lazy=True) as font:
            table = font["cmap"].getcmap(3, 10)
            if table is not None:
                found[path.stem] = frozenset(code for code, glyph in table.cmap.items() if glyph != ".notdef")
    if missing := [name for name in REFERENCE_FACES if name not in found]:
        raise FileNotFoundError(f"{font_folder()}: fonts {', '.join(missing)} not found; reinstall matplotlib")
    return found


@functools.cache
def load_face(name: str) -> ImageFont.FreeTypeFont:
    """Load the face of a file stem at the size at which all glyphs are drawn."""
    path = font_folder() / f"{name}.ttf"
    return ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def draw(char: str, face: str) -> Image.Image | None:
    """Draw a character in a face, white on black, cropped to its ink; None if it has no ink."""
    font = load_face(face)
    left, top, right, bottom = (round(side) for side in font.getbbox(char))
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), char, fill=255, font=font)
    box = image.getbbox()
    return None if box is None else image.crop(box)


def candidates() -> list[GlyphClass]:
    """Return the characters that satisfy rule 2, in order of code points, including look-alikes."""
    found = []
    for code in sorted(faces()[REFERENCE_FACES[0]]):
        char = chr(code)
        word = re.split("[ -]", unicodedata.name(char, ""))[0]
        if word not in SCRIPTS or unicodedata.category(char) not in _CATEGORIES:
            continue
        if not unicodedata.decomposition(char).startswith("<") and draw(char, REFERENCE_FACES[0]) is not None:
            found.append(GlyphClass(char, *SCRIPTS[word]))
    return found


def shapes(chars: list[str], face: str) -> NDArray[np.float32]:
    """Return the shape of each character as defined by rule 3: centered, blurred, with zero mean and unit norm.

    The dot product of two rows, (C, 1024), is the correlation of their shapes. Rows of characters that the face lacks
    are zero.
    """
    rows = np.zeros((len(chars), _SHAPE_SIDE**2), dtype=np.float32)
    for row, char in zip(rows, chars, strict=True):
        ink = draw(char, face) if ord(char) in faces()[face] else None
        if ink is None:
            continue
        scale = _SHAPE_INK / max(ink.size)
        width, height = (min(_SHAPE_INK, max(1, round(side * scale * _STRETCH))) for side in ink.size)
        canvas = Image.new("L", (_SHAPE_SIDE, _SHAPE_SIDE))
        small = ink.resize((width, height), Image.Resampling.BOX)
        canvas.paste(small, ((_SHAPE_SIDE - width) // 2, (_SHAPE_SIDE - height) // 2))
        pixels = np.asarray(canvas.filter(ImageFilter.GaussianBlur(_SHAPE_BLUR)), dtype=np.float32).ravel()
        pixels -= pixels.mean()
        row[:] = pixels / np.linalg.norm(pixels)
    return rows


@functools.cache
def glyph_classes() -> tuple[GlyphClass, ...]:
    """Return the classes of the data set, ordered by split and then by code point."""
    pool = candidates()
    rows = [shapes([item.char for item in pool], face) for face in REFERENCE_FACES]
    lookalike = np.max([x @ x.T for x in rows], axis=0) > LOOKALIKE
    kept: list[int] = []
    for row, lookalikes in enumerate(lookalike):
        if not lookalikes[kept].any():
            kept.append(row)
    return tuple(sorted((pool[row] for row in kept), key=lambda item: (SPLITS.index(item.split), item.char)))
