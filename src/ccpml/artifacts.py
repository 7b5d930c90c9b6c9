"""What is at a path: kinds of files, and what ccpml writes; for errors about one thing in place of another."""

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, Final

__all__ = [
    "MODEL_READERS",
    "artifact_kind",
    "dead_link",
    "expand_home",
    "mismatch",
    "not_found",
    "open_file",
    "output_kind",
    "path_kind",
    "plain_path",
    "pointer",
    "read_file",
    "read_short_text",
]

MODEL_READERS: Final = {
    ".onnx": "ExportedModel opens it",
    ".pt2": "torch.export.load opens it",
    ".safetensors": "EmbeddingModel.from_pretrained opens it",
}
"""What opens an exported model in Python, by the suffix of its file."""

_POINTERS: Final = {
    b"version https://git-lfs": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
"""How files begin that stand for others: what has left them, and what fetches the others."""

_KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def expand_home(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a path with the home folder in place of ``~`` or ``~name``; of a user who is unknown, as it is.

    Args:
        path: Text, or anything that has a path, such as a run.
        name: Name of the argument, for messages.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> expand_home("~nobody-of-this-name/photos")
        PosixPath('~nobody-of-this-name/photos')
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name}: expected a path, got {path!r}")
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises an error without the path


def plain_path(path: Path) -> Path:
    """Return an absolute path without ``..`` and ``//``, so that a file has one name; a link before ``..`` is resolved.

    Example:
        >>> plain_path(Path("/dev/shm/../null"))
        PosixPath('/dev/null')
    """
    absolute = path.absolute()
    if ".." not in absolute.parts and absolute.anchor != "//":
        return absolute
    plain = Path("/" if absolute.anchor == "//" else absolute.anchor)
    for part in absolute.parts[1:]:
        if part != "..":
            plain /= part
        else:
            plain = (Path(os.path.realpath(plain)) if plain.is_symlink() else plain).parent
    return plain


def path_kind(path: Path) -> str:
    """Return what is at a path, with its article, such as "a named pipe"; empty if nothing is.

    Example:
        >>> path_kind(Path("/dev/null")), path_kind(Path("/")), path_kind(Path("/no/such"))
        ('a device', 'a folder', '')
    """
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "something else")
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        return "a broken link" if path.is_symlink() else ""
    except ValueError:  # a null character, which no path has
        return ""


def dead_link(path: Path) -> Path | None:
    """Return the link to nothing by which a path leads nowhere, itself or a folder above it, such as to a lost disk.

    Example:
        >>> dead_link(Path("/dev/null")), dead_link(Path("/no/such"))
        (None, None)
    """
    places = (path, *path.parents)  # of which closed ones make those of `Path` raise errors
    return next((each for each in places if os.path.islink(each) and not os.path.exists(each)), None)  # noqa: PTH110, PTH114


def not_found(path: Path, expected: str = "file") -> str:
    """Return why a path is not the file or folder that is expected there.

    Example:
        >>> not_found(Path("/no/such")), not_found(Path("/dev/null"), "folder")
        ('file not found', 'expected a folder, got a device')
    """
    found = artifact_kind(path).replace("another", "a")
    return f"expected a {expected}, got {found}" if found else f"{expected} not found"


def pointer(start: bytes, expected: str = "file") -> str:
    """Return that a file stands for another, by its first 32 bytes or more; empty if it does not.

    Example:
        >>> pointer(b"version https://git-lfs.github.com/spec/v1"), pointer(b"GIF89a")
        ('a pointer of Git LFS, not the file; `git lfs pull` fetches it', '')
    """
    found = (by for begins, by in _POINTERS.items() if start.startswith(begins))
    return next((f"a pointer of {name}, not the {expected}; `{command}` fetches it" for name, command in found), "")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read it; what is none is refused at once, as reading a named pipe may wait for ever.

    Raises:
        OSError: If it cannot be opened, or is no file.

    Example:
        >>> open_file("/dev/null")
        Traceback (most recent call last):
        ...
        OSError: [Errno 22] expected a file, got a device: '/dev/null'
    """
    try:
        stream = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 -- the caller closes it
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "expected a file, got a socket", os.fspath(path)) from error
        raise
    kind = stat.S_IFMT(os.fstat(stream.fileno()).st_mode)
    if kind != stat.S_IFREG:
        stream.close()
        raise OSError(errno.EINVAL, f"expected a file, got {_KINDS.get(kind, 'something else')}", os.fspath(path))
    return stream


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the contents of a file, as `open_file` opens it."""
    with open_file(path) as stream:
        return stream.read()


