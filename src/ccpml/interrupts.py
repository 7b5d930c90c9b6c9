"""Ctrl-C at any moment, and the end of a parent process.

Imports no library, so that it holds while they load, and little else: until it is loaded, Python handles Ctrl-C.
"""

import atexit
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

__all__ = ["PARENT", "block_ctrl_c", "exit_at_ctrl_c", "exit_with_parent", "is_interrupted", "raise_at_ctrl_c"]

PARENT = "CCPML_PARENT"
"""Environment variable with the process id of the process that started this one."""

_interrupts: list[int] = []  # signals that raised KeyboardInterrupt


def is_interrupted() -> bool:
    """Whether KeyboardInterrupt was raised since `raise_at_ctrl_c`.

    An error that is raised afterwards may follow from it: libraries in C and Rust that call Python, such as
    safetensors, replace KeyboardInterrupt by an error of their own.
    """
    return bool(_interrupts)


def raise_at_ctrl_c() -> None:
    """Raise KeyboardInterrupt at Ctrl-C, or exit at once where nothing could catch it as such.

    That is while a module is imported, which libraries turn into errors of their own, and in destructors and
    callbacks, where Python would print a traceback and continue.
    """
    _interrupts.clear()
    # The interpreter gives signals back to the system as it ends; the last function that it calls ignores this one.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _raise_or_exit)
    sys.unraisablehook = _exit_if_interrupted
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def exit_at_ctrl_c() -> None:
    """Exit at once at Ctrl-C: the work is done, and the interpreter is about to end."""
    signal.signal(signal.SIGINT, _exit)


class block_ctrl_c:  # noqa: N801 -- a context manager; contextlib would delay the first line
    """Block SIGINT until the end of the block; in processes started within, until they call `raise_at_ctrl_c`."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(self, *error: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def exit_with_parent() -> None:
    """Send SIGTERM to this process once its parent has ended, so that no two processes train one run.

    The parent is the process of the environment variable `PARENT`, which may have ended before this one could look.
    """
    import threading

    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _raise_or_exit(number: int, frame: "FrameType | None") -> None:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _exit(number, frame)
        frame = frame.f_back
    _interrupts.append(number)
    raise KeyboardInterrupt


def _exit_if_interrupted(unraisable: "Any") -> None:
    """Exit if Ctrl-C came in a destructor; drop other errors there, which follow from one that is reported."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _exit(signal.SIGINT, None)


def _exit(number: int, frame: "FrameType | None") -> None:
    try:
        os.write(2, b"ccpml: interrupted\n")
    finally:
        os._exit(128 + number)
