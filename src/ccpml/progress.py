"""Progress on standard error: lines that say what is done, and bars, updated every ten seconds in a log."""

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from tqdm import tqdm

__all__ = ["PATIENCE", "announce", "print_note", "print_once", "printable", "progress_bar", "progress_to"]

PATIENCE: Final = 2.0
"""Seconds after which work that is mostly short shows its progress."""

_printed = set[str]()


def announce(what: str) -> None:
    """Print what is being done, before work that may take long in silence."""
    print(f"{printable(what)} ...", file=sys.stderr, flush=True)


def print_note(text: object) -> None:
    """Print a note on standard error, as one line: names of files and classes may hold control characters."""
    print(f"note: {printable(str(text))}", file=sys.stderr)


def print_once(text: str) -> None:
    """Print a line on standard error, unless this process has: each trial of a search reads the same images."""
    if text not in _printed:
        _printed.add(text)
        print(text, file=sys.stderr)


def progress_bar(
    total: int | None,
    unit: str,
    description: str = "",
    *,
    over: Iterable[Any] | None = None,
    initial: int = 0,
    shown: bool = True,
    delay: float = 0.0,
) -> "tqdm[Any]":
    """Return a progress bar with rate and remaining time.

    Around an iterable, ``over``, it advances with each item. ``initial`` is the number of steps done before. Without a
    total, it shows the number of steps and the rate.
    Work that ends within ``delay`` seconds shows nothing.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(
        over,
        total=total,
        unit=unit,
        desc=description or None,
        initial=initial,
        disable=not shown,
        delay=delay,
        mininterval=0.1 if terminal else 10.0,
        maxinterval=10.0 if terminal else 60.0,
        ncols=None if terminal else 120,
    )


def progress_to(bar: "tqdm[Any]") -> Callable[[int, int], None]:
    """Return a function that sets a bar to the given number of steps done and total."""

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return update


def printable(text: str) -> str:
    r"""Escape what file names may hold: control characters, which a terminal would obey, and bytes that are no text.

    Example:
        >>> printable("a\nb.png")
        'a\\nb.png'
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: repr(found[0])[1:-1], text)
