"""Errors of the system: what can be done about them, and which say nothing about the file being read."""

import errno
import os
import re
from pathlib import Path
from typing import Final

from ccpml.artifacts import dead_link
from ccpml.interrupts import interruption
from ccpml.numbers import size_text

__all__ = [
    "REFUSED",
    "SHARED_MEMORY",
    "RefusedError",
    "WriteError",
    "advice",
    "check_writable",
    "in_words",
    "is_out_of_memory",
    "is_refused",
    "is_shortage",
    "is_writable",
    "message_of",
    "raise_shortage",
    "shortage_in_words",
    "unreadable",
]

REFUSED: Final = 3
"""Exit code of a process that the system refuses what any other would need too, such as space on a full disk."""

_NUMBERS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

_OUT_OF_MEMORY: Final = "out of memory"

_REFUSED: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
)

_MEMORY: Final = re.compile(
    r"can(?:'t|not) allocate memory|not enough memory|out of memory|bad_alloc|failed to allocate|unable to allocate"
    r"|failed to map segment"
    r"|could not (?:create|execute) a (?:primitive|memory object|memory)(?! desc)",
    re.I,
)
"""Words of the allocators of torch, oneDNN, safetensors, onnxruntime and the loader of libraries, without a class."""

_THREADS: Final = "can't start new thread"

SHARED_MEMORY: Final = re.compile(r"file </torch_\d+|Bus error|shared memory")
"""Words of torch where the memory that processes share is full."""

_OTHERS: Final = re.compile(f"Too many open files|{_THREADS}|{SHARED_MEMORY.pattern}", re.I)
"""Words of other shortages, whose errors have no number."""


_ADVICE: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose another folder, or change its permissions"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    errno.EAGAIN: "allow more processes (ulimit -u)",
    errno.ENOMEM: "free some memory, or allow more (ulimit -v)",
    errno.EIO: "check the disk",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "repair the links",
    errno.EISDIR: "remove this folder",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "remove the file that is in place of its folder"),
}


def advice(error: OSError) -> str:
    """Return what can be done about an error of the system, as the end of its sentence; empty if unknown."""
    known = _ADVICE.get(error.errno or 0)
    return f"; {known}" if known else ""


def unreadable(file: Path, error: OSError, way_out: str) -> str:
    """Return the sentence about a file that the system does not let this process read.

    Example:
        >>> unreadable(Path("a.bin"), PermissionError(13, "Permission denied"), "remove it")
        'a.bin: cannot be read (Permission denied); change its permissions'
        >>> unreadable(Path("a.bin"), OSError(5, "Input/output error"), "remove it")
        'a.bin: cannot be read (Input/output error); remove it'
    """
    way_out = "change its permissions" if isinstance(error, PermissionError) else way_out
    return f"{file}: cannot be read ({error.strerror or error}); {way_out}"


class RefusedError(RuntimeError):
    """Another process has ended with `REFUSED`."""


class WriteError(OSError):
    """A file cannot be written. Of what was there before, nothing is lost."""

    def __str__(self) -> str:
        if link := _link_to_nothing(self):
            why = f"as {link} links to nothing; restore what it links to, or remove it"
            return f"{self.filename}: cannot be written, {why}"
        refused = f"{self.filename}: cannot be written ({self.strerror})"
        return f"{in_words(self) if self.errno == errno.ENOMEM else refused}{advice(self)}"


def _link_to_nothing(error: OSError) -> Path | None:
    """Return the link, in the path of an error of the system, whose target is not there, such as a disk; if any."""
    if error.errno not in {errno.EEXIST, errno.ENOENT} or not isinstance(error.filename, str):
        return None
    return dead_link(Path(error.filename))


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder.

    Example:
        >>> is_writable(Path("/no/such")), is_writable(Path("/tmp"))
        (False, True)
    """
    effective = os.access in os.supports_effective_ids
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def check_writable(path: Path) -> None:
    """Check that a file or folder can be made at a path, before the work of which it is the result.

    Raises:
        WriteError: If the folder in which it would be made is none, is read-only, or may not be written.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if is_writable(folder):
        return
    is_read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
    number = errno.EROFS if is_read_only else errno.EACCES
    if not folder.is_dir():
        number = errno.ENOTDIR
    raise WriteError(number, os.strerror(number), str(path))


