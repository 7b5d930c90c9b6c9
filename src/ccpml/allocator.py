"""The allocator of the C library in a process that trains. Imports no library."""

import ctypes

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_MOST = 2**30


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks for the next step instead of returning them to the system.

    The activations of a step are as large as those of the step before, and the system would clear each page again. It
    changes no result. Return False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MOST)) & bool(mallopt(_TRIM_THRESHOLD, _MOST))
