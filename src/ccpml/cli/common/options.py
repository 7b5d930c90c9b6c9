"""What the verbs share: usage errors, options, and checks before work starts."""

import argparse
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ccpml.artifacts import expand_home, mismatch, not_found
from ccpml.data_name import DataName
from ccpml.interrupts import advise_at_exit, exit_code
from ccpml.system_errors import WriteError, check_writable


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


class DataNotFoundError(UsageError):
    """There are no data where the command line says."""


def add_data_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add some of the options of verbs that read images."""
    texts = {
        "--data-root": "folder that contains cub, cars196, sop and inshop (default: $CCPML_DATA)",
        "--allow-partial": "accept an incomplete copy of a benchmark",
        "--skip-bad-images": "leave out unreadable images",
    }
    for name in names or texts:
        parser.add_argument(name, action="store" if name == "--data-root" else "store_true", help=texts[name])


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the option of verbs whose index can be on a server."""
    text = "qdrant://host:6333/collection, or qdrants:// with TLS: a collection of a qdrant server is the index"
    parser.add_argument("--store", metavar="<address>", help=text)


def find_location(directory: str | Path | None, store: str | None) -> str:
    """Return the location of an index: its directory or its address, which is checked."""
    from ccpml.serving.qdrant import Address

    if store is None:
        if directory is None:
            raise UsageError("expected the directory of an index, or --store; see --help")
        return str(directory)
    if directory is not None:
        raise UsageError(f"--store: expected it in place of a directory, got {directory} too")
    try:
        return str(Address.parse(store))
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def check_data(data: str) -> None:
    """Check that data are well named and exist."""
    try:
        name = DataName.parse(data)
    except ValueError as error:
        raise UsageError(error) from error
    path = expand_home(name.path)
    if name.path and not (path.is_dir() if name.kind == "folder" else path.is_file()):
        raise DataNotFoundError(f"{data}: {not_found(path, 'folder' if name.kind == 'folder' else 'file')}")


def check_data_root(data: str, data_root: str | None) -> None:
    """Check that data are well named and exist; those of a benchmark, in a folder that is given."""
    check_data(data)
    if DataName.parse(data).is_benchmark and not expand_home(root := find_data_root(data, data_root)).is_dir():
        raise DataNotFoundError(f"{'--data-root' if data_root else 'CCPML_DATA'}: folder {root} not found")


def check_data_of_run(data: str | None, data_root: str | None) -> None:
    """Check data that are given beside a run: None are its own, and the run may know the folder of benchmarks."""
    if data is not None:
        check_data(data)
    if data_root and (data is None or DataName.parse(data).is_benchmark) and not expand_home(data_root).is_dir():
        raise UsageError(f"--data-root: folder {data_root} not found")


def find_data_root(data: str, data_root: str | None) -> str:
    """Return the folder of a benchmark, as it is given or from the environment."""
    if root := data_root or os.environ.get("CCPML_DATA"):
        return root
    raise UsageError(f"{data}: folder not given; pass --data-root or set CCPML_DATA")


def check_output(output: Path) -> None:
    """Check that a file can be written without overwriting another, before the work is done."""
    if output.exists():
        raise UsageError(f"--output: {output} already exists; choose another name or remove it")
    check_writable_output(output)


def check_writable_output(output: Path) -> None:
    """Check that a file or folder can be made, before the work is done."""
    try:
        check_writable(output)
    except WriteError as error:
        raise UsageError(f"--output: {error}") from error


def is_index(path: Path) -> bool:
    """Whether a path is the directory of an index, perhaps a damaged one."""
    return (path / "index.sqlite").is_file() or any(path.glob("rows.*.f32"))


def check_no_address(path: Path) -> None:
    """Check that a path of an index is not the address of a collection, of which a path has lost a slash."""
    if address := re.match(r"(qdrants?):/+(.*)", str(path)):
        given = "://".join(address.groups())
        raise UsageError(
            f"{given}: expected the directory of an index, got the address of a server; pass --store {given}"
        )


def check_index(path: Path) -> None:
    """Check that a path is the directory of an index; one that is damaged is named when it is opened."""
    check_no_address(path)
    if is_index(path):
        return
    make = "ccpml index <run> <folder> -o " + ("<index>" if path.exists() else shlex.quote(str(path)))
    raise UsageError(f"{mismatch(path, 'an index', 'index.sqlite')}; `{make}` makes one")


def check_run(path: Path) -> Path:
    """Check that a path is a run directory, and return it."""
    if not (path / "experiment.yaml").is_file():
        raise UsageError(mismatch(path, "a run directory", "experiment.yaml"))
    return path


def check_each_once(what: str, paths: Sequence[Path]) -> None:
    """Check that no run or exported model is given twice."""
    if paths:
        path, times = Counter(path.resolve() for path in paths).most_common(1)[0]
        if times > 1:
            raise UsageError(f"{what}: expected each once, got {path} {'twice' if times == 2 else f'{times} times'}")


def report_stop(stopped: BaseException, arguments: list[str], kept: str = "") -> int:
    """Print how to resume after Ctrl-C or another such signal; return the exit code."""
    print(f"ccpml: {str(stopped) or 'interrupted'}; {kept}{resume_advice(arguments)}", file=sys.stderr)
    return exit_code(stopped)


def advise_to_resume(arguments: list[str], file: Path, kept: str = "") -> None:
    """Print how to resume also where a signal exits at once, if there is the file that resuming needs."""
    advise_at_exit(lambda: f"{kept}{resume_advice(arguments)}" if file.is_file() else "")


def resume_advice(arguments: list[str]) -> str:
    """Return the words about how to resume."""
    return f"resume with: {shlex.join(['ccpml', *arguments])}"


def add_resume_note(error: BaseException, arguments: list[str]) -> None:
    """Add to an error, whose sentence says what to do about it, how to resume then."""
    error.add_note(f"then {resume_advice(arguments)}")
