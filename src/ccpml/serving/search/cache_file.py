"""Files of structures that can be computed again: complete and of the present rows, or ignored."""

import json
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from ccpml.files import write_bytes
from ccpml.serving.storage.view import View

__all__ = ["CacheFile", "read_cache", "write_cache"]

_SAMPLED_ROWS: Final = 1024


class CacheFile(NamedTuple):
    """Facts and content of a cache."""

    facts: dict[str, Any]
    content: memoryview


def write_cache(file: Path, view: View, facts: dict[str, Any], content: memoryview) -> None:
    """Write a structure of all rows of a view.

    Raises:
        WriteError: If it cannot be written; an older file is unchanged.
    """
    num_rows = len(view.rows)
    header = json.dumps({**facts, **_identity(view, num_rows), "num_rows": num_rows}).encode() + b"\n"
    checksum = zlib.crc32(content, zlib.crc32(header))
    write_bytes(file, b"".join([b"%08x\n" % checksum, header, content]))


def read_cache(file: Path, view: View) -> CacheFile | str:
    """Read a structure of the first ``facts["num_rows"]`` rows of a view.

    Returns:
        The cache; or why there is none of these rows, "" if there is no file.
    """
    try:
        data = memoryview(file.read_bytes())
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    end = 9 + bytes(data[9 : 9 + 2**16]).find(b"\n") + 1
    if bytes(data[:9]) != b"%08x\n" % zlib.crc32(data[9:]) or end == 9:
        return "damaged"
    facts = json.loads(bytes(data[9:end]))
    if facts["num_rows"] > len(view.rows):
        return "of other rows"
    expected = _identity(view, facts["num_rows"])
    if {name: facts.get(name) for name in expected} != expected:
        return "of other rows" if facts.get("faiss") == faiss.__version__ else "of another version of faiss"
    return CacheFile(facts, data[end:])


def _identity(view: View, num_rows: int) -> dict[str, Any]:
    """Return what a cache of the first rows must agree with: generation, dimensions, and some of the rows."""
    some = np.unique(np.linspace(0, max(0, num_rows - 1), _SAMPLED_ROWS).astype(np.int64))[:num_rows]
    sample: NDArray[np.float32] = np.ascontiguousarray(view.rows[some])
    return {
        "generation": view.snapshot.generation,
        "dim": view.rows.shape[1],
        "sample": zlib.crc32(sample.tobytes()),
        "faiss": faiss.__version__,
    }
