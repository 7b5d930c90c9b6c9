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
_FORMAT: Final = b"ccpml cache 3 "
_START: Final = len(_FORMAT) + 9  # of the header: behind the format, the checksum in hexadecimal and the end of a line
_PAGE: Final = 4096
_ALIGNMENT: Final = 64  # of the content in the file


class CacheFile(NamedTuple):
    """Facts of a cache, and its content, uint8, mapped into memory."""

    facts: dict[str, Any]
    content: NDArray[np.uint8]


def write_cache(file: Path, view: View, kind: str, facts: dict[str, Any], content: memoryview) -> None:
    """Write a structure of a kind, of all rows of a view.

    Raises:
        WriteError: If it cannot be written; an older file is unchanged.
    """
    num_rows = len(view.rows)
    text = json.dumps({**facts, **_identity(view, num_rows), "kind": kind, "num_rows": num_rows}).encode()
    header = text + b" " * (-(_START + len(text) + 1) % _ALIGNMENT) + b"\n"
    checksum = _checksum(header, np.frombuffer(content, np.uint8))
    write_bytes(file, b"".join([b"%s%08x\n" % (_FORMAT, checksum), header, content]))


def read_cache(file: Path, view: View, kind: str) -> CacheFile | str:
    """Read a structure of a kind, of the first ``facts["num_rows"]`` rows of a view.

    Returns:
        The cache; or why there is none of these rows, "" if there is no file.
    """
    found = _read(file)
    if isinstance(found, str):
        return found
    facts = found.facts
    if facts["kind"] != kind:
        return f"of another kind ({facts['kind']})"
    if facts["num_rows"] > len(view.rows):
        return "of other rows"
    expected = _identity(view, facts["num_rows"])
    if {name: facts.get(name) for name in expected} != expected:
        return "of other rows" if facts.get("faiss") == faiss.__version__ else "of another version of faiss"
    return found


def _read(file: Path) -> CacheFile | str:
    """Return the cache, or why it cannot be used, whatever the rows are."""
    try:
        data: NDArray[np.uint8] = np.memmap(file, np.uint8, "r")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError:  # empty
        return "damaged"
    start = bytes(data[: _START + 2**16])
    end = start.find(b"\n", _START) + 1  # of the header
    header, content = start[_START:end], data[end:]
    if not end or start[:_START] != b"%s%08x\n" % (_FORMAT, _checksum(header, content)):
        return "damaged" if start.startswith(_FORMAT) else "damaged, or of another version"
    return CacheFile(json.loads(header), content)


def _checksum(header: bytes, content: NDArray[np.uint8]) -> int:
    """Return the CRC-32 of the header, the sums of the numbers of 64 bits in each page of the content, and the rest.

    It differs wherever one number, or a page, differs, and takes a sixth of the time of a CRC-32 of the content.
    """
    whole = len(content) // _PAGE * _PAGE
    sums = content[:whole].view(np.uint64).reshape(-1, _PAGE // 8).sum(axis=1)  # (pages,), modulo 2⁶⁴
    return zlib.crc32(content[whole:].tobytes(), zlib.crc32(sums.tobytes(), zlib.crc32(header)))


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
