"""Progress bars on standard error: lively on a terminal, a line now and then in a log."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar", "progress_to"]


def progress_bar(
    total: int,
    unit: str,
    description: str = "",
    *,
    over: Iterable[Any] | None = None,
    initial: int = 0,
    shown: bool = True,
) -> "tqdm[Any]":
    """Make a bar with rate and time left.

    Args:
        total: How much there is to do.
        unit: Of what.
        description: What is being done.
        over: What to iterate over, if the bar shall count by itself.
        initial: How much of it was done before.
        shown: False makes a bar that shows nothing.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        over,
        total=total,
        unit=unit,
        desc=description or None,
        initial=initial,
        disable=not shown,
        mininterval=0.1 if terminal else 10.0,
        maxinterval=10.0 if terminal else 60.0,
        ncols=None if terminal else 120,
    )


def progress_to(bar: "tqdm[Any]") -> Callable[[int, int], None]:
    """Make what moves a bar, called with how much is done and how much there is to do."""

    def move(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return move