_MAX_TEXT: Final = 4 * 2**20


def read_short_text(path: Path) -> str:
    """Return a text in UTF-8 that a person writes, such as settings: at most 4 MB, from a file, a device or a pipe.

    A pipe with a name is refused, since nothing may ever write to it; one of the shell is not.

    Raises:
        ValueError: If it is longer, or not UTF-8.
        OSError: If it cannot be read.
    """
    if path_kind(path) == "a named pipe" and not path.absolute().is_relative_to("/dev"):
        raise ValueError(not_found(path))
    with path.open("rb") as stream:
        content = stream.read(_MAX_TEXT + 1)
    if len(content) > _MAX_TEXT:
        raise ValueError(f"expected a text of at most {_MAX_TEXT // 2**20} MB, got more")
    return content.decode("utf-8")


_EXPORTED: Final = (
    "an exported model, which EmbeddingModel.from_pretrained loads; embed, index, search and serve take the run, or an "
    ".onnx file of it"
)

_FOLDERS: Final = {
    "experiment.yaml": "a run directory",
    "index.sqlite": "an index, which search and serve take",
    "benchmark.yaml": "the folder of a benchmark, whose runs are below cells",
    "study.yaml": "the folder of a study, whose runs are its trials",
    "cleaned.csv": "the results of clean, whose cleaned.csv is data",
    "model.safetensors": _EXPORTED,
}
"""Folders by the file that each holds."""

_SUFFIXES: Final = {
    ".onnx": "an exported model, which embed, index, search and serve take",
    ".pt2": _EXPORTED.replace("EmbeddingModel.from_pretrained", "torch.export.load"),
    ".safetensors": _EXPORTED,
    **dict.fromkeys((".npz", ".parquet"), "a file of arrays, such as embeddings"),
    **dict.fromkeys((".pth", ".pt", ".ckpt"), "a file of weights"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"), "an archive, to be unpacked first"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet, to be saved as CSV first"),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"), "a picture"),
    ".csv": "a CSV file",
    ".html": "a page",
}


_OUTPUTS: Final = {
    "a run": {"experiment.yaml", "record.json"},
    "an index": {"index.sqlite"},
    "a benchmark": {"benchmark.yaml"},
    "a study": {"study.yaml"},
}
"""What a folder is, by the files that it then holds and a folder of images does not."""


def output_kind(names: Collection[str]) -> str:
    """Return what ccpml has written into a folder with files of these names; empty if nothing, as far as they tell.

    Example:
        >>> output_kind(["record.json", "experiment.yaml", "pictures"]), output_kind(["experiment.yaml", "a.png"])
        ('a run', '')
    """
    return next((kind for kind, files in _OUTPUTS.items() if files <= {*names}), "")


def artifact_kind(path: Path) -> str:
    """Return what is at a path, with its article, and what it is for if it is of ccpml; empty if nothing is there.

    Example:
        >>> artifact_kind(Path("/")), artifact_kind(Path("/no/such"))
        ('a folder', '')
    """
    kind = path_kind(path)
    if kind not in {"a file", "a folder"}:
        return kind
    try:
        if found := next((what for file, what in _FOLDERS.items() if (path / file).is_file()), ""):
            return found
        if run := next((parent for parent in path.parents[:2] if (parent / "experiment.yaml").is_file()), None):
            return f"{kind} of the run {run}"
        if kind == "a file":
            return _SUFFIXES.get(path.suffix.lower(), "another file")
        run = next((child for child in sorted(path.iterdir()) if (child / "experiment.yaml").is_file()), None)
    except PermissionError:
        return f"{kind} that cannot be read (permission denied)"
    return f"a folder of runs, such as {run.name}" if run else kind


def mismatch(path: Path, expected: str, mark: str) -> str:
    """Return the error of a path at which there is not what is ``expected``, which holds the file ``mark``.

    Example:
        >>> mismatch(Path("/no/such"), "a run directory", "experiment.yaml")
        '/no/such: not a run directory (not found)'
        >>> mismatch(Path("/dev/null"), "a run directory", "experiment.yaml")
        '/dev/null: expected a run directory, got a device'
    """
    found = artifact_kind(path)
    if found == "a folder" and (path / "record.json").is_file():  # a run that has lost a file
        is_lost = not path_kind(path / mark)
        reason = f"{mark} not found" if is_lost else f"{mark}: {not_found(path / mark)}"
        return f"{path}: not {expected} ({reason}); restore it from a copy"
    if found in {"", "a folder"}:
        return f"{path}: not {expected} ({f'{mark} ' if found else ''}not found)"
    return f"{path}: expected {expected}, got {found}"