def in_words(error: OSError) -> str:
    """Return the file and the reason of an error of the system, without its number.

    Example:
        >>> in_words(PermissionError(13, "Permission denied", b"a.txt")), in_words(OSError(12, "No memory", "b.txt"))
        ('a.txt: Permission denied', 'b.txt: out of memory')
    """
    reason = _OUT_OF_MEMORY if error.errno == errno.ENOMEM else error.strerror
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"{'' if name is None else f'{name}: '}{reason}"


def message_of(error: BaseException) -> str:
    """Return the message of an error; that of the system without its number, and with what can be done about it.

    Example:
        >>> message_of(PermissionError(13, "Permission denied", "a.npz"))
        'a.npz: Permission denied; choose another folder, or change its permissions'
    """
    is_of_system = isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno")
    return f"{in_words(error)}{advice(error)}" if isinstance(error, OSError) and is_of_system else str(error)


def is_refused(error: BaseException) -> bool:
    """Whether the system refuses what any other work would need too, such as space on a full disk.

    Example:
        >>> is_refused(OSError(28, "No space left on device")), is_refused(FileExistsError(17, "File exists"))
        (True, False)
    """
    if isinstance(error, RefusedError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NUMBERS or error.errno in _REFUSED
    return not isinstance(error, ValueError) and _OTHERS.search(str(error)) is not None  # as libraries say it


def is_shortage(error: BaseException) -> bool:
    """Whether an error follows from too little memory, shared or not, open files, threads, or a module not imported.

    Example:
        >>> is_shortage(OSError(24, "Too many open files")), is_shortage(ValueError("wrong checksum"))
        (True, False)
    """
    if isinstance(error, MemoryError | ImportError):
        return True
    if isinstance(error, OSError):
        return error.errno in _NUMBERS
    words = str(error)
    return not isinstance(error, ValueError) and (_MEMORY.search(words) or _OTHERS.search(words)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator has refused memory, of Python or, by the words of its error, of a library.

    Example:
        >>> is_out_of_memory(RuntimeError("could not create a primitive")), is_out_of_memory(RuntimeError("bad shape"))
        (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    kind = type(error)
    is_of_library = kind in {RuntimeError, ImportError} or kind.__module__.startswith(("torch", "onnxruntime"))
    return is_of_library and _MEMORY.search(str(error)) is not None


def shortage_in_words(error: BaseException) -> str:
    """Return why memory or threads are refused, with the amount of memory if it is known; empty for other errors.

    Example:
        >>> shortage_in_words(RuntimeError("can't allocate memory: you tried to allocate 2500000 bytes"))
        'out of memory: an array of 2.5 MB does not fit'
    """
    text = str(error)
    if isinstance(error, RuntimeError) and _THREADS in text:
        return "no thread can be started; free some memory, or allow more processes (ulimit -u)"
    if not is_out_of_memory(error):
        return ""
    size = re.search(r"(?:tried|unable) to allocate ([\d.]+) ?(\w+)|of size (\d+)", text, re.I)
    if size is None:
        return _OUT_OF_MEMORY
    count, unit = size[1] or size[3], size[2] or "bytes"
    amount = size_text(int(float(count))) if unit == "bytes" else f"{count} {unit}"
    return f"{_OUT_OF_MEMORY}: an array of {amount} does not fit"


def raise_shortage(error: BaseException) -> None:
    """Raise an error again if it is a shortage of the process: the file is not to blame, and must not be removed.

    Raises:
        Interrupted: If Ctrl-C or another such signal came before, as the error may follow from that.
    """
    if interrupt := interruption():
        raise interrupt from error
    if is_shortage(error):
        raise error
