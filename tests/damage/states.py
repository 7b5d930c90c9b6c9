"""States of damage of files and folders, and a process that permissions bind, root too."""

import contextlib
import ctypes
import os
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_STATES = (
    *("missing", "empty", "cut", "flipped", "digit", "foreign", "swapped", "folder", "newer", "unreadable", "dangling"),
)
"""Digit is a flipped bit that makes a digit of a text another, foreign the content of a file of another kind, swapped
that of another file of the same kind, newer the format of a later version, dangling a link to nothing."""

FOLDER_STATES = ("missing", "empty", "file", "unreadable", "read-only", "dangling")
"""States of folders; file is a file in place of the folder."""

SEEN_IN_LISTINGS = {"missing", "folder", "file", "dangling"}
"""States that a verb can see without a look at the file itself, in a list of its folder."""

_PERMISSIONS = {"unreadable": 0o000, "read-only": 0o555}
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_CAPABILITIES_V3 = 0x20080522


def damage(path: Path, state: str, others: dict[str, bytes], chance: random.Random) -> bool:
    """Damage a file or a folder; return False if it has no such state.

    Args:
        path: The file or the folder.
        state: The state; permissions are set too.
        others: The names and contents of all files, of which another may take its place.
        chance: Where a file is cut, and which bit is flipped.
    """
    if state in _PERMISSIONS:
        path.chmod(_PERMISSIONS[state])
    elif path.is_dir():
        shutil.rmtree(path)
        if state == "empty":
            path.mkdir()
        elif state == "file":
            path.write_bytes(b"not a folder\n")
    elif state in {"missing", "folder", "dangling"}:
        path.unlink()
        if state == "folder":
            path.mkdir()
    else:
        content = _damaged(path, state, others, chance)
        if content is None:
            return False
        path.write_bytes(content)
    if state == "dangling":
        path.symlink_to(path.with_name(".nothing"))
    return True


def _damaged(file: Path, state: str, others: dict[str, bytes], chance: random.Random) -> bytes | None:
    """Return the content of a damaged file; None if it has no such state."""
    whole = file.read_bytes()
    if state == "newer":
        found = re.search(rb'^("?version"?: |\{"version": )(\d+)', whole, re.M)
        return found and whole[: found.start(2)] + b"%d" % (int(found[2]) + 1) + whole[found.end(2) :]
    if state == "empty":
        return b"" if whole else None
    if state == "foreign":
        return next(content for name, content in others.items() if Path(name).suffix != file.suffix and content)
    if state == "swapped":
        same = [content for name, content in others.items() if Path(name).name == file.name]
        alike = [content for name, content in others.items() if Path(name).suffix == file.suffix]
        different = [content for content in same or alike if content != whole] or [c for c in alike if c != whole]
        return chance.choice(different) if different else None
    if state == "digit":
        return _with_other_digit(whole, chance)
    if state == "cut":
        return whole[: chance.randrange(1, len(whole))] if len(whole) > 1 else None
    if not whole:
        return None
    flipped = bytearray(whole)
    flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _with_other_digit(whole: bytes, chance: random.Random) -> bytes | None:
    """Return a text with one digit changed by one bit, as 4 to 5; None if it is no text, or has no digit."""
    try:
        whole.decode()
    except UnicodeDecodeError:
        return None
    places = [found.start() for found in re.finditer(rb"\d", whole)]
    if not places:
        return None
    changed = bytearray(whole)
    changed[chance.choice(places)] ^= 1
    return bytes(changed)


@contextlib.contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Let permissions bind this thread, and those that it starts, also if it is root's.

    Raises:
        OSError: If root's rights cannot be put down, as on another system than Linux.
    """
    if os.name == "nt" or os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        raise OSError("root reads every file here; run as another user")
    before = _capabilities()
    lower = before[0] & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    _set_capabilities([lower, *before[1:]])
    try:
        yield
    finally:
        _set_capabilities(before)


def _capabilities() -> list[int]:
    """Return the words of the capabilities: effective, permitted, inheritable, of 32 each, and the higher ones."""
    header, data = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    _call("capget", header, data)
    return list(data)


def _set_capabilities(words: list[int]) -> None:
    _call("capset", (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)(*words))


def _call(name: str, header: "ctypes.Array[ctypes.c_uint32]", data: "ctypes.Array[ctypes.c_uint32]") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(header, data):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
