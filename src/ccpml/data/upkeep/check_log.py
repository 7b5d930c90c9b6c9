"""Which images a check has found good, kept beside them: it goes on where it stopped, and is not made twice."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ccpml.data.images.cache_index import file_state, index_key
from ccpml.data.upkeep.disk import only_one

__all__ = ["CheckLog"]

_HOME: Final = ".ccpml-check"
_COMMIT: Final = 256  # images between two states on the disk that a killed check goes on from


class CheckLog:
    """The images of a folder that were decoded and found good: a line for each, its name, size and time of change.

    A file that was changed since is not known; one that could not be read is tried again each time.

    Args:
        folder: Folder of the images.
        name: The set as named on the command line.
    """

    def __init__(self, folder: Path, name: str) -> None:
        kind, _, path = name.partition(":")
        self.folder = folder
        self.home = folder / _HOME
        self.file = self.home / (f"{kind}-{Path(path).name}.jsonl" if kind == "csv" else f"{kind}.jsonl")
        self._good = set(self._read())
        self._stream: IO[str] | None = None
        self._waiting = 0

    def known(self, path: Path) -> bool:
        """Say whether a file was found good as it is now."""
        return self._state(path) in self._good

    def record(self, path: Path) -> None:
        """Remember that a file is good; on the disk if the log is open."""
        state = self._state(path)
        if state is None:
            return
        self._good.add(state)
        if self._stream is not None:
            self._stream.write(f"{json.dumps(state)}\n")
            self._waiting += 1
            if self._waiting == _COMMIT:
                self._stream.flush()
                self._waiting = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Write what is recorded to the disk; without it, and saying so, where the folder cannot be written to.

        Raises:
            ValueError: If another process is checking the same images.
        """
        try:
            self.home.mkdir(exist_ok=True)
            stream = self.file.open("a", encoding="ascii")
        except OSError as error:
            print(f"{self.home}: cannot be written ({error.strerror}), so nothing is remembered", file=sys.stderr)
            yield
            return
        with stream, only_one(self.file.with_suffix(".lock"), "checking these images"):
            if self.file.stat().st_size and not self._ends_whole():
                stream.write("\n")  # after a line that was cut off when a check was killed
            self._stream = stream
            try:
                yield
            finally:
                self._stream = None

    def _ends_whole(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

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
                continue  # cut off
            if isinstance(name, str):
                yield name, size, changed
