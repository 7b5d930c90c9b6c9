"""Fonts of the system for characters that the first font lacks."""

from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

__all__ = ["characters_of", "font_file", "fonts_for"]


def fonts_for(texts: Iterable[str], first: str) -> list[str]:
    """Return the families of fonts in which texts can be written: the first, and others that have what it lacks.

    Characters that no font of the system has are left out.

    Example:
        >>> fonts_for(["mug", "größe"], "DejaVu Sans")
        ['DejaVu Sans']
    """
    missing = {ord(c) for c in set().union(*texts) if c.isprintable()} - characters_of((first,))
    found = [first]
    for entry in fontManager.ttflist:
        if not missing:
            break
        is_plain = (entry.style, entry.weight, entry.stretch) == ("normal", 400, "normal")
        if not is_plain or any(word in entry.name for word in ("Last Resort", "LastResort", "Color", "Emoji")):
            continue  # of which the first draw boxes, and the others are pictures
        try:
            has = missing.intersection(get_font(entry.fname).get_charmap())
        except (OSError, RuntimeError):
            continue
        if has:
            found.append(entry.name)
            missing -= has
    return found


@cache
def characters_of(families: tuple[str, ...]) -> frozenset[int]:
    """Return the code points that some families of fonts have."""
    return frozenset().union(*(get_font(font_file(family)).get_charmap() for family in families))


def font_file(family: str, weight: str = "normal") -> str:
    """Return the file of a family of fonts."""
    return str(findfont(FontProperties(family=[family], weight=weight)))
