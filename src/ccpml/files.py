"""Files that are either complete or absent, locks between processes, and free disk space."""

import hashlib
import io
import json
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from filelock import FileLock, Timeout

from ccpml.artifacts import not_found, path_kind, pointer, read_short_text
from ccpml.numbers import size_text
from ccpml.system_errors import WriteError, raise_shortage, unreadable

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "DESCRIPTION_FORMAT",
    "NewerVersionError",
    "NoSpaceError",
    "WriteError",
    "check_readable",
    "check_version",
    "digest_of",
    "errors_name",
    "exclusive_lock",
    "load_json",
    "load_yaml",
    "read_arrays",
    "read_folder_file",
    "remove_leftovers",
    "remove_leftovers_below",
    "require_space",
    "temporary_path",
    "waiting_lock",
    "write_arrays",
    "write_bytes",
    "write_folder_file",
    "write_json",
    "write_text",
    "write_yaml",
]

_MAX_NAME: Final = 255  # bytes, on the usual file systems
_SPACE_MARGIN = 16 * 2**20
_FOLDER_VERSION = 2  # of the files that describe the folders of benchmarks and studies; the first has no digest

DESCRIPTION_FORMAT: Final = 1  # version of the descriptions of exported models


class NoSpaceError(ValueError):
    """A disk does not have enough free space."""


class NewerVersionError(ValueError):
    """A file has the format of a newer version of ccpml."""


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside a file or folder that is not complete yet; one of legal length if its own is."""
    ending = os.fsencode(f".{os.getpid()}.tmp{path.suffix}")[:50]
    return path.with_name(os.fsdecode(b"." + os.fsencode(path.stem)[: _MAX_NAME - 51] + ending))


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed have left under temporary names of a file or folder."""
    before, after = temporary_path(path).name.split(f".{os.getpid()}.tmp")
    _remove_ended(path.parent, re.compile(rf"{re.escape(before)}\.(\d+)\.tmp{re.escape(after)}", re.DOTALL))


def remove_leftovers_below(folder: Path) -> None:
    """Remove what processes that were killed have left under temporary names anywhere below a folder."""
    for parent, _, _ in os.walk(folder):
        _remove_ended(Path(parent), re.compile(r"\..+\.(\d+)\.tmp(\.[^.]*)?", re.DOTALL))


def _remove_ended(folder: Path, pattern: re.Pattern[str]) -> None:
    """Remove what has names of this pattern, which holds the number of a process, if that has ended."""
    with suppress(OSError):  # a folder that cannot be read is named when it is written to
        for found in filter(None, (pattern.fullmatch(each.name) for each in folder.iterdir())):
            if _has_ended(int(found[1])):
                left = folder / found[0]
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError, OverflowError) as error:  # PermissionError: it runs
        return isinstance(error, ProcessLookupError)
    return False


def write_bytes(path: Path, data: bytes | memoryview, sync: bool = True) -> None:
    """Write a file under a temporary name in the same folder, and rename it when it is complete.

    The folder is created if necessary. With ``sync``, the file is on the disk before it is renamed.

    Raises:
        WriteError: If it cannot be written; an older file of that name is unchanged.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(number, left) :]
            if sync:
                os.fsync(number)
        finally:
            os.close(number)
        os.replace(temporary, path)  # noqa: PTH105  # tests replace the module os to make calls fail
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def errors_name(target: Path, temporary: Path) -> Iterator[None]:
    """Name a target in errors of the system about its temporary file or folder, which nobody knows.

    Raises:
        WriteError: In place of such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or Path(error.filename).is_relative_to(temporary)):
            raise WriteError(error.errno, error.strerror, str(target)) from error
        raise


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write a text file in UTF-8; bytes of file names that are not UTF-8 are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), sync)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML, with keys in their order."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


class _StrictLoader(yaml.SafeLoader):
    """Loader that refuses a key given twice, of which YAML would silently keep the last value, and 017, read as 15."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        if not re.fullmatch(r"[+-]?(0|[1-9][0-9_]{,99})", node.value):
            digits = " of at most 100 digits" if len(node.value) > 100 else ""
            problem = f"expected a decimal number{digits}, or text in quotes, got {node.value}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(node.value)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def load_yaml(file: Path) -> Any:
    """Read a YAML file.

    Raises:
        ValueError: If it is not YAML in UTF-8, or a mapping has a key twice; the message says where.
        OSError: If it cannot be read.
    """
    try:
        return yaml.load(read_short_text(file), _StrictLoader)  # a safe loader
    except UnicodeDecodeError as error:
        raise ValueError(f"not a YAML file: expected UTF-8 text, got byte {error.object[error.start]:#x}") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"not a YAML file: {line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError("not a YAML file: it holds characters that no text has") from error
    except RecursionError as error:
        raise ValueError("not a YAML file of settings: it is nested too deeply") from error


def load_json(file: Path) -> Any:
    """Read a JSON file; raise a ``ValueError`` that says where if it is not JSON in UTF-8."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON: expected UTF-8 text, got byte {error.object[error.start]:#x}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("not JSON: it is nested too deeply") from error


