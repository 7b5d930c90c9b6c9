"""Arrays as arguments."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["plain_array"]


def plain_array(name: str, values: Any, expected: str) -> NDArray[Any]:
    """Return values as an array of any type and shape.

    Args:
        name: Name of the argument, for messages.
        values: The values.
        expected: What they are, for messages.

    Raises:
        ValueError: If they are none of an array.

    Example:
        >>> plain_array("labels", [0, 1, 1], "integers").shape
        (3,)
        >>> plain_array("labels", [[0], [0, 1]], "integers")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: labels: expected integers, got list (setting an array element with a sequence...
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths; tensors that have no array
        raise ValueError(f"{name}: expected {expected}, got {type(values).__name__} ({error})") from None
