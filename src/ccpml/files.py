"""Files that are whole or not there: written under a temporary name, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["write_arrays", "write_json", "write_text", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under a temporary name beside ``path``, and rename it when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")  # numpy insists on the suffix
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; what file names hold of other bytes is written as escapes."""
    write_whole(path, lambda to: to.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON as people read it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, **arrays: npt.ArrayLike) -> None:
    """Write arrays to an .npz file that loads without pickle.

    Raises:
        ValueError: If one holds objects, which only pickle could write.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:
            raise ValueError(f"{path}: {name} holds objects, not numbers or text")
    write_whole(path, lambda to: np.savez(to, **plain))  # type: ignore[arg-type]  # a name may not be allow_pickle
