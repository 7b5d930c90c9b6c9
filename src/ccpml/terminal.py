"""The streams of the command line: closed ones, pipes that nobody reads, full disks, terminals without Unicode."""

import codecs
import os
import select
import sys
import unicodedata
from io import TextIOWrapper
from typing import Final

__all__ = ["BROKEN_PIPE", "flush_streams", "is_broken_pipe", "prepare_streams"]

BROKEN_PIPE: Final = 141
"""The exit code of a process that SIGPIPE ends, as of other tools."""

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


def prepare_streams() -> None:
    """Make standard output and error usable: closed ones discard, and characters they lack are spelled in ASCII.

    File numbers 0 to 2 are taken if they are free, so that no file of the run gets one that libraries print to.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    codecs.register_error("ccpml.ascii", _spell)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # it was closed when the interpreter started
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="ccpml.ascii")


def is_broken_pipe() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def flush_streams(code: int) -> int:
    """Write what is still buffered; return the exit code: ``code``, or another if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            code = BROKEN_PIPE if isinstance(error, BrokenPipeError) else code or 1
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # the interpreter would fail to write the rest at its end
            os.close(null)
            if code != BROKEN_PIPE:
                from ccpml.files import advice

                print(f"ccpml: error: standard output: {error.strerror}{advice(error)}", file=sys.stderr)
    return code


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Spell the characters that an encoding lacks: the usual ones in ASCII, others by their code points."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.rpartition(" ")[2].lower().replace("lamda", "lambda")  # as Unicode spells it
    return _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()
