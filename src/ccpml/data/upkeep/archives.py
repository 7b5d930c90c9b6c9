"""Unpacking of archives into a folder."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ccpml.files import size_text
from ccpml.progress import progress_bar

__all__ = ["unpack"]

_MB: Final = 10**6


def unpack(archive: Path, folder: Path, max_size: int, progress: bool = True) -> None:
    """Unpack a tar file, compressed or not, or a zip file.

    Nothing is written outside the folder. Members of a tar file that lead out of it, devices and pipes are refused (by
    the ``data`` filter of ``tarfile``); names in a zip file that lead out of it are made relative (by ``zipfile``).
    Members that were written before an error remain, so unpack into a folder that can be removed. ``max_size`` is the
    maximum total size of the unpacked files, in bytes.

    Raises:
        ValueError: If the archive is refused, damaged, too large, or of an unknown format.
        OSError: If a file cannot be written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise ValueError("Python: expected 3.11.4 or later, which unpacks archives safely; update it")
    try:
        with (
            archive.open("rb") as file,
            progress_bar(archive.stat().st_size // _MB, "MB", "unpacking", shown=progress) as bar,
        ):
            unpacked = 0
            for size in (_unpack_tar if tarfile.is_tarfile(file) else _unpack_zip)(file, folder):
                unpacked += size
                if unpacked > max_size:
                    raise ValueError(f"{archive}: expected at most {size_text(max_size)}, got more; download it again")
                bar.update(file.tell() // _MB - bar.n)
    except tarfile.FilterError as error:
        raise ValueError(f"{archive}: refused ({error}); download it again") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive}: damaged, encrypted, or not an archive ({error}); download it again") from error
    except OSError as error:
        if error.errno is None:  # from a decompressor, not from the disk
            raise ValueError(f"{archive}: damaged, or not an archive ({error}); download it again") from error
        raise


def _unpack_tar(file: IO[bytes], folder: Path) -> Iterator[int]:
    """Yield the size of each member, and then extract it."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            yield member.size
            tar.extract(member, folder, filter="data")


def _unpack_zip(file: IO[bytes], folder: Path) -> Iterator[int]:
    """Yield the size of each member, and then extract it, which writes at most as many bytes."""
    with zipfile.ZipFile(file) as archive:
        file.seek(0)  # from the directory at the end, so that the progress starts at zero
        for member in archive.infolist():
            yield member.file_size
            archive.extract(member, folder)
