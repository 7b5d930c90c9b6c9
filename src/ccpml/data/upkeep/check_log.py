"""Record of the images that a check has found readable, so that checks resume and are not repeated."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from ccpml.data.images.cache_index import file_state, index_key
from ccpml.data.images.read import MAX_LISTED
from ccpml.data_name import DataName
from ccpml.files import exclusive_lock, write_text

__all__ = ["CheckLog"]

_FOLDER: Final = ".ccpml-check"


class CheckLog:
    """The readable images of a set in a folder: one line for each with name, size and time of last change.

    Files that have changed since are not known. Unreadable files are not recorded, so that they are tried again.
    """

    def __init__(self, folder: Path, name: DataName) -> None:
        self.folder = folder
        self.file = folder / _FOLDER / f"{name.file_stem}.jsonl"
        self._readable = set(self._read())
        self._stream: IO[bytes] | None = None

    def known(self, path: Path) -> bool:
        """Whether a file in its present state was found readable."""
        return self._state(path) in self._readable

    def record(self, path: Path) -> None:
        """Record that a file is readable, on disk too if the log is open."""
        state = self._state(path)
        if state is None:
            return
        self._readable.add(state)
        if self._stream is not None:
            try:
                self._stream.write(f"{json.dumps(state)}\n".encode())  # at once, so that a killed check resumes
            except OSError as error:
                self._report(error)
                self._stream = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the log for writing; if it cannot be written, print that and record in memory only.

        Raises:
            ValueError: If another process is checking the same images.
        """
        with ExitStack() as stack:
            try:
                self.file.parent.mkdir(exist_ok=True)
                stream = stack.enter_context(self.file.open("ab", buffering=0))
                stack.enter_context(exclusive_lock(self.file.with_suffix(".lock"), "checking these images"))
                if self.file.read_bytes()[-1:] not in {b"", b"\n"}:
                    stream.write(b"\n")  # the last line was cut off when a check was killed
                self._stream = stream
            except OSError as error:
                self._report(error)
            try:
                yield
            finally:
                self._stream = None

    def write_list(self, name: str, lines: Sequence[str]) -> Path | None:
        """Write a list that is too long for a message beside the log; None if it is short or cannot be written."""
        file = self.file.with_name(f"{self.file.stem}-{name}.txt")
        try:
            if len(lines) > MAX_LISTED:
                write_text(file, "\n".join([*lines, ""]))
                return file
            file.unlink(missing_ok=True)  # an earlier list
        except OSError as error:
            self._report(error)
        return None

    def _report(self, error: OSError) -> None:
        path = error.filename or self.file.parent
        print(f"{path}: cannot be written ({error.strerror}); results are not kept", file=sys.stderr)

    def _state(self, path: Path) -> tuple[str, int, int] | None:
        state = file_state(path)
        return None if state is None else (index_key(path, self.folder), *state)

    def _read(self) -> Iterator[tuple[str, int, int]]:
        try:
            lines = self.file.read_bytes().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                name, size, changed = json.loads(line)
            except (ValueError, TypeError):
                continue  # a line that was cut off
            if isinstance(name, str):
                yield name, size, changed
