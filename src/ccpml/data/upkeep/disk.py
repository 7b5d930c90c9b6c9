"""Room on a disk, and folders that one process at a time works in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["NoSpaceError", "only_one", "require_space", "size_text"]

_MARGIN = 16 * 2**20


class NoSpaceError(ValueError):
    """A disk has not the room that is needed."""


def size_text(count: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> size_text(1_150_585_339), size_text(512)
        ('1.2 GB', '512 bytes')
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} bytes"


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check that a disk has room, and a little over.

    Args:
        folder: An existing folder on it.
        needed: Number of bytes.
        what: What they are for, in words.

    Raises:
        NoSpaceError: If it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _MARGIN:
        raise NoSpaceError(
            f"{folder}: {what} needs {size_text(needed + _MARGIN)} and {size_text(free)} are free; make room there"
        )


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock that goes with the process, however it ends.

    Args:
        lock: Its file, in an existing folder; it stays there.
        what: What another process is at when it holds the lock, in words.

    Raises:
        ValueError: If another process holds it.
    """
    with lock.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise ValueError(f"{lock}: another process is {what}; wait for it, or end it") from None
            except OSError:
                pass  # a file system without locks
        yield
