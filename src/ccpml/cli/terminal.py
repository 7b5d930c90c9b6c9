"""The streams of the command line: closed ones, pipes that nobody reads, full disks, terminals without Unicode."""

import codecs
import os
import select
import sys
import unicodedata
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, Final, TextIO

__all__ = ["BROKEN_PIPE", "flush_streams", "is_broken_pipe", "prepare_streams", "prepare_warnings"]

BROKEN_PIPE: Final = 141
"""The exit code of a process that SIGPIPE ends, as of other tools."""

_ERRORS: Final = "standard error"

_ASCII: Final = {
    "−": "-",
    "–": "-",
    "…": "...",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "×": "x",
    "±": "+-",
    "⁺": "+",
    "⁻": "-",
}


class _Stream(FileIO):
    """The file of a stream, whose errors name it.

    What standard error cannot take, as its disk is full, is dropped: messages are no reason for the work to end. The
    exit code tells of it.
    """

    def __init__(self, number: int, title: str) -> None:
        super().__init__(number, "w", closefd=False)
        self.title, self.failed = title, False

    def write(self, data: Any) -> int:
        """Write bytes, and return how many were written or dropped."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename, self.failed = self.title, True
            if self.title != _ERRORS or isinstance(error, BrokenPipeError):
                raise
            return memoryview(data).nbytes


def prepare_warnings() -> None:
    """Print the warnings of ccpml as notes, without a line of its code, and leave out some of libraries."""
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged images, which our messages name
    warnings.filterwarnings("ignore", "tqdm:disabling monitor")  # as no thread can be started
    others = warnings.showwarning
    own = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120 -- pathlib delays the first output

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if not filename.startswith(own):
            return others(message, category, filename, lineno, file, line)
        from ccpml.progress import print_note

        return print_note(message)

    warnings.showwarning = show


def prepare_streams() -> None:
    """Make standard output and error usable: closed ones discard, and characters they lack are spelled in ASCII.

    File numbers 0 to 2 are taken if they are free, so that no file of the run gets one that libraries print to.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    codecs.register_error("ccpml.ascii", _spell)
    for name, number, title in (("stdout", 1, "standard output"), ("stderr", 2, _ERRORS)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when the interpreter started
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors="ccpml.ascii", closefd=False))
        elif isinstance(stream, TextIOWrapper):
            setattr(sys, name, _named(stream, title))


def _named(stream: TextIOWrapper, title: str) -> TextIOWrapper:
    """Return a stream like another, to the same file, whose errors name it."""
    stream.flush()
    file = _Stream(stream.fileno(), title)
    return TextIOWrapper(
        BufferedWriter(file) if isinstance(stream.buffer, BufferedWriter) else file,
        encoding=stream.encoding,
        errors="ccpml.ascii",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def is_broken_pipe() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def flush_streams(code: int) -> int:
    """Write what is still buffered; return the exit code: ``code``, or another if that fails or messages were lost."""
    for stream in (sys.stdout, sys.stderr):
        is_reported = code != 0 and _has_failed(stream)
        try:
            stream.flush()
        except OSError as error:
            code = BROKEN_PIPE if isinstance(error, BrokenPipeError) else code or 1
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # the interpreter would fail to write the rest at its end
            os.close(null)
            if code != BROKEN_PIPE and not is_reported:
                from ccpml.system_errors import advice

                print(f"ccpml: error: {error.filename}: {error.strerror}{advice(error)}", file=sys.stderr)
    return code or int(_has_failed(sys.stderr))


def _has_failed(stream: TextIO) -> bool:
    """Whether writing to a stream has failed before: the command ended with that error, or messages were dropped."""
    file = getattr(stream.buffer, "raw", stream.buffer)
    return isinstance(file, _Stream) and file.failed


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Spell the characters that an encoding lacks: the usual ones in ASCII, others by their code points."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.rpartition(" ")[2].lower().replace("lamda", "lambda")  # as Unicode spells it
    return _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()