def read_folder_file(
    file: Path, kind: str, fields: Mapping[str, type], refused: type[FileExistsError]
) -> dict[str, Any] | None:
    """Read the YAML file that describes its folder; None if that is new; raise ``refused`` for any other folder."""
    folder = file.parent
    if folder.exists() and not folder.is_dir():
        raise refused(f"{folder}: expected a folder, got a file")
    if not file.is_file():
        if folder.exists() and any(path.name != ".locks" for path in folder.iterdir()):
            raise refused(f"{folder}: already exists and is not the folder of a {kind} ({file.name} not found)")
        return None
    check_readable(file, "restore it from a copy")
    try:
        found = load_yaml(file)
    except ValueError:
        found = None
    if isinstance(found, dict):
        version, digest = (found.pop(name, None) for name in ("version", "digest"))
        check_version(file, version, _FOLDER_VERSION)
        found = found if (version or 1) < _FOLDER_VERSION or digest == _digest(found) else None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), fields[name]) for name in fields):
        raise refused(f"{file}: damaged; restore it from a copy")
    return found


def write_folder_file(file: Path, content: Mapping[str, Any]) -> None:
    """Write the YAML file that describes its folder, with the version of its format and a digest."""
    write_yaml(file, {"version": _FOLDER_VERSION, **content, "digest": _digest(content)})


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(yaml.safe_dump(dict(content), sort_keys=False).encode()).hexdigest()[:16]


def digest_of(content: Any) -> str:
    """Return a digest of what a JSON file holds."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_version(file: Path, found: Any, newest: int) -> None:
    """Check that the format of a file is known; a file without a version is of the first.

    Raises:
        NewerVersionError: If it is newer.
        ValueError: If it is no version.
    """
    if found is None:
        return
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"{file}: expected a version of its format, got {found!r}; restore it from a copy")
    if found > newest:
        raise NewerVersionError(f"{file}: expected version {newest} of its format or less, got {found}; update ccpml")


def check_readable(file: Path, way_out: str) -> None:
    """Check that a file can be opened, and is none that stands for it; a pipe's reader would wait for ever.

    Raises:
        ValueError: If it cannot; it ends with what to do.
    """
    try:
        if path_kind(file) in {"a named pipe", "a socket", "a device"}:
            raise ValueError(f"{file}: {not_found(file)}; {way_out}")
        with file.open("rb") as opened:
            if found := pointer(opened.read(32)):
                raise ValueError(f"{file}: {found}")
    except FileNotFoundError as error:
        raise ValueError(f"{file}: not found; {way_out}") from error
    except OSError as error:
        raise_shortage(error)
        raise ValueError(unreadable(file, error, way_out)) from error


def write_arrays(path: Path, **arrays: "npt.ArrayLike") -> None:
    """Write arrays to an .npz file that loads without pickle.

    Raises:
        ValueError: If an array holds objects, which only pickle can write.
    """
    import numpy as np

    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:
            raise ValueError(f"{path}: {name}: expected numbers or text, got objects")
    content = io.BytesIO()
    np.savez(content, **plain)  # type: ignore[arg-type]  # a name may not be allow_pickle
    write_bytes(path, content.getbuffer())


def read_arrays(path: Path, names: Sequence[str], way_out: str) -> "dict[str, npt.NDArray[Any]]":
    """Read arrays from an .npz file, without pickle.

    Args:
        path: The file.
        names: Arrays that it must have; others are read too.
        way_out: What to do about a damaged file, the end of the error.

    Raises:
        ValueError: If the file cannot be read, is damaged, or lacks an array.
    """
    import numpy as np

    check_readable(path, way_out)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy raises almost anything, and advises to unpickle
        if not _has_wrong_checksum(path):  # a damaged header may ask for any memory
            raise_shortage(error)
        raise ValueError(f"{path}: damaged, cannot be read as .npz; {way_out}") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{path}: expected arrays {', '.join(names)}, got none named {missing[0]}; {way_out}")
    return arrays


def _has_wrong_checksum(path: Path) -> bool:
    """Whether a member of a zip file is damaged, or the file is none; it takes little memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        return True


@contextmanager
def exclusive_lock(path: Path, action: str) -> Iterator[None]:
    """Hold a lock, which the system releases if the process dies; the lock file is not removed.

    Args:
        path: Lock file, in an existing folder.
        action: What the holder of the lock is doing, for the error.

    Raises:
        ValueError: If another process holds the lock.
    """
    try:
        lock = FileLock(path, timeout=0).acquire()
    except Timeout:
        raise ValueError(f"{path}: another process is {action}; wait for it or stop it") from None
    with lock:
        yield


@contextmanager
def waiting_lock(lock: FileLock, busy: str, timeout: float = -1.0) -> Iterator[None]:
    """Hold a lock, and say what is waited for if that takes more than a moment.

    Args:
        lock: The lock.
        busy: What is going on while another process holds the lock, as a sentence.
        timeout: Seconds to wait; negative: as long as it takes.

    Raises:
        Timeout: If another process still holds the lock then.
    """
    try:
        lock.acquire(timeout=min(1.0, timeout) if timeout >= 0 else 1.0)
    except Timeout:
        print(f"{busy}; waiting ...", file=sys.stderr, flush=True)
        lock.acquire(timeout=timeout)
    try:
        yield
    finally:
        lock.release()


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder has enough free bytes for ``what``, with a small margin.

    Raises:
        NoSpaceError: If it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _SPACE_MARGIN:
        raise NoSpaceError(
            f"{folder}: {what} needs {size_text(needed + _SPACE_MARGIN)}, got {size_text(free)} of free space; free "
            "some space"
        )
