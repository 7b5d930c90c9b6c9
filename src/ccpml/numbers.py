"""Numbers of NumPy and PyTorch as arguments: an integer of any library is an integer. Imports neither."""

import math
import operator
from typing import Any

__all__ = ["as_int", "is_finite", "plain_number"]


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


def plain_number(value: Any) -> Any:
    """Return a scalar of NumPy as Python's own, which YAML and JSON can write; any other value as it is.

    Example:
        >>> import numpy as np
        >>> plain_number(np.float64(0.5)), plain_number("auto")
        (0.5, 'auto')
    """
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value
