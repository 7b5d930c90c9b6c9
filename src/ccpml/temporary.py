"""Names of files and folders that are not complete yet."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["remove_leftovers", "temporary_path"]

_MAX_NAME: Final = 255
"""Bytes of a name on the usual file systems."""


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside a file or folder that is not complete yet; one of legal length if its own is."""
    ending = os.fsencode(f".{os.getpid()}.tmp{path.suffix}")[:50]
    return path.with_name(os.fsdecode(b"." + os.fsencode(path.stem)[: _MAX_NAME - 51] + ending))


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed have left under temporary names of a file or folder."""
    before, after = temporary_path(path).name.split(f".{os.getpid()}.tmp")
    pattern = re.compile(rf"{re.escape(before)}\.(\d+)\.tmp{re.escape(after)}", re.DOTALL)
    with suppress(OSError):  # a folder that cannot be read is named when it is written to
        for found in filter(None, (pattern.fullmatch(each.name) for each in path.parent.iterdir())):
            if _has_ended(int(found[1])):
                left = path.with_name(found[0])
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # it runs, or the number is none of a process
        pass
    return False
