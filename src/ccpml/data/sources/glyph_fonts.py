"""Which characters become classes of the embedded data set, and which split each belongs to.

The rules, in the order in which they are applied:

1. **Faces.** Of the fonts that ship with matplotlib, those with a full-repertoire Unicode character map
   (platform 3, encoding 10). That keeps DejaVu Sans, Sans Mono, Serif and STIX General in their weights and
   slants, and leaves out every face whose codes cannot be trusted or whose glyphs are not letters: the
   BaKoMa ``cm*`` fonts, STIX NonUni and Size, the Display faces, and Last Resort.
2. **Characters.** Letters and decimal digits (Unicode categories Lu, Ll, Lo, Nd) of the scripts in
   :data:`SCRIPTS`, drawn with ink by the reference face, DejaVu Sans, and without a Unicode compatibility
   decomposition: ligatures, presentation forms and styled letters are other characters over again. Accented
   letters may stay. The script is the first word of the character's Unicode name.
3. **Look-alikes.** Going up in code points, a character is dropped when its shape in any of the reference
   faces correlates above :data:`LOOKALIKE` with that of a character already kept, of whatever script. Shapes
   are cropped to their ink, scaled with their aspect ratio kept, and then the shorter side is widened by up
   to 1.4, so that O and 0, or 3 and З, count as one shape, and l and — as two. Hence no class of one split
   looks like a class of another.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

#: First word of the Unicode name → (script as shown, split). Whole scripts go to one split.
SCRIPTS: dict[str, tuple[str, str]] = {
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
SPLITS = ("train", "validation", "test")
#: Correlation of two shapes above which the later character is dropped.
LOOKALIKE = 0.88
#: Faces in which shapes are compared; the first must hold the character.
REFERENCE_FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneralItalic")

_CATEGORIES = frozenset({"Lu", "Ll", "Lo", "Nd"})
_FONT_SIZE = 120
_SHAPE_SIDE = 32
_SHAPE_INK = 24
_SHAPE_BLUR = 1.5
_STRETCH = 1.4


@dataclass(frozen=True)
class GlyphClass:
    """One class: a character, its script, its split.

    Attributes:
        char: The character itself.
        script: Script as shown, such as ``"Greek"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
    """

    char: str
    script: str
    split: str

    @property
    def name(self) -> str:
        """Script, code point and the character's own name.

        >>> GlyphClass("α", "Greek", "train").name
        'Greek/U+03B1 GREEK SMALL LETTER ALPHA'
        """
        return f"{self.script}/U+{ord(self.char):04X} {unicodedata.name(self.char)}"


def font_folder() -> Path:
    """Folder of the fonts that ship with matplotlib, found without importing matplotlib.

    Raises:
        FileNotFoundError: matplotlib is not installed, or came without its fonts.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the glyphs are drawn from matplotlib's fonts, and matplotlib is not installed")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    if not folder.is_dir():  # some system packages keep the data elsewhere
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    if not folder.is_dir():
        raise FileNotFoundError(f"matplotlib's fonts are not at {folder}; reinstall matplotlib from its wheel")
    return folder


@functools.cache
def faces() -> dict[str, frozenset[int]]:
    """Code points that each trusted face draws, by the face's file stem, in alphabetical order.

    Raises:
        FileNotFoundError: No fonts, or the reference faces are not among them.
    """
    from fontTools.ttLib import TTFont

    found: dict[str, frozenset[int]] = {}
    for path in sorted(font_folder().glob("*.ttf")):
        with TTFont(path, lazy=True) as font:
            table = font["cmap"].getcmap(3, 10)
            if table is not None:
                found[path.stem] = frozenset(code for code, glyph in table.cmap.items() if glyph != ".notdef")
    if missing := [name for name in REFERENCE_FACES if name not in found]:
        raise FileNotFoundError(f"{', '.join(missing)} not among matplotlib's fonts in {font_folder()}")
    return found


@functools.cache
def load_face(name: str) -> ImageFont.FreeTypeFont:
    """Face of that file stem at the size at which all glyphs are drawn."""
    path = font_folder() / f"{name}.ttf"
    return ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def draw(char: str, face: str) -> Image.Image | None:
    """Character in the face, white on black, cropped to its ink; None where there is none."""
    font = load_face(face)
    left, top, right, bottom = (round(side) for side in font.getbbox(char))
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), char, fill=255, font=font)
    box = image.getbbox()
    return None if box is None else image.crop(box)


def candidates() -> list[GlyphClass]:
    """Characters that may become classes (rule 2), in order of code points; look-alikes still among them."""
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
    """Shape of each character as rule 3 has it, centred, blurred, of zero mean and unit norm.

    Args:
        chars: C characters.
        face: File stem of the face.

    Returns:
        Array of shape (C, 1024); the dot product of two rows is the correlation of their shapes. Rows of
        characters that the face lacks are zero.
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


def similarities(chars: list[str]) -> NDArray[np.float32]:
    """Largest correlation of each pair of characters over the reference faces, shape (C, C)."""
    best = np.full((len(chars), len(chars)), -1.0, dtype=np.float32)
    for face in REFERENCE_FACES:
        rows = shapes(chars, face)
        np.maximum(best, rows @ rows.T, out=best)
    return best


def first_of_lookalikes(similar: NDArray[np.float32], threshold: float) -> list[int]:
    """Rows kept when, going down, each is dropped that is like one already kept.

    >>> first_of_lookalikes(np.array([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]], dtype=np.float32), 0.8)
    [0, 2]
    """
    kept: list[int] = []
    for row, alike in enumerate(similar > threshold):
        if not alike[kept].any():
            kept.append(row)
    return kept


@functools.cache
def glyph_classes() -> tuple[GlyphClass, ...]:
    """Classes of the data set: by split, then by code point."""
    pool = candidates()
    kept = first_of_lookalikes(similarities([item.char for item in pool]), LOOKALIKE)
    return tuple(sorted((pool[row] for row in kept), key=lambda item: (SPLITS.index(item.split), item.char)))
