"""Numbers of NumPy and PyTorch, and lists, as arguments, and numbers in texts. Imports neither library."""

import math
import operator
import os
from collections.abc import Container
from typing import Any

__all__ = [
    "as_int",
    "as_tuple",
    "check_flags",
    "counted",
    "is_finite",
    "is_one_of",
    "plain_number",
    "size_text",
]


def as_int(name: str, value: Any, least: int | None = None) -> int:
    """Return an integer of any library as Python's own.

    Args:
        name: Name of the argument, for messages.
        value: The integer.
        least: Smallest valid value, if any.

    Raises:
        ValueError: If it is no integer, or too small.

    Example:
        >>> import numpy as np
        >>> as_int("k", np.int64(3), least=1)
        3
    """
    bound = "" if least is None else f" of at least {least}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise ValueError(f"{name}: expected an integer{bound}, got {value!r}")
    return number


def as_tuple(name: str, values: Any, expected: str) -> tuple[Any, ...]:
    """Return several values as a tuple; a text or a path is one, and not its characters.

    Args:
        name: Name of the argument, for messages.
        values: The values.
        expected: What they are, for messages.

    Raises:
        ValueError: If they are one value, or none of which there can be several.

    Example:
        >>> as_tuple("names", ["a", "b"], "several names")
        ('a', 'b')
        >>> as_tuple("names", "ab", "several names")
        Traceback (most recent call last):
        ValueError: names: expected several names, got ab alone; pass a list
    """
    if isinstance(values, str | bytes | os.PathLike):
        raise ValueError(f"{name}: expected {expected}, got {os.fspath(values)!s} alone; pass a list")
    try:
        return tuple(values)
    except TypeError:
        raise ValueError(f"{name}: expected {expected}, got {values!r}; pass a list") from None


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number of any library; no text, no truth value, and none beyond float64.

    Example:
        >>> is_finite(1), is_finite("1"), is_finite(float("nan")), is_finite(10**400)
        (True, False, False, False)
    """
    try:
        return not isinstance(value, bool | str) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # no number, or several
        return False


def is_one_of(value: Any, choices: Container[Any]) -> bool:
    """Whether a value is one of some texts, or None if that is one of them; arrays and lists are none.

    Example:
        >>> is_one_of("raw", ("raw", "lipschitz")), is_one_of(["raw"], ("raw", "lipschitz")), is_one_of(None, (None,))
        (True, False, True)
    """
    return (value is None or isinstance(value, str)) and value in choices


def plain_number(value: Any) -> Any:
    """Return a scalar of NumPy as Python's own, which YAML and JSON can write; any other value as it is.

    Example:
        >>> import numpy as np
        >>> plain_number(np.float64(0.5)), plain_number("auto")
        (0.5, 'auto')
    """
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


def check_flags(**flags: object) -> None:
    """Check that arguments are truth values of any library, or 0 or 1: a text is true, whatever it says.

    Raises:
        ValueError: If one is not; the message names it.

    Example:
        >>> check_flags(bias=True, freeze_batchnorm=0)
        >>> check_flags(bias="no")
        Traceback (most recent call last):
        ValueError: bias: expected True or False, got 'no'
    """
    for name, value in flags.items():
        plain = plain_number(value)
        if not (isinstance(plain, bool) or (type(plain) is int and plain in {0, 1})):
            raise ValueError(f"{name}: expected True or False, got {value!r}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which is in the plural unless the number is 1.

    Example:
        >>> counted(1, "class"), counted(1000, "query"), counted(0, "readable image"), counted(2, "day")
        ('1 class', '1,000 queries', '0 readable images', '2 days')
    """
    if number != 1:
        if noun.endswith("y") and noun[-2] not in "aeiou":
            noun = f"{noun[:-1]}ies"
        else:
            noun += "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number:,} {noun}"


def size_text(count: int) -> str:
    """Format a number of bytes.

    Example:
        >>> size_text(1_150_585_339), size_text(512)
        ('1.2 GB', '512 bytes')
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} bytes"
