"""What the system refuses is named as it is, although SQLite keeps its errors to itself."""

import errno
import os
import re
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ccpml.cli.common.hints import describe
from ccpml.serving import Index
from ccpml.serving.errors import NotAnIndexError, name_sqlite_errors
from tests.serving.changes import EMBEDDER, change, check_search, state_of

FILES = re.compile(r".+Too many open files\)?; allow more open files \(ulimit -n\)")
SIZE = re.compile(r".+: cannot be written \(File too large\); allow larger files \(ulimit -f\)")


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@contextmanager
def open_files(free: int) -> Iterator[None]:
    """Allow a number of further files within the block."""
    last = max(int(link.name) for link in Path("/proc/self/fd").iterdir())
    numbers = [os.open(os.devnull, os.O_RDONLY)]
    while numbers[-1] < last:  # the limit is one of numbers
        numbers.append(os.open(os.devnull, os.O_RDONLY))
    try:
        with limited(resource.RLIMIT_NOFILE, numbers[-1] + 1 + free):
            yield
    finally:
        for number in numbers:
            os.close(number)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    with Index.create(tmp_path / "index", EMBEDDER) as made:
        change(made, "add", [0, 1, 2, 3], 1)
    return tmp_path / "index"


def sentence_of(work: Callable[[], object]) -> str:
    """The sentence of the error that some work ends with; empty if it ends well."""
    try:
        work()
    except Exception as error:  # any: its sentence is compared
        return describe(error)
    return ""


@pytest.mark.parametrize("free", range(6))
def test_too_many_open_files_are_named(index: Path, free: int, tmp_path: Path) -> None:
    with open_files(free):
        sentences = [
            sentence_of(lambda: Index.open(index, EMBEDDER).close()),
            sentence_of(lambda: Index.create(tmp_path / "new", EMBEDDER).close()),
        ]
    assert all(sentences) or free > 2
    assert all(FILES.fullmatch(each) for each in sentences if each)
    assert sound(index) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_files_that_may_not_grow_are_named(index: Path, tmp_path: Path) -> None:
    with limited(resource.RLIMIT_FSIZE, 2000):
        opening = sentence_of(lambda: Index.open(index, EMBEDDER).close())
        making = sentence_of(lambda: Index.create(tmp_path / "new", EMBEDDER).close())
    with Index.open(index, EMBEDDER) as opened, limited(resource.RLIMIT_FSIZE, 60_000):
        adding = sentence_of(lambda: change(opened, "add", range(4, 30), 1))
    assert [each for each in (opening, making, adding) if not SIZE.fullmatch(each)] == []
    assert sound(index).items() >= {0: 1, 1: 1, 2: 1, 3: 1}.items()


def test_a_database_that_cannot_be_read_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorname = "SQLITE_CANTOPEN"
    monkeypatch.setattr(Path, "open", refuse)
    message = r"index\.sqlite: cannot be read \(Permission denied\); change its permissions$"
    with pytest.raises(NotAnIndexError, match=message), name_sqlite_errors(index / "index.sqlite"):
        raise error


def sound(path: Path) -> dict[int, int]:
    """The state of an index; checks that nothing is damaged and that a search finds it."""
    with Index.open(path, EMBEDDER) as opened:
        assert opened.verify().problems == []
        state = state_of(opened)
        check_search(opened, state)
        return state
