"""Signals that end the process, at any moment, and the end of a parent process.

Imports no library, so that it holds while they load, and little else: until it is loaded, Python handles Ctrl-C.
"""

import atexit
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = [
    "PARENT",
    "Interrupted",
    "advise_at_exit",
    "block_signals",
    "continue_at_end_of_parent",
    "ending_signals",
    "exit_at_signals",
    "exit_code",
    "exit_with_parent",
    "interruption",
    "raise_at_signals",
    "raise_interrupted",
]

PARENT = "CCPML_PARENT"
"""Environment variable with the process id of the process that started this one."""

_OF_TERMINAL = {signal.SIGINT, signal.SIGHUP}

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, on Linux

_interrupts: list[int] = []  # signals that raised Interrupted
_advice: "list[Callable[[], str]]" = []  # what is printed where a signal exits at once


class Interrupted(KeyboardInterrupt):
    """The process was interrupted by the signal ``number``: by Ctrl-C, SIGTERM, or SIGHUP, the end of its terminal.

    Example:
        >>> str(Interrupted(signal.SIGINT)), str(Interrupted(signal.SIGHUP))
        ('interrupted', 'interrupted by SIGHUP')
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else f"interrupted by {signal.Signals(self.number).name}"


def exit_code(interrupt: BaseException) -> int:
    """Return the exit code of a process that an interrupt has ended, as of the shell."""
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


def interruption() -> "Interrupted | None":
    """Return the interrupt that was raised since `raise_at_signals`, if any.

    An error that is raised afterwards may follow from it: libraries in C and Rust that call Python, such as
    safetensors, replace KeyboardInterrupt by an error of their own.
    """
    return Interrupted(_interrupts[-1]) if _interrupts else None


def ending_signals() -> "list[signal.Signals]":
    """Return the signals that end this process, without those that it was started to ignore, as by nohup."""
    others = (signal.SIGTERM, signal.SIGHUP)
    return [signal.SIGINT, *(one for one in others if signal.getsignal(one) is not signal.SIG_IGN)]


def raise_at_signals() -> None:
    """Raise `Interrupted` at Ctrl-C, SIGTERM and SIGHUP, or exit at once where nothing could catch it as such.

    That is while a module is imported, which libraries turn into errors of their own, and in destructors and
    callbacks, where Python would print a traceback and continue.
    """
    _interrupts.clear()
    _advice.clear()
    for one in ending_signals():
        # The interpreter gives signals back to the system as it ends; the last functions that it calls ignore these.
        atexit.register(signal.signal, one, signal.SIG_IGN)
        signal.signal(one, raise_interrupted)
    sys.unraisablehook = _exit_if_interrupted
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_TERMINAL)


def advise_at_exit(text: "Callable[[], str]") -> None:
    """Print a text too where a signal exits at once, as while a module is imported: how to resume; empty for none."""
    _advice[:] = [text]


def exit_at_signals() -> None:
    """Exit at once at these signals: the work is done, and the interpreter is about to end."""
    _advice.clear()
    for one in ending_signals():
        signal.signal(one, _exit)


class block_signals:  # noqa: N801 -- a context manager; contextlib would delay the first line
    """Block the signals of a terminal to all its processes, SIGINT and SIGHUP, until the end of the block.

    In processes that are started within, they are blocked until `raise_at_signals` is called. Another thread may take a
    signal, as that of a notebook; its handler, which Python runs in the main thread, is called at the end of the block.
    """

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINAL)
        self._noted, self._handlers = list[int](), dict[int, "Callable[[int, FrameType | None], Any]"]()
        for one in _OF_TERMINAL:
            handler = signal.getsignal(one)
            if callable(handler):
                try:
                    signal.signal(one, self._note)
                except ValueError:  # this is not the main thread
                    return
                self._handlers[one] = handler

    def __exit__(self, *error: object) -> None:
        try:
            for one, handler in self._handlers.items():
                signal.signal(one, handler)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
        for number in self._noted:
            signal.raise_signal(number)

    def _note(self, number: int, frame: "FrameType | None") -> None:
        self._noted.append(number)


def continue_at_end_of_parent() -> None:
    """Continue this process if it is stopped when its parent ends: it could not end by itself then.

    Other systems than Linux cannot do so.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGCONT), 0, 0, 0)


def exit_with_parent() -> None:
    """Send SIGTERM to this process once its parent has ended, so that no two processes train one run.

    The parent is the process of the environment variable `PARENT`, which may have ended before this one could look.
    """
    import threading

    continue_at_end_of_parent()
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def raise_interrupted(number: int, frame: "FrameType | None") -> None:
    """Raise `Interrupted`, or exit while a module is imported: the handler of a signal."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _exit(number, frame)
        frame = frame.f_back
    _interrupts.append(number)
    if number == signal.SIGHUP:  # the system and the shell may both send it
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted(number)


def _exit_if_interrupted(unraisable: "Any") -> None:
    """Exit if a signal came in a destructor; drop other errors there, which follow from one that is reported."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _exit(exit_code(unraisable.exc_value) - 128, None)


def _exit(number: int, frame: "FrameType | None") -> None:
    try:
        parts = [str(Interrupted(number)), *(text() for text in _advice)]
        os.write(2, f"ccpml: {'; '.join(filter(None, parts))}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(128 + number)
