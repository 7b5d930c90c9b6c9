"""The description in an ONNX file, read and written without onnx or onnxruntime.

An ONNX file is one message of protocol buffers, a sequence of numbered fields. Only the outermost are read here: the
description is an entry of field 14 (metadata), and the rest (graph and operator sets) has a digest.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ccpml.artifacts import MODEL_READERS, not_found, path_kind, pointer
from ccpml.exported.description import DESCRIPTION_KEY, Description, DescriptionError

__all__ = ["add_description", "content_digest", "is_onnx", "read_description"]

_GRAPH: Final = 7
_METADATA: Final = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_WAY_OUT: Final = "export the run again"


class _Field(NamedTuple):
    """A field of a message: its number, where it begins, and where its content begins and ends."""

    number: int
    start: int
    content: int
    end: int


class _DamagedError(ValueError):
    """Bytes are no message of protocol buffers, or are cut off."""


def is_onnx(path: Path | str) -> bool:
    """Whether a path is named as an ONNX file."""
    return Path(path).suffix.lower() == ".onnx"


def read_description(path: Path) -> Description:
    """Read the description of an exported model, and check that the file is as it was exported.

    Raises:
        FileNotFoundError: If there is no such file.
        DescriptionError: If it is another file, damaged, changed since, or of a newer version.
    """
    if path_kind(path) not in {"", "a file"}:
        raise DescriptionError(f"{path}: {not_found(path)}; pass the .onnx file of an export")
    content, reader = path.read_bytes(), MODEL_READERS.get(path.suffix.lower(), "")
    if found := pointer(content):
        raise DescriptionError(f"{path}: {found}")
    if reader and not is_onnx(path):
        raise DescriptionError(f"{path}: expected an ONNX file; {reader}")
    try:
        fields = list(_fields(content))
        metadata = dict(_entry(content[field.content : field.end]) for field in fields if field.number == _METADATA)
    except _DamagedError as error:
        raise DescriptionError(f"{path}: not an ONNX file, or damaged ({error}); {_WAY_OUT}") from error
    if not any(field.number == _GRAPH for field in fields):
        raise DescriptionError(f"{path}: not an ONNX file; {_WAY_OUT}")
    if DESCRIPTION_KEY not in metadata:
        raise DescriptionError(f"{path}: expected a model that `ccpml export` wrote, got another ONNX file; {_WAY_OUT}")
    description = Description.from_json(metadata[DESCRIPTION_KEY], str(path))
    if description.content_sha256 not in {"", content_digest(content)}:
        raise DescriptionError(f"{path}: damaged, or changed since it was exported; {_WAY_OUT}")
    return description


def content_digest(content: bytes) -> str:
    """Return the SHA-256 of the contents of an ONNX file without its metadata, in hexadecimal."""
    digest, view = hashlib.sha256(), memoryview(content)
    for field in _fields(content):
        if field.number != _METADATA:
            digest.update(view[field.start : field.end])
    return digest.hexdigest()


def add_description(content: bytes, description: Description) -> bytes:
    """Return the contents of an ONNX file with a description; it has none yet, and ``content_sha256`` fits it."""
    entry = _bytes_field(1, DESCRIPTION_KEY.encode()) + _bytes_field(2, description.to_json().encode())
    return content + _bytes_field(_METADATA, entry)


def _fields(content: bytes) -> Iterator[_Field]:
    """Yield the outermost fields of a message."""
    position = 0
    while position < len(content):
        start = position
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            begin, (_, position) = position, _varint(content, position)
        elif wire in {_FIXED32, _FIXED64}:
            begin, position = position, position + (4 if wire == _FIXED32 else 8)
        elif wire == _BYTES:
            size, begin = _varint(content, position)
            position = begin + size
        else:
            raise _DamagedError("unknown type of a field")
        if number < 1 or position > len(content):
            raise _DamagedError("cut off" if number else "unknown field")
        yield _Field(number, start, begin, position)


def _entry(content: bytes) -> tuple[str, str]:
    """Return key and value of an entry of the metadata."""
    parts = {field.number: content[field.content : field.end] for field in _fields(content)}
    try:
        return parts.get(1, b"").decode(), parts.get(2, b"").decode()
    except UnicodeDecodeError as error:
        raise _DamagedError("metadata are not UTF-8") from error


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return an integer of variable length, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise _DamagedError("cut off")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _DamagedError("an integer is too long")


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
