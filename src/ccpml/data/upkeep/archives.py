"""Unpacking of archives into a folder."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Final

from ccpml.numbers import size_text
from ccpml.progress import progress_bar

__all__ = ["unpack"]

_MB: Final = 10**6
_MAX_MEMBERS: Final = 2_000_000


def unpack(archive: Path, folder: Path, max_size: int, progress: bool = True) -> None:
    """Unpack a tar file, compressed or not, or a zip file.

    Refused are names and links that lead out of the folder, members below a link, devices and pipes, encrypted members,
    and more than ``max_size`` bytes in total. Members that were written before an error remain, so unpack into a folder
    that can be removed.

    Raises:
        ValueError: If the archive is refused, damaged, too large, or of an unknown format.
        OSError: If a file cannot be written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise ValueError("Python: expected 3.11.4 or later, which unpacks archives safely; update it")
    members = _Members(archive, max_size)
    try:
        with (
            archive.open("rb") as file,
            progress_bar(archive.stat().st_size // _MB, "MB", "unpacking", shown=progress) as bar,
        ):
            for _ in (_unpack_tar if tarfile.is_tarfile(file) else _unpack_zip)(file, folder, members):
                bar.update(file.tell() // _MB - bar.n)
    except tarfile.FilterError as error:
        raise ValueError(f"{archive}: refused ({error}); download it again") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive}: damaged, encrypted, or not an archive ({error}); download it again") from error
    except OSError as error:
        if error.errno is None:  # from a decompressor, not from the disk
            raise ValueError(f"{archive}: damaged, or not an archive ({error}); download it again") from error
        raise


class _Members:
    """Checks of the members of an archive, beyond those of ``tarfile`` and ``zipfile``."""

    def __init__(self, archive: Path, max_size: int) -> None:
        self.archive = archive
        self.max_size = max_size
        self.size = self.count = 0
        self.links = set[tuple[str, ...]]()

    def check(self, name: str, size: int) -> None:
        """Check the name of a member, the number of members, and their total size."""
        self._check_path(name, PurePosixPath(name))
        self.size += size
        self.count += 1
        if self.size > self.max_size or self.count > _MAX_MEMBERS:
            expected = f"at most {size_text(self.max_size)} in {_MAX_MEMBERS:,} files"
            raise ValueError(f"{self.archive}: expected {expected}, got more; download it again")

    def check_link(self, name: str, target: PurePosixPath) -> None:
        """Check where a link leads, and remember it."""
        self._check_path(name, target)
        self.links.add(_folded(PurePosixPath(name)))

    def refused(self, name: str, why: str) -> ValueError:
        """Return the error for a member."""
        return ValueError(f"{self.archive}: refused ({name!r} {why}); download it again")

    def _check_path(self, name: str, path: PurePosixPath) -> None:
        windows = PureWindowsPath(str(path))  # /, \\ and drives are separators to it
        if windows.anchor or path.is_absolute() or "\0" in name:
            raise self.refused(name, "has or leads to an absolute path")
        if ".." in windows.parts:
            raise self.refused(name, "leads out of its folder")
        parts = _folded(path)
        if any(parts[:end] in self.links for end in range(1, len(parts) + 1)):
            raise self.refused(name, "is below a link")


def _folded(path: PurePosixPath) -> tuple[str, ...]:
    """Return the parts of a path, equal for paths that are one on some file system."""
    return tuple(part.casefold() for part in path.parts)


def _unpack_tar(file: IO[bytes], folder: Path, members: _Members) -> Iterator[None]:
    """Check and extract one member at a time."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            members.check(member.name, member.size)
            if member.issym():
                members.check_link(member.name, _joined(PurePosixPath(member.name).parent, member.linkname))
            elif member.islnk():
                members.check_link(member.name, PurePosixPath(member.linkname))
            elif not (member.isreg() or member.isdir()):
                raise members.refused(member.name, "is neither a file nor a folder")
            tar.extract(member, folder, filter="data")
            yield


def _joined(folder: PurePosixPath, target: str) -> PurePosixPath:
    """Return the target of a link in a folder, as far as names tell; a ``..`` that leads out remains."""
    parts = list(folder.parts)
    if target.startswith("/"):
        return PurePosixPath(target)
    for part in PurePosixPath(target).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)


def _unpack_zip(file: IO[bytes], folder: Path, members: _Members) -> Iterator[None]:
    """Check all members, then extract one at a time, each at most as large as it says."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            members.check(member.filename, member.file_size)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 1 or kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise members.refused(member.filename, "is encrypted, or neither a file nor a folder")
        file.seek(0)  # from the directory at the end, so that the progress starts at zero
        for member in archive.infolist():
            archive.extract(member, folder)
            yield
