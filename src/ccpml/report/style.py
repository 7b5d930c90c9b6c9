"""How pictures look: one palette, one set of sizes, and names that any font can show."""

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

from ccpml.files import write_whole

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
"""Width of a picture in inches; the page shows it about 1,000 pixels wide."""

INK, MUTED, PAPER = "#1f2933", "#6b7680", "#ffffff"
RIGHT, WRONG = "#00825a", "#cc3311"
COLORS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc6fa4", "#d55e00", "#56b4e9")
"""Okabe and Ito's colors, which color-blind readers tell apart."""

_DPI: Final = 144
_SETTINGS: Final[Any] = {  # matplotlib's own type of these names differs by version
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
    """Draw in this package's style, whatever the user's own settings of matplotlib are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        name: Its file's name.
        alt: What it shows, for those who cannot see it.
        png: The file.
        width: In pixels of the page.
        height: In pixels of the page.
    """

    name: str
    alt: str
    png: bytes
    width: int
    height: int

    @classmethod
    def of(cls, figure: Figure, name: str, alt: str) -> "Picture":
        """Render a figure."""
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        width, height = (round(100 * inches) for inches in figure.get_size_inches())
        return cls(name, alt, buffer.getvalue(), width, height)

    def write(self, folder: Path) -> None:
        """Write the file into a folder, whole."""
        write_whole(folder / self.name, lambda to: to.write_bytes(self.png))


def legible(text: str) -> str:
    """Write what the pictures' font lacks, and what cannot be printed, by its code point: ``U+4E2D``."""
    known = _characters()
    return "".join(c if ord(c) in known and _prints(c) else f"U+{ord(c):04X}" for c in text)


def two_lines(name: str, width: int) -> str:
    """Fit a class's name in two lines, broken after a slash, a space or a hyphen if one is there; cut what is over."""
    text = legible(name)
    if len(text) <= width:
        return text
    cut = max(text.rfind(c, 1, width) for c in "/ _-") + 1 or width
    first, second = text[:cut].rstrip(), text[cut:].lstrip()
    return f"{first}\n{shorten(second, width)}"


def shorten(text: str, width: int) -> str:
    """Cut a legible text at a width."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _prints(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
