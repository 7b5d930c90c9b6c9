"""Unpacking of untrusted archives: nothing is written outside the folder, and the size is limited."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from tqdm import tqdm

from ccpml.files import size_text
from ccpml.progress import progress_bar

__all__ = ["unpack"]

_MAX_MEMBERS: Final = 2_000_000
_MB: Final = 10**6


def unpack(archive: Path, folder: Path, max_size: int, progress: bool = True) -> None:
    """Unpack a tar file, compressed or not, or a zip file.

    The archive is refused if it has members that could reach outside the folder (absolute paths, ``..``, links that
    lead out, members behind a link), devices, pipes or encrypted members, or more than ``max_size`` bytes. Members
    written before that remain, so unpack into a folder that can be removed.

    Args:
        archive: Archive file.
        folder: An existing folder, preferably empty.
        max_size: Maximum total size of the unpacked files, in bytes.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: If the archive is refused, damaged, or of an unknown format; the message names the member.
        OSError: If a file cannot be written.
    """
    bounds = _Bounds(archive, max_size)
    with _named_errors(archive):
        if tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder, bounds, progress)
        else:
            _unpack_zip(archive, folder, bounds, progress)


class _Bounds:
    """Limits on the members of an archive."""

    def __init__(self, archive: Path, max_size: int) -> None:
        self.archive = archive
        self.max_size = max_size
        self.size = self.count = 0
        self.links = set[tuple[str, ...]]()

    def check(self, name: str, size: int) -> PurePosixPath:
        """Check the name of a member, count it, and return its path inside the folder."""
        path = self._inside(name, PurePosixPath(name))
        self.size += size
        self.count += 1
        if self.size > self.max_size or self.count > _MAX_MEMBERS:
            raise ValueError(
                f"{self.archive}: expected at most {size_text(self.max_size)} and {_MAX_MEMBERS:,} files, got more; "
                "download the archive again"
            )
        return path

    def check_link(self, name: str, target: PurePosixPath) -> None:
        """Check the target of a link, and record the link."""
        self._inside(name, target)
        self.links.add(_folded(PurePosixPath(name)))

    def refused(self, name: str, why: str) -> ValueError:
        return ValueError(f"{self.archive}: refused: {name!r} {why}; download the archive again")

    def _inside(self, name: str, path: PurePosixPath) -> PurePosixPath:
        windows = PureWindowsPath(str(path))  # splits at / and \\, and recognizes drives
        if windows.anchor or path.is_absolute() or "\0" in name:
            raise self.refused(name, "has or leads to an absolute path")
        if ".." in windows.parts:
            raise self.refused(name, "leads out of its folder")
        parts = _folded(path)
        if any(parts[:end] in self.links for end in range(1, len(parts) + 1)):
            raise self.refused(name, "is behind a link")
        return path


def _folded(path: PurePosixPath) -> tuple[str, ...]:
    """Return a path in a form in which paths that are the same on some file system are equal."""
    return tuple(part.casefold() for part in path.parts)


def _unpack_tar(archive: Path, folder: Path, bounds: _Bounds, progress: bool) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(f"{archive}: this Python cannot unpack it safely; expected Python 3.11.4 or later")
    with (
        archive.open("rb") as file,
        tarfile.open(fileobj=file, mode="r:*") as tar,
        _bar(archive.stat().st_size, progress) as bar,
    ):
        for member in tar:
            bounds.check(member.name, member.size)
            if member.issym():
                bounds.check_link(member.name, _joined(PurePosixPath(member.name).parent, member.linkname))
            elif member.islnk():
                bounds.check_link(member.name, PurePosixPath(member.linkname))
            elif not (member.isreg() or member.isdir()):
                raise bounds.refused(member.name, "is neither a file nor a folder")
            tar.extract(member, folder, filter="data")
            bar.update(file.tell() // _MB - bar.n)


def _joined(folder: PurePosixPath, target: str) -> PurePosixPath:
    """Resolve the target of a link by names alone; a ``..`` that leads out remains."""
    parts = list(folder.parts)
    if target.startswith("/"):
        return PurePosixPath(target)
    for part in PurePosixPath(target).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)


def _unpack_zip(archive: Path, folder: Path, bounds: _Bounds, progress: bool) -> None:
    with zipfile.ZipFile(archive) as file, _bar(archive.stat().st_size, progress) as bar:
        members = [(member, bounds.check(member.filename, member.file_size)) for member in file.infolist()]
        done = 0
        for member, path in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 1 or kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise bounds.refused(member.filename, "is neither a plain file nor a folder")
            target = folder / path
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as content, target.open("wb") as to:  # reads at most file_size bytes
                    shutil.copyfileobj(content, to, 2**20)
            done += member.compress_size
            bar.update(done // _MB - bar.n)


def _bar(size: int, progress: bool) -> "tqdm[Any]":
    return progress_bar(size // _MB, "MB", "unpacking", shown=progress)


@contextmanager
def _named_errors(archive: Path) -> Iterator[None]:
    """Turn the exceptions that damaged archives cause into a ``ValueError`` that names the archive."""
    try:
        yield
    except tarfile.FilterError as error:
        raise ValueError(f"{archive}: refused ({error}); download the archive again") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive}: damaged, or not an archive ({error}); download it again") from error
    except OSError as error:
        if error.errno is None:  # from a decompressor, not from the disk
            raise ValueError(f"{archive}: damaged, or not an archive ({error}); download it again") from error
        raise
