"""Image files in an uncompressed zip archive, read from there without unpacking."""

import zipfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from ccpml.artifacts import open_file
from ccpml.system_errors import raise_shortage

__all__ = ["ArchivedImage", "list_archive", "read_archived"]

_HEADER: Final = 30  # bytes before the name of a member


class ArchivedImage(NamedTuple):
    """Position of an image file in an archive. Pickles without its contents, and keeps no file open.

    ``name`` is its name in the archive; ``crc32`` the checksum of its contents.
    """

    name: str
    archive: Path
    offset: int
    size: int
    crc32: int


def list_archive(archive: Path) -> list[ArchivedImage]:
    """Return the images of an archive in order.

    Raises:
        ValueError: If the archive is missing or damaged, or has a compressed member.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
    except OSError as error:
        raise_shortage(error)
        raise ValueError(f"{archive}: cannot be opened ({error.strerror or error})") from error
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{archive}: damaged ({error})") from error
    images = []
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{archive}: expected uncompressed members, got {member.filename} compressed")
        start = member.header_offset + _HEADER + len(member.filename.encode())
        images.append(ArchivedImage(member.filename, archive, start, member.file_size, member.CRC))
    return images


def read_archived(image: ArchivedImage) -> bytes:
    """Return the contents of an image file.

    Raises:
        OSError: If the archive cannot be read.
        ValueError: If the contents are damaged.
    """
    with open_file(image.archive) as file:
        file.seek(image.offset)
        data = file.read(image.size)
    if zlib.crc32(data) != image.crc32:
        raise ValueError(f"{image.archive} is damaged")
    return data
