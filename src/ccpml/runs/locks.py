"""Locks between processes that go with the process that holds them, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCKS_HOLD", "try_lock", "waiting_lock"]

LOCKS_HOLD = fcntl is not None
"""Whether there are such locks here; elsewhere each is given to whoever asks."""


def try_lock(path: Path) -> IO[str] | None:
    """Take a lock: to be kept open as long as it is held. It is not inherited by forked processes.

    Args:
        path: Its file.

    Returns:
        None if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    if LOCKS_HOLD:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
    return file


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if LOCKS_HOLD:
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
