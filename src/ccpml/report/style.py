"""The look of all pictures: colors, sizes, fonts, and text that the font can show."""

import io
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from ccpml.files import write_bytes

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "PAPER",
    "RIGHT",
    "WIDTH",
    "WRONG",
    "Picture",
    "legible",
    "shorten",
    "style",
    "two_lines",
]

WIDTH: Final = 10.0
"""Width of a picture in inches; the page shows 100 pixels per inch."""

INK, MUTED, PAPER = "#1f2933", "#6b7680", "#ffffff"
RIGHT, WRONG = "#00825a", "#cc3311"
COLORS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc6fa4", "#d55e00", "#56b4e9")
"""The palette of Okabe and Ito, which color-blind readers can distinguish."""

_DPI: Final = 144
_SETTINGS: Final[Any] = {  # Any, as the type that matplotlib declares differs by version
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.edgecolor": "#c5ccd3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecef",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "axes.titlecolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report, independent of the user's matplotlib settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


@dataclass(frozen=True)
class Picture:
    """A rendered picture."""

    name: str
    alt: str
    png: bytes
    width: int  # on the page, in pixels
    height: int

    @classmethod
    def of(cls, figure: Figure, name: str, alt: str) -> "Picture":
        """Render a figure for a file ``<name>.png``; ``alt`` says what it shows, for readers who cannot see it."""
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        width, height = (round(100 * inches) for inches in figure.get_size_inches())
        return cls(name, alt, buffer.getvalue(), width, height)

    def write(self, folder: Path) -> Path:
        """Write the file into a folder, and return its path."""
        write_bytes(folder / self.name, self.png, sync=False)
        return folder / self.name


def legible(text: str) -> str:
    """Replace characters that the font lacks or that cannot be printed by their code points, ``U+4E2D``."""
    known = _characters()
    shown = {c for c in text if ord(c) in known and (c == " " or unicodedata.category(c)[0] not in "CZ")}
    return "".join(c if c in shown else f"U+{ord(c):04X}" for c in text)


def two_lines(name: str, width: int) -> str:
    r"""Return the legible name of a class, cut to two lines, broken after a slash, space or hyphen if there is one.

    Example:
        >>> two_lines("scripts/Korean/character01", 12)
        'Korean/\ncharacter01'
    """
    text = shorten(legible(name), 2 * width)
    if len(text) <= width:
        return text
    cut = max(text.rfind(c, 1, width) for c in "/ _-") + 1 or width
    first, second = text[:cut].rstrip(), text[cut:].lstrip()
    return f"{first}\n{shorten(second, width)}"


def shorten(text: str, width: int) -> str:
    """Cut a legible text to a width: first the leading folders of a path, then the end.

    Example:
        >>> shorten("scripts/Korean/character01", 20), shorten("Black-footed albatross", 12)
        ('Korean/character01', 'Black-foote…')
    """
    while len(text) > width and "/" in text.rstrip("/"):
        text = text.partition("/")[2]
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
