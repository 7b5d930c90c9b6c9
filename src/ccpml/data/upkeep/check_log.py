"""Record of the images that a check has found readable, so that checks resume and are not repeated."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ccpml.data.images.cache_index import file_state, index_key
from ccpml.data_name import DataName
from ccpml.files import exclusive_lock

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
        self._stream: IO[str] | None = None

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
            self._stream.write(f"{json.dumps(state)}\n")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the log for writing; if the folder is not writable, print that and record in memory only.

        Raises:
            ValueError: If another process is checking the same images.
        """
        try:
            self.file.parent.mkdir(exist_ok=True)
            stream = self.file.open("a", buffering=1, encoding="ascii")  # each line is written at once
        except OSError as error:
            print(f"{self.file.parent}: cannot be written ({error.strerror}); results are not kept", file=sys.stderr)
            yield
            return
        with stream, exclusive_lock(self.file.with_suffix(".lock"), "checking these images"):
            if self.file.read_bytes()[-1:] not in {b"", b"\n"}:
                stream.write("\n")  # the last line was cut off when a check was killed
            self._stream = stream
            try:
                yield
            finally:
                self._stream = None

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
