"""What precedes the import of large libraries: a line that says so, and a look at the memory that they may have."""

from typing import Final

from ccpml.numbers import size_text
from ccpml.progress import announce

__all__ = ["EMBEDDING", "READING", "announce_libraries"]

READING: Final = 250_000_000
EMBEDDING: Final = 500_000_000
_TRAINING: Final = 1_200_000_000
"""Bytes of address space with which the libraries load that read images, embed them with an ONNX file, and train."""


def announce_libraries(needed: int = _TRAINING) -> None:
    """Print that libraries are loaded, if their address space is not limited to less than they need.

    Libraries in C++ that cannot be mapped end the process, some by a segmentation fault, and no error can be caught.

    Raises:
        ValueError: If it is.
    """
    try:
        import resource
    except ImportError:  # on Windows
        limit = -1
    else:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < needed:
        raise ValueError(
            f"address space: expected at least {size_text(needed)} to load libraries, got {size_text(limit)}; allow "
            "more (ulimit -v)"
        )
    announce("loading libraries")
