"""The look of all pictures: colors, sizes, fonts, and text that the font can show."""

import io
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ccpml.files import write_bytes
from ccpml.fonts import characters_of, fonts_for

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "PAPER",
    "RIGHT",
    "WHOLE",
    "WIDTH",
    "WRONG",
    "Layout",
    "Picture",
    "end_at",
    "legible",
    "shorten",
    "style",
    "two_lines",
]

WIDTH: Final = 10.0
"""Width of a picture in inches; the page shows 100 pixels per inch."""

_NARROW: Final = 4.0
"""Width of a picture for the screen of a phone."""

INK, MUTED, PAPER = "#1f2933", "#6b7680", "#ffffff"
WHOLE: Final[Any] = {"clip_on": False, "in_layout": False}
"""The look of marks that are whole at the end of an axis; not in the layout, as an empty line is at (0, 0)."""

RIGHT, WRONG = "#00825a", "#cc3311"
COLORS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc6fa4", "#d55e00", "#56b4e9")
"""The palette of Okabe and Ito, which color-blind readers can distinguish."""

_DPI: Final = 144
_SETTINGS: Final[Any] = {  # Any, as the type that matplotlib declares differs by version
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Segoe UI", "Helvetica Neue", "Arial"],
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
    "svg.fonttype": "none",  # text stays text, in the fonts of whoever looks at it
    "svg.hashsalt": "ccpml",  # the same picture is the same file
}


@contextmanager
def style(texts: Iterable[str] = ()) -> Iterator[None]:
    """Draw in the style of the report, independent of the user's matplotlib settings.

    Characters of ``texts`` that its font lacks are drawn in other fonts of the system, if any has them.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        mpl.rcParams["font.family"] = fonts_for(texts, "sans-serif")
        yield


@dataclass(frozen=True)
class Layout:
    """What a picture is drawn for: the width of the figure in inches, and whether a browser shows its text."""

    width: float = WIDTH
    in_browser: bool = False

    @property
    def is_narrow(self) -> bool:
        """Whether it is for the screen of a phone, where panels are below each other."""
        return self.width < WIDTH

    def text(self, name: str) -> str:
        """Return a name as it can be shown: a browser has fonts for most characters."""
        return "".join(c if c.isprintable() else "�" for c in name) if self.in_browser else legible(name)


@dataclass(frozen=True)
class Picture:
    """A rendered picture."""

    name: str
    alt: str
    png: bytes
    width: int  # on the page, in pixels
    height: int
    svg: bytes = b""  # the same for the page, where it is shown as such
    narrow: bytes = b""  # and for the screen of a phone

    @classmethod
    def of(cls, figure: Figure, name: str, alt: str) -> "Picture":
        """Render a figure for a file ``<name>.png``; ``alt`` says what it shows, for readers who cannot see it."""
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        width, height = (round(100 * inches) for inches in figure.get_size_inches())
        return cls(name, alt, buffer.getvalue(), width, height)

    @classmethod
    def in_layouts(cls, draw: Callable[[Layout], Figure], name: str, alt: str) -> "Picture":
        """Render a figure as a file, and for the page, for wide and narrow screens."""
        picture = cls.of(draw(Layout()), name, alt)
        wide, narrow = (_svg(draw, Layout(width, in_browser=True)) for width in (WIDTH, _NARROW))
        return replace(picture, svg=wide, narrow=narrow)

    def write(self, folder: Path) -> Path:
        """Write the file into a folder, and return its path."""
        write_bytes(folder / self.name, self.png, sync=False)
        return folder / self.name


def _svg(draw: Callable[[Layout], Figure], layout: Layout) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has another font
        figure = draw(layout)
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def end_at(limit: float, low: float, high: float) -> tuple[float, float]:
    """Return the limits of an axis of scores, which are between 0 and ``limit``.

    Example:
        >>> end_at(1.0, -0.05, 1.05)
        (0.0, 1.0)
    """
    return max(low, 0.0), min(high, limit)


def legible(text: str) -> str:
    """Replace characters that the fonts lack or that cannot be printed by their code points, ``U+4E2D``."""
    known = characters_of(tuple(mpl.rcParams["font.family"]))
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
